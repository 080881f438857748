"""Files of OTLP: ExportTraceServiceRequest messages as the Collector's file exporter writes them.

`format: proto`: each message comes after its length, 4 bytes, big-endian. `format: json`: one message per line in
OTLP/JSON, which promscale.otlp_json reads.
"""

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from promscale import otlp
from promscale import wire_pb2 as wire
from promscale.frames import Decompressor
from transfer.snapshot import LABEL_EVENT, LABEL_PREFIX, Snapshot

LENGTH = struct.Struct(">I")
# gRPC's receivers accept messages of up to 4 MiB by default.
MESSAGE_BYTES = 2**20
# The largest message that is kept in the cache of JSON.
CACHED_BYTES = 2048

Json = dict[str, Any]

_LABEL_BYTES = (LABEL_PREFIX.encode(), LABEL_EVENT.encode())


def read_requests(snapshot: Snapshot, labels: bool) -> Iterator[tuple[bytes, int]]:
    """The selected traces as serialized ExportTraceServiceRequests, each with its number of spans.

    Spans are byte for byte as they were received, but for labels of faults, without `labels`. Raises TransferError.
    """
    dictionaries = dict(snapshot.rows("dictionaries"))
    decompress = Decompressor(dictionaries.__getitem__)
    for request in otlp.requests(map(decompress, snapshot.values(snapshot.statement("traces_data"))), MESSAGE_BYTES):
        message = wire.TracesData.FromString(request)
        spans = 0
        for scope_spans in scopes(message):
            spans += len(scope_spans.spans)
            if not labels:
                scope_spans.spans[:] = map(_without_labels, scope_spans.spans)
        yield request if labels else message.SerializeToString(), spans


def scopes(message: wire.TracesData) -> Iterator[wire.ScopeSpans]:
    for resource_spans in message.resource_spans:
        yield from resource_spans.scope_spans
        yield from resource_spans.instrumentation_library_spans


def to_proto(request: bytes) -> bytes:
    """A request as a part of a file with `format: proto`."""
    return LENGTH.pack(len(request)) + request


def to_json(request: bytes) -> bytes:
    """A request as a line of a file with `format: json`."""
    message = ExportTraceServiceRequest.FromString(request)
    spans = {"resourceSpans": list(map(_resource_spans, message.resource_spans))}
    return orjson.dumps(spans, option=orjson.OPT_APPEND_NEWLINE)


# Messages as JSON. Those that repeat are converted by protobuf's library and cached; it takes 140 µs for a whole span.


def _resource_spans(message: ResourceSpans) -> Json:
    return _present(
        resource=_repeated(message.resource) if message.HasField("resource") else None,
        scopeSpans=list(map(_scope_spans, message.scope_spans)),
        schemaUrl=message.schema_url,
    )


def _scope_spans(message: ScopeSpans) -> Json:
    return _present(
        scope=_repeated(message.scope) if message.HasField("scope") else None,
        spans=list(map(_span, message.spans)),
        schemaUrl=message.schema_url,
    )


def _span(span: Span) -> Json:
    return _present(
        traceId=span.trace_id.hex(),
        spanId=span.span_id.hex(),
        traceState=span.trace_state,
        parentSpanId=span.parent_span_id.hex(),
        flags=span.flags,
        name=span.name,
        kind=span.kind,
        startTimeUnixNano=str(span.start_time_unix_nano),
        endTimeUnixNano=str(span.end_time_unix_nano),
        attributes=list(map(_repeated, span.attributes)),
        droppedAttributesCount=span.dropped_attributes_count,
        events=list(map(_event, span.events)),
        droppedEventsCount=span.dropped_events_count,
        links=list(map(_link, span.links)),
        droppedLinksCount=span.dropped_links_count,
        status=_repeated(span.status) if span.HasField("status") else None,
    )


def _event(event: Span.Event) -> Json:
    return _present(
        timeUnixNano=str(event.time_unix_nano),
        name=event.name,
        attributes=list(map(_repeated, event.attributes)),
        droppedAttributesCount=event.dropped_attributes_count,
    )


def _link(link: Span.Link) -> Json:
    return _present(
        traceId=link.trace_id.hex(),
        spanId=link.span_id.hex(),
        traceState=link.trace_state,
        attributes=list(map(_repeated, link.attributes)),
        droppedAttributesCount=link.dropped_attributes_count,
        flags=link.flags,
    )


def _present(**fields: object) -> Json:
    """The fields that are not their type's default, which protobuf's JSON mapping leaves out."""
    return {name: value for name, value in fields.items() if value}


def _repeated(message: Message) -> orjson.Fragment:
    """JSON of a message without ids."""
    message_type: Any = type(message)
    data = message.SerializeToString()
    return (_cached_json if len(data) <= CACHED_BYTES else _json)(message_type, data)


def _json(message_type: type[Message], data: bytes) -> orjson.Fragment:
    message = message_type.FromString(data)
    return orjson.Fragment(orjson.dumps(json_format.MessageToDict(message, use_integers_for_enums=True)))


_cached_json = lru_cache(maxsize=16_384)(_json)


def _without_labels(raw: bytes) -> bytes:
    """A serialized span without labels of faults."""
    if not any(label in raw for label in _LABEL_BYTES):
        return raw
    span = wire.Span.FromString(raw)
    span.attributes[:] = [item for item in span.attributes if not _is_label(item)]
    events = [event for event in span.events if event.name != LABEL_EVENT.encode()]
    del span.events[:]
    span.events.extend(events)
    return span.SerializeToString()


def _is_label(attribute: bytes) -> bool:
    return KeyValue.FromString(attribute).key.startswith(LABEL_PREFIX)


def count_spans(requests: Iterable[wire.TracesData]) -> int:
    return sum(len(scope_spans.spans) for message in requests for scope_spans in scopes(message))
