"""From the OTLP spans of one trace to what its page shows: the tree, self times and the critical path. No I/O.

Times are nanoseconds as the spans have them: there is no clock-skew adjustment. A span that ends before it starts has
a duration of zero.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from promscale.otlp import UNKNOWN_SERVICE

_ERROR = trace_pb2.Status.STATUS_CODE_ERROR
_CALLEE_KINDS = (trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CONSUMER)

Interval = tuple[int, int]  # start, end


@dataclass(frozen=True, eq=False)
class Process:
    """The origin of spans, as in Jaeger's data model: a resource and an instrumentation scope."""

    service: str
    resource: Resource
    scope: InstrumentationScope


@dataclass(eq=False, slots=True)
class Span:
    """A span in the tree of its trace. `critical` are its intervals on the trace's critical path."""

    otlp: trace_pb2.Span
    process: Process
    start: int
    end: int
    parent: "Span | None" = None
    children: list["Span"] = field(default_factory=list)
    depth: int = 0
    critical: list[Interval] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.otlp.status.code == _ERROR

    @property
    def operation(self) -> tuple[str, str]:
        """Service and span name."""
        return self.process.service, self.otlp.name

    @property
    def is_orphan(self) -> bool:
        """The span names a parent, which the trace does not contain."""
        return bool(self.otlp.parent_span_id) and self.parent is None

    @property
    def own(self) -> list[Interval]:
        """The span's self time: the intervals in which none of its children ran."""
        return uncovered(self.start, self.end, ((child.start, child.end) for child in self.children))


def uncovered(start: int, end: int, intervals: Iterable[Interval]) -> list[Interval]:
    """The parts from `start` to `end` that are in none of the intervals, which must be sorted by their start."""
    parts, since = [], start
    for interval_start, interval_end in intervals:
        if interval_start > since:
            parts.append((since, min(interval_start, end)))
        since = max(since, interval_end)
        if since >= end:
            return parts
    if end > since:
        parts.append((since, end))
    return parts


@dataclass
class Operation:
    """The spans of one trace with the same service and name. Times are sums in nanoseconds."""

    service: str
    name: str
    count: int = 0
    self_time: int = 0
    critical_time: int = 0
    errors: int = 0


class Trace:
    """The spans of one trace in the order of a waterfall: depth first, siblings by their start."""

    def __init__(self, chunks: Iterable[TracesData]) -> None:
        spans = sorted(_spans(chunks), key=lambda span: (span.start, -span.end, span.otlp.span_id))
        self.roots = _link_parents(spans)
        self.spans = _depth_first(self.roots)
        self.start = min((span.start for span in spans), default=0)
        self.end = max((span.end for span in spans), default=0)
        _find_critical_path(self.roots, self.start, self.end)

    @property
    def depth(self) -> int:
        """The number of levels of the tree."""
        return max((span.depth for span in self.spans), default=-1) + 1

    @property
    def processes(self) -> list[Process]:
        """In the order of their first spans."""
        return list(dict.fromkeys(span.process for span in self.spans))

    @cached_property
    def services(self) -> dict[str, int]:
        """The number of spans of each service, in the order of their first spans."""
        counts: dict[str, int] = defaultdict(int)
        for span in self.spans:
            counts[span.process.service] += 1
        return dict(counts)

    @cached_property
    def operations(self) -> dict[tuple[str, str], Operation]:
        """By service and span name, in the order of their first spans."""
        operations: dict[tuple[str, str], Operation] = {}
        for span in self.spans:
            key = span.operation
            operation = operations.setdefault(key, Operation(*key))
            operation.count += 1
            operation.self_time += _length(span.own)
            operation.critical_time += _length(span.critical)
            operation.errors += span.failed
        return operations


def service_name(resource: Resource) -> str:
    names = (item.value.string_value for item in resource.attributes if item.key == "service.name")
    return next(names, "") or UNKNOWN_SERVICE


def _length(intervals: Iterable[Interval]) -> int:
    return sum(end - start for start, end in intervals)


def _spans(chunks: Iterable[TracesData]) -> Iterable[Span]:
    processes: dict[tuple[bytes, bytes], Process] = {}
    for chunk in chunks:
        for resource_spans in chunk.resource_spans:
            resource = resource_spans.resource
            for scope_spans in resource_spans.scope_spans:
                scope = scope_spans.scope
                process = processes.setdefault(
                    (resource.SerializeToString(deterministic=True), scope.SerializeToString(deterministic=True)),
                    Process(service_name(resource), resource, scope),
                )
                for span in scope_spans.spans:
                    start = span.start_time_unix_nano
                    yield Span(span, process, start, max(start, span.end_time_unix_nano))


def _link_parents(spans: list[Span]) -> list[Span]:
    """Set the parent and the children of each span, and return the roots.

    Roots are the spans whose parent is missing, and the first span of each cycle of parents.
    """
    callees, others = _first_by_id(spans, of_callees=True), _first_by_id(spans, of_callees=False)
    for span in spans:
        span.parent = _parent(span, callees, others)
    _break_cycles(spans)
    for span in spans:
        if span.parent is not None:
            span.parent.children.append(span)
    return [span for span in spans if span.parent is None]


def _break_cycles(spans: list[Span]) -> None:
    seen: set[Span] = set()
    for span in spans:
        path: dict[Span, None] = {}
        ancestor: Span | None = span
        while ancestor is not None and ancestor not in seen and ancestor not in path:
            path[ancestor] = None
            ancestor = ancestor.parent
        if ancestor in path:
            cycle = list(path)[list(path).index(ancestor) :]
            min(cycle, key=lambda member: member.start).parent = None
        seen.update(path)


def _first_by_id(spans: list[Span], of_callees: bool) -> dict[bytes, Span]:
    return {span.otlp.span_id: span for span in reversed(spans) if (span.otlp.kind in _CALLEE_KINDS) == of_callees}


def _parent(span: Span, callees: dict[bytes, Span], others: dict[bytes, Span]) -> Span | None:
    """The span's parent in the trace.

    In Zipkin's model, the client and the server span of a call can share one id. Then the server span is the child of
    the client span, and spans that name this id as their parent are children of the server span.
    """
    if span.otlp.kind in _CALLEE_KINDS and (caller := others.get(span.otlp.span_id)):
        return caller
    parents = (by_id.get(span.otlp.parent_span_id) for by_id in (callees, others))
    return next((parent for parent in parents if parent not in (None, span)), None)


def _depth_first(roots: list[Span]) -> list[Span]:
    ordered, stack = [], roots[::-1]
    while stack:
        span = stack.pop()
        span.depth = span.parent.depth + 1 if span.parent else 0
        ordered.append(span)
        stack += reversed(span.children)
    return ordered


def _find_critical_path(roots: list[Span], start: int, end: int) -> None:
    """Set `critical` of all spans: the intervals whose shortening would have shortened the trace.

    Walks back from the trace's end. A span waits for the child that ends last; before that child's start, for the child
    that ended last by then, and so on. Between these children, the span itself is on the critical path.
    """
    # A span, its children, and the interval in which they are looked at; None stands for the parent of the roots.
    stack: list[tuple[Span | None, list[Span], int, int]] = [(None, roots, start, end)]
    while stack:
        span, children, since, until = stack.pop()
        for child in sorted(children, key=lambda child: child.end, reverse=True):
            child_start, child_end = max(child.start, since), min(child.end, end if span is None else span.end)
            if child_start < child_end <= until:
                if span and child_end < until:
                    span.critical.append((child_end, until))
                stack.append((child, child.children, child_start, child_end))
                until = child_start
        if span and since < until:
            span.critical.append((since, until))
