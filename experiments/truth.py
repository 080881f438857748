"""The ground truth of single spans: on which spans faults took effect, and how far each effect reaches. No I/O."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

# Of the clock of a span's parent, in the same process or another one.
TOLERANCE = timedelta(milliseconds=1)


class Span(NamedTuple):
    """A row of the statement `affected`. `effects` are lists of flag, variant, added milliseconds, error message."""

    trace_id: str  # 32 hex digits
    span_id: int
    parent_span_id: int | None
    service: str
    operation: str
    start: datetime
    end: datetime
    failed: bool
    effects: list[list[Any]] | None

    @property
    def place(self) -> str:
        """The operation in the notation of answers."""
        return f"{self.service}/{self.operation}"


class AffectedSpan(NamedTuple):
    """A fault took effect on a span: one object of affected_spans.jsonl. Ids are hex digits, as in OTLP."""

    trace_id: str
    span_id: str
    service: str
    operation: str
    start_time: str  # ISO 8601, UTC
    phase: str
    fault: str
    variant: str
    injected: bool  # the phase has the fault, and the normal phase does not have it in this variant
    added_ms: float  # that the fault has added to the span itself
    error: str  # the message of the error by which the fault made the span fail
    cause: str  # service/operation
    # From the span up to the last ancestor that the effect reaches, as far as it is known: service/operation, and ids.
    path: list[str]
    path_span_ids: list[str]
    reaches_root: bool


def affected_spans(spans: Iterable[Span], phase: str, injected: Mapping[str, str]) -> Iterator[AffectedSpan]:
    """One for each span and fault that took effect on it. The spans are sorted by trace id.

    An error reaches the ancestors that have failed, one after the other. Any other effect reaches the ancestors that
    end no earlier than the one before: those that have waited for it.
    """
    for _, trace in groupby(spans, attrgetter("trace_id")):
        by_id = {span.span_id: span for span in trace}
        for span in by_id.values():
            for (flag, variant), effects in _by_fault(span.effects or []).items():
                error = next((message for _, message in effects if message), "")
                path = list(_path(span, by_id, by_error=bool(error)))
                yield AffectedSpan(
                    trace_id=span.trace_id,
                    span_id=_hex(span.span_id),
                    service=span.service,
                    operation=span.operation,
                    start_time=span.start.isoformat(),
                    phase=phase,
                    fault=flag,
                    variant=variant,
                    injected=injected.get(flag) == variant,
                    added_ms=sum(added_ms or 0.0 for added_ms, _ in effects),
                    error=error,
                    cause=span.place,
                    path=[reached.place for reached in path],
                    path_span_ids=[_hex(reached.span_id) for reached in path],
                    reaches_root=path[-1].parent_span_id is None,
                )


def _by_fault(effects: Iterable[list[Any]]) -> dict[tuple[str, str], list[tuple[float | None, str | None]]]:
    """The effects by flag and variant: a fault may take effect on a span more than once."""
    by_fault: dict[tuple[str, str], list[tuple[float | None, str | None]]] = {}
    for flag, variant, added_ms, error in effects:
        by_fault.setdefault((flag, variant), []).append((added_ms, error))
    return by_fault


def _path(span: Span, by_id: Mapping[int, Span], by_error: bool) -> Iterator[Span]:
    reached = set()
    current: Span | None = span
    while current and current.span_id not in reached:  # invalid data may have a cycle
        yield current
        reached.add(current.span_id)
        parent = by_id.get(current.parent_span_id or 0)
        is_reached = parent and (parent.failed if by_error else parent.end >= current.end - TOLERANCE)
        current = parent if is_reached else None


def _hex(span_id: int) -> str:
    return f"{span_id & (2**64 - 1):016x}"
