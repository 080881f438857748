"""Traces in the JSON of Jaeger's HTTP API, which its user interface downloads, as OTLP.

The inverse of the mapping to non-OTLP formats (https://opentelemetry.io/docs/specs/otel/common/mapping-to-non-otlp/).
Times are whole microseconds in Jaeger's JSON.
"""

import base64
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from promscale.otlp import SPAN_KINDS, STATUS_CODES

Json = dict[str, Any]

_TYPES: dict[str, Callable[[Any], AnyValue]] = {
    "string": lambda value: AnyValue(string_value=str(value)),
    "bool": lambda value: AnyValue(bool_value=value if isinstance(value, bool) else value == "true"),
    "int64": lambda value: AnyValue(int_value=int(value)),
    "float64": lambda value: AnyValue(double_value=float(value)),
    "binary": lambda value: AnyValue(bytes_value=base64.b64decode(value)),
}


def trace_to_otlp(trace: Json) -> bytes:
    """A trace, an element of the field `data`, as serialized TracesData. Raises ValueError if it is none."""
    try:
        spans = [_resource_spans(span, trace["processes"][span["processID"]]) for span in trace["spans"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a trace in Jaeger's JSON: {error!r}") from None
    return TracesData(resource_spans=spans).SerializeToString()


def _resource_spans(span: Json, process: Json) -> ResourceSpans:
    service = KeyValue(key="service.name", value=AnyValue(string_value=process["serviceName"]))
    tags = {tag["key"]: tag for tag in span.get("tags") or ()}
    scope = InstrumentationScope(
        name=_take(tags, "otel.scope.name", "otel.library.name"),
        version=_take(tags, "otel.scope.version", "otel.library.version"),
    )
    return ResourceSpans(
        resource=Resource(attributes=[service, *_attributes(process.get("tags") or ())]),
        scope_spans=[ScopeSpans(scope=scope, spans=[_span(span, tags)])],
    )


def _span(span: Json, tags: dict[str, Json]) -> Span:
    references = [
        (reference["refType"], _id(reference["traceID"], 16), _id(reference["spanID"], 8))
        for reference in span.get("references") or ()
    ]
    trace_id = _id(span["traceID"], 16)
    parent = next((r for r in references if r[:2] == ("CHILD_OF", trace_id)), None)
    start = int(span["startTime"]) * 1000
    kind = _take(tags, "span.kind")
    failed = "error" in tags and tags.pop("error")["value"] in (True, "true")
    code = _take(tags, "otel.status_code").lower()
    status = Status(
        message=_take(tags, "otel.status_description"),
        code=STATUS_CODES.index(code) if code in STATUS_CODES else 2 * failed,  # type: ignore[arg-type]
    )
    return Span(
        trace_id=trace_id,
        span_id=_id(span["spanID"], 8),
        parent_span_id=parent[2] if parent else b"",
        trace_state=_take(tags, "w3c.tracestate"),
        name=span["operationName"],
        kind=SPAN_KINDS.index(kind) if kind in SPAN_KINDS else 0,  # type: ignore[arg-type]
        start_time_unix_nano=start,
        end_time_unix_nano=start + int(span["duration"]) * 1000,
        attributes=_attributes(tags.values()),
        events=[_event(log) for log in span.get("logs") or ()],
        links=[Span.Link(trace_id=r[1], span_id=r[2]) for r in references if r is not parent],
        status=status if status.ByteSize() else None,
    )


def _event(log: Json) -> Span.Event:
    fields = {field["key"]: field for field in log.get("fields") or ()}
    return Span.Event(
        time_unix_nano=int(log["timestamp"]) * 1000,
        name=_take(fields, "event"),
        attributes=_attributes(fields.values()),
    )


def _take(tags: dict[str, Json], *names: str) -> str:
    """Remove the tags with these names; returns the value of the first."""
    values = [str(tags.pop(name)["value"]) for name in names if name in tags]
    return values[0] if values else ""


def _attributes(tags: Iterable[Json]) -> list[KeyValue]:
    return [KeyValue(key=tag["key"], value=_value(tag)) for tag in tags]


def _value(tag: Json) -> AnyValue:
    convert = _TYPES.get(tag.get("type", "string").lower())
    if convert is None:
        raise ValueError(f"the tag {tag['key']!r} has a type other than {', '.join(_TYPES)}")
    return convert(tag["value"])


def _id(text: str, length: int) -> bytes:
    """Jaeger leaves out leading zeros of ids."""
    return bytes.fromhex(text.zfill(2 * length))
