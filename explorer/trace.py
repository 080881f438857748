"""From the OTLP spans of one trace to what its page shows: their tree, self times and the critical path. No I/O.

Times are nanoseconds, as spans have them: clocks that disagree are left alone. A span that ends before it starts is
taken to last no time.
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
_CALLEES = (trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CONSUMER)

Interval = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Process:
    """Where spans came from: one resource and one scope."""

    service: str
    resource: Resource
    scope: InstrumentationScope


@dataclass(eq=False, slots=True)
class Span:
    """One span in its trace's tree. `critical` are the parts of its time that the whole trace waited for it."""

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
    def is_orphan(self) -> bool:
        """It names a parent, and has none here."""
        return bool(self.otlp.parent_span_id) and self.parent is None

    @property
    def own(self) -> list[Interval]:
        """The parts of its time in which none of its children ran: its self time."""
        parts, since = [], self.start
        for child in self.children:  # by their start
            if child.start > since:
                parts.append((since, min(child.start, self.end)))
            since = max(since, child.end)
            if since >= self.end:
                return parts
        if self.end > since:
            parts.append((since, self.end))
        return parts


class Trace:
    """The spans of one trace in the order of a waterfall: each after its parent, siblings by their start."""

    def __init__(self, chunks: Iterable[TracesData]) -> None:
        spans = sorted(_spans(chunks), key=lambda span: (span.start, -span.end, span.otlp.span_id))
        self.roots = _grow(spans)
        self.spans = _in_order(self.roots)
        self.start = min((span.start for span in spans), default=0)
        self.end = max((span.end for span in spans), default=0)
        _find_critical_path(self.roots, self.start, self.end)

    @property
    def depth(self) -> int:
        """How many spans lie one in the other at the most."""
        return max((span.depth for span in self.spans), default=-1) + 1

    @property
    def processes(self) -> list[Process]:
        """In the order of their first span."""
        return list(dict.fromkeys(span.process for span in self.spans))

    @cached_property
    def services(self) -> dict[str, int]:
        """How many spans each service has, in the order of their first."""
        counts: dict[str, int] = defaultdict(int)
        for span in self.spans:
            counts[span.process.service] += 1
        return dict(counts)


def service_name(resource: Resource) -> str:
    names = (item.value.string_value for item in resource.attributes if item.key == "service.name")
    return next(names, "") or UNKNOWN_SERVICE


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


def _grow(spans: list[Span]) -> list[Span]:
    """Tie children, in the given order, to their parents; the roots.

    A span without a parent here is a root, and so is the first span of a ring of parents.
    """
    callees, others = _first_by_id(spans, of_callees=True), _first_by_id(spans, of_callees=False)
    for span in spans:
        span.parent = _parent(span, callees, others)
    reached: set[Span] = set()
    for span in spans:
        path: dict[Span, None] = {}
        while span is not None and span not in reached and span not in path:
            path[span] = None
            span = span.parent
        if span in path:
            ring = list(path)[list(path).index(span) :]
            min(ring, key=lambda each: each.start).parent = None
        reached.update(path)
    for span in spans:
        if span.parent is not None:
            span.parent.children.append(span)
    return [span for span in spans if span.parent is None]


def _first_by_id(spans: list[Span], of_callees: bool) -> dict[bytes, Span]:
    return {span.otlp.span_id: span for span in reversed(spans) if (span.otlp.kind in _CALLEES) == of_callees}


def _parent(span: Span, callees: dict[bytes, Span], others: dict[bytes, Span]) -> Span | None:
    """Spans may share an id, as a call's two sides do in Zipkin: then the callee is the caller's child, and what it
    did is its own, not the caller's.
    """
    if span.otlp.kind in _CALLEES and (caller := others.get(span.otlp.span_id)):
        return caller
    parents = (by_id.get(span.otlp.parent_span_id) for by_id in (callees, others))
    return next((parent for parent in parents if parent not in (None, span)), None)


def _in_order(roots: list[Span]) -> list[Span]:
    ordered, waiting = [], roots[::-1]
    while waiting:
        span = waiting.pop()
        span.depth = span.parent.depth + 1 if span.parent else 0
        ordered.append(span)
        waiting += reversed(span.children)
    return ordered


def _find_critical_path(roots: list[Span], start: int, end: int) -> None:
    """Walk back from the end: a span waits for its child that ends last, before that for the one that had ended last
    when this one started, and so on; between them it is itself what is waited for.
    """
    # Each entry: whose children, and the time that they are looked at. The roots are children of the trace.
    waiting: list[tuple[Span | None, list[Span], int, int]] = [(None, roots, start, end)]
    while waiting:
        span, children, since, until = waiting.pop()
        for child in sorted(children, key=lambda child: child.end, reverse=True):
            child_start, child_end = max(child.start, since), min(child.end, end if span is None else span.end)
            if child_start < child_end <= until:
                if span and child_end < until:
                    span.critical.append((child_end, until))
                waiting.append((child, child.children, child_start, child_end))
                until = child_start
        if span and since < until:
            span.critical.append((since, until))
