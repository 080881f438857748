"""Traces as rows of spans, and the trees that they form. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from explorer.trace import uncovered

Operation = tuple[str, str]  # service, span name


@dataclass(eq=False, slots=True, kw_only=True)
class Span:
    """A span of the view `span`. `traces` sets its children, sorted by their start, and its self time.

    Times are nanoseconds since 1970; the view rounds starts to microseconds. A span that ends before it starts has a
    duration of zero.
    """

    trace_id: str  # 32 hex digits
    span_id: int
    parent_span_id: int | None
    service: str
    name: str
    start: int
    end: int
    failed: bool
    tags: dict[str, Any]
    resource_tags: dict[str, Any]
    children: list["Span"] = field(default_factory=list)
    self_time: int = 0  # nanoseconds in which none of its children ran

    @property
    def operation(self) -> Operation:
        return self.service, self.name

    @property
    def duration(self) -> int:
        return self.end - self.start

    @property
    def begins_error(self) -> bool:
        """The span has failed, and none of its children has: as in the statement error_origins."""
        return self.failed and not any(child.failed for child in self.children)


class Trace(NamedTuple):
    """The spans of one trace. Roots are the spans whose parent is not among them."""

    id: str
    spans: list[Span]
    roots: list[Span]


def traces(spans: Iterable[Span]) -> list[Trace]:
    """The spans by their traces, sorted by trace id, with the children of each.

    A span in a cycle of parents (invalid data) is below no root.
    """
    ordered = sorted(spans, key=attrgetter("trace_id", "start", "span_id"))
    return [_trace(trace_id, list(group)) for trace_id, group in groupby(ordered, attrgetter("trace_id"))]


def _trace(trace_id: str, spans: list[Span]) -> Trace:
    by_id = {span.span_id: span for span in reversed(spans)}
    roots: list[Span] = []
    for span in spans:
        parent = None if span.parent_span_id == span.span_id else by_id.get(span.parent_span_id or 0)
        (roots if parent is None else parent.children).append(span)
    for span in spans:
        span.self_time = span.duration
        if span.children:
            children = ((child.start, child.end) for child in span.children)
            span.self_time = sum(end - start for start, end in uncovered(span.start, span.end, children))
    return Trace(trace_id, spans, roots)
