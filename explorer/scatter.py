"""A scatter plot of the durations of traces. No I/O."""

import math
from collections.abc import Sequence
from datetime import UTC
from itertools import count, takewhile
from typing import Any, NamedTuple

from markupsafe import Markup

from explorer import changes, svg
from explorer.store import TraceSummary

MIN_SCATTER_TIME = 8 * 10**9  # nanoseconds
_STEPS = 1000  # of the cursor
_LABELLED_WIDTH = 700  # pixels of the plot area in the narrowest window in which search.css shows labels of changes


class Dot(NamedTuple):
    trace: TraceSummary
    x: float  # per cent
    y: float  # per cent, from the top
    radius: float  # pixels


class Scatter(NamedTuple):
    """A scatter plot of durations over time. Dots: the largest first, so that all can be clicked. Ticks: (per cent,
    nanoseconds)."""

    dots: list[Dot]
    times: list[tuple[float, int]]
    durations: list[tuple[float, int]]
    marks: Markup  # of changes
    label: str
    data: dict[str, Any]  # what charts.js needs besides the place of the plot area


def time_range(traces: Sequence[TraceSummary]) -> tuple[int, int]:
    """Begin and end of the time axis for at least one trace, in microseconds since 1970."""
    first, last = _first_and_last(traces)
    margin = (last - first) // 48
    return (first - margin) // 1000, (last + margin) // 1000


def scatter(traces: Sequence[TraceSummary], marks: Sequence[svg.Change]) -> Scatter:
    """The plot of at least one trace, with a mark for each change."""
    first, last = _first_and_last(traces)
    begin, end = time_range(traces)
    times = svg.TimeAxis(begin, end, UTC, marks)
    words = changes.in_words(times)
    longest = max(trace.duration for trace in traces)
    step = _round_step(longest / 4 or 1)
    top = max(math.ceil(longest / step), 1) * step
    most_spans = max(trace.spans for trace in traces)
    dots = [
        Dot(
            trace=trace,
            x=round(2 + 96 * (trace.start - first) / (last - first), 2),
            y=round(100 - 100 * trace.duration / top, 2),
            radius=round(4 + 7 * math.sqrt(trace.spans / most_spans), 1),
        )
        for trace in traces
    ]
    return Scatter(
        dots=sorted(dots, key=lambda dot: -dot.radius),
        times=[(2 + 24 * tick, first + (last - first) * tick // 4) for tick in range(5)],
        durations=[(100 - 100 * tick / top, tick) for tick in takewhile(lambda tick: tick <= top, count(0, step))],
        marks=svg.changes(times, _LABELLED_WIDTH),
        label="Duration of each trace over time" + (f", in UTC{words}" if words else ""),
        data=svg.time_data(times, svg.Steps(begin, (end - begin) // _STEPS)),
    )


def _first_and_last(traces: Sequence[TraceSummary]) -> tuple[int, int]:
    first, last = min(trace.start for trace in traces), max(trace.start for trace in traces)
    # Tick labels show seconds: five ticks in eight seconds or more never have the same label.
    padding = max(MIN_SCATTER_TIME - (last - first), 0) // 2
    return first - padding, last + padding


def _round_step(smallest: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that is at least `smallest`."""
    power: int = 10 ** math.floor(math.log10(smallest)) if smallest >= 1 else 1
    return next(step * power for step in (1, 2, 5, 10) if step * power >= smallest)
