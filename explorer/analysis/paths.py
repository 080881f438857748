"""Sets of traces by operation path: the comparison of two sets, and the aggregate flame graph of one. No I/O.

A path is the operations from a root span down to a span. Spans with the same path are one node: they are added up,
within a trace and over all traces of a set.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import NamedTuple

from explorer.analysis.spans import Operation, Span, Trace

MAX_PATHS = 1_000
MAX_DEPTH = 200  # operations: spans further down are not shown

Path = tuple[Operation, ...]


class Figures(NamedTuple):
    """What one side has of a path. Durations and self times are milliseconds, of spans; None without spans."""

    traces: int  # with the path
    spans: int
    spans_per_trace: float  # of all traces of the side
    errors: int  # failed spans
    median_ms: float | None
    p95_ms: float | None
    self_median_ms: float | None
    self_p95_ms: float | None
    self_ms_per_trace: float  # the mean over all traces of the side


class ComparedPath(NamedTuple):
    """A row of a call tree. Rows are depth first: a row's parent is the last one before it with a shorter path."""

    path: Path
    first: Figures
    second: Figures

    @property
    def self_difference(self) -> float:
        """By how many milliseconds a trace of the second side spends more in the path itself, on average."""
        return self.second.self_ms_per_trace - self.first.self_ms_per_trace


@dataclass(kw_only=True)
class Frame:
    """A frame of a flame graph: all spans of a path. Times are milliseconds, summed over all spans of all traces.

    `total_ms` is the self time of the frame and of all frames above it in the graph, so that a frame is as wide as its
    parts. `duration_ms` is the sum of the spans' durations: it is less than `total_ms` where children ran at the same
    time or outlived their parent.
    """

    operation: Operation
    spans: int = 0
    errors: int = 0
    self_ms: float = 0.0
    total_ms: float = 0.0
    duration_ms: float = 0.0
    children: list["Frame"] = field(default_factory=list)  # the widest first


def compare(first: Sequence[Trace], second: Sequence[Trace]) -> list[ComparedPath]:
    """The call trees of both sets, aligned by path; siblings are in the order in which they usually start.

    At most MAX_PATHS rows: the paths with most spans, each with all paths above it.
    """
    sides = _by_path(first), _by_path(second)
    shown = _most_frequent(sides)
    starts = {path: median(visit.offset for side in sides for visit in side.get(path, ())) for path in shown}

    def place(path: Path) -> list[tuple[float, Path]]:
        return [(starts[path[:depth]], path[:depth]) for depth in range(1, len(path) + 1)]

    return [
        ComparedPath(path, _figures(sides[0].get(path, ()), len(first)), _figures(sides[1].get(path, ()), len(second)))
        for path in sorted(shown, key=place)
    ]


def _figures(visits: "Sequence[_Visit]", of: int) -> Figures:
    """`of`: the number of traces of the side."""
    spans = [visit.span for visit in visits]
    durations, self_times = [span.duration / 1e6 for span in spans], [span.self_time / 1e6 for span in spans]
    return Figures(
        traces=len({span.trace_id for span in spans}),
        spans=len(spans),
        spans_per_trace=len(spans) / of if of else 0.0,
        errors=sum(span.failed for span in spans),
        median_ms=median(durations) if spans else None,
        p95_ms=_p95(durations),
        self_median_ms=median(self_times) if spans else None,
        self_p95_ms=_p95(self_times),
        self_ms_per_trace=sum(self_times) / of if of else 0.0,
    )


def _p95(numbers: Sequence[float]) -> float | None:
    """As PostgreSQL's percentile_cont."""
    return quantiles(numbers, n=20, method="inclusive")[-1] if len(numbers) > 1 else next(iter(numbers), None)


def flame_graph(traces: Sequence[Trace]) -> list[Frame]:
    """The root frames, the widest first, with at most MAX_PATHS frames in all."""
    by_path = _by_path(traces)
    frames: dict[Path, Frame] = {}
    roots: list[Frame] = []
    for path in sorted(_most_frequent((by_path,)), key=len):
        spans = [visit.span for visit in by_path[path]]
        frame = frames[path] = Frame(
            operation=path[-1],
            spans=len(spans),
            errors=sum(span.failed for span in spans),
            self_ms=sum(span.self_time for span in spans) / 1e6,
            duration_ms=sum(span.duration for span in spans) / 1e6,
        )
        (frames[path[:-1]].children if len(path) > 1 else roots).append(frame)
    for path in sorted(frames, key=len, reverse=True):
        frame = frames[path]
        frame.children.sort(key=_width)
        frame.total_ms = frame.self_ms + sum(child.total_ms for child in frame.children)
    return sorted(roots, key=_width)


def _width(frame: Frame) -> tuple[float, Operation]:
    return -frame.total_ms, frame.operation


class _Visit(NamedTuple):
    """A span, and how many nanoseconds after its root span it starts."""

    span: Span
    offset: int


def _by_path(traces: Sequence[Trace]) -> dict[Path, list[_Visit]]:
    by_path: dict[Path, list[_Visit]] = defaultdict(list)
    for trace in traces:
        for root in trace.roots:
            stack: list[tuple[Path, Span]] = [((root.operation,), root)]
            while stack:
                path, span = stack.pop()
                by_path[path].append(_Visit(span, span.start - root.start))
                if len(path) < MAX_DEPTH:
                    stack += [((*path, child.operation), child) for child in span.children]
    return by_path


def _most_frequent(sides: Sequence[Mapping[Path, Sequence[_Visit]]]) -> set[Path]:
    spans = Counter({path: sum(len(side.get(path, ())) for side in sides) for path in set().union(*sides)})
    shown: set[Path] = set()
    for path in sorted(spans, key=lambda path: (-spans[path], path)):
        above = {path[:depth] for depth in range(1, len(path) + 1)} - shown
        if len(shown) + len(above) <= MAX_PATHS:
            shown |= above
    return shown
