"""A scatter plot of the durations of traces. No I/O."""

import math
from itertools import count, takewhile
from typing import NamedTuple

from explorer.store import TraceSummary

MIN_SCATTER_TIME = 8 * 10**9  # nanoseconds


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


def scatter(traces: list[TraceSummary]) -> Scatter:
    if not traces:
        return Scatter([], [], [])
    first, last = min(trace.start for trace in traces), max(trace.start for trace in traces)
    # Tick labels show seconds: five ticks in eight seconds or more never have the same label.
    padding = max(MIN_SCATTER_TIME - (last - first), 0) // 2
    first, last = first - padding, last + padding
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
    )


def _round_step(smallest: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that is at least `smallest`."""
    power: int = 10 ** math.floor(math.log10(smallest)) if smallest >= 1 else 1
    return next(step * power for step in (1, 2, 5, 10) if step * power >= smallest)
