"""What the browser needs to draw a trace and to show the details of each span, as JSON. No I/O.

Texts of spans can have any length, so each is cut to what a person may want to read; Jaeger's API has all of them.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from explorer.trace import Interval, Operation, Process, Span, Trace
from promscale.otlp import SPAN_KINDS, STATUS_CODES, plain

# Limits in characters: of all values of a page together, and of one value at least and at most.
PAGE_CHARACTERS = 20_000_000
MIN_CHARACTERS, MAX_CHARACTERS = 100, 10_000
MAX_NAME = 500
MAX_ITEMS = 200  # attributes, events or links of one span

Json = dict[str, Any]


def waterfall(trace: Trace, colours: dict[str, int]) -> bytes:
    """JSON. Times are nanoseconds since the trace's start; intervals are flat: start, end, start, end, ...

    The start is a text, because JavaScript's numbers do not have all digits of nanoseconds since 1970.
    """
    processes = {process: number for number, process in enumerate(trace.processes)}
    services = {service: number for number, service in enumerate(trace.services)}
    operations = {operation: number for number, operation in enumerate(trace.operations)}
    limit = max(MIN_CHARACTERS, min(MAX_CHARACTERS, PAGE_CHARACTERS // (1 + _count_values(trace.spans))))
    page = {
        "start": str(trace.start),
        "duration": trace.end - trace.start,
        "services": [{"name": cut(service, MAX_NAME), "colour": colours[service]} for service in services],
        "operations": [_operation(operation, services[operation.service]) for operation in trace.operations.values()],
        "processes": [_process(process, limit) for process in processes],
        "spans": [
            _span(span, trace.start, limit)
            | {"process": processes[span.process], "operation": operations[span.operation]}
            for span in trace.spans
        ],
    }
    return orjson.dumps(page)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters of the text, the last of them an ellipsis if there are more."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _count_values(spans: Iterable[Span]) -> int:
    return sum(
        len(span.otlp.attributes)
        + sum(len(event.attributes) for event in span.otlp.events)
        + sum(len(link.attributes) for link in span.otlp.links)
        for span in spans
    )


def _process(process: Process, limit: int) -> Json:
    return {
        "resource": _attributes(process.resource.attributes, limit),
        "scope": " ".join(filter(None, (cut(process.scope.name, MAX_NAME), cut(process.scope.version, MAX_NAME)))),
        "scopeAttributes": _attributes(process.scope.attributes, limit),
    }


def _operation(operation: Operation, service: int) -> Json:
    return {
        "service": service,
        "name": cut(operation.name, MAX_NAME),
        "count": operation.count,
        "selfTime": operation.self_time,
        "criticalTime": operation.critical_time,
        "errors": operation.errors,
    }


def _span(span: Span, start: int, limit: int) -> Json:
    otlp = span.otlp
    return {
        "id": otlp.span_id.hex(),
        "parent": otlp.parent_span_id.hex(),
        "orphan": span.is_orphan,
        "depth": span.depth,
        "start": span.start - start,
        "duration": span.end - span.start,
        "own": _flat(span.own, start),
        "critical": _flat(sorted(span.critical), start),
        "failed": span.failed,
        # Numbers that OTLP does not define are left out.
        "kind": SPAN_KINDS[otlp.kind] if 0 < otlp.kind < len(SPAN_KINDS) else "",
        "status": STATUS_CODES[otlp.status.code] if 0 < otlp.status.code < len(STATUS_CODES) else "",
        "message": _value(otlp.status.message, limit),
        "attributes": _attributes(otlp.attributes, limit),
        "events": [
            {
                "name": cut(event.name, MAX_NAME),
                "time": event.time_unix_nano - start,
                "attributes": _attributes(event.attributes, limit),
            }
            for event in otlp.events[:MAX_ITEMS]
        ],
        "links": [
            {
                "trace": link.trace_id.hex(),
                "span": link.span_id.hex(),
                "attributes": _attributes(link.attributes, limit),
            }
            for link in otlp.links[:MAX_ITEMS]
        ],
        "omitted": [max(len(items) - MAX_ITEMS, 0) for items in (otlp.attributes, otlp.events, otlp.links)],
    }


def _flat(intervals: Iterable[Interval], start: int) -> list[int]:
    return [time - start for interval in intervals for time in interval]


def _attributes(items: Sequence[KeyValue], limit: int) -> list[tuple[str, str, int]]:
    """Key, value as text, and the length of the uncut value in characters."""
    return [(cut(item.key, MAX_NAME), *_value(plain(item.value), limit)) for item in items[:MAX_ITEMS]]


def _value(value: object, limit: int) -> tuple[str, int]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:limit], len(text)
