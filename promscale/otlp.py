"""From an OTLP export to the rows that store it. Nothing here touches the network or the database.

Every span becomes two things: a row of `_promscale.span`, which is what SQL asks about, and its own bytes, which are
kept as they came, one compressed OTLP TracesData a trace, and are what is given back.

In the row, what PostgreSQL cannot hold is replaced: a NUL in a text by U+FFFD, NaN and infinities by the strings
"NaN", "Infinity" and "-Infinity" and bytes by base64 (as protobuf's JSON mapping has them), a count above int's range
by int's largest; names of services and spans are cut, so that an index can hold them. Times have microseconds there;
the nanoseconds that are left of the start are a column of their own.
"""

import base64
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import orjson
import zstandard
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from promscale import wire

SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUS_CODES = ("unset", "ok", "error")

# The service's name where a resource has none: OpenTelemetry's semantic conventions for service.name.
UNKNOWN_SERVICE = "unknown_service"

# Two of them fit in an index's entry, which has room for 2,704 bytes.
MAX_NAME_BYTES = 1000


class MalformedRequest(ValueError):
    """The request is not an ExportTraceServiceRequest."""


class RefusedSpan(ValueError):
    """The span breaks OTLP's rules; the message says how."""


class Source(NamedTuple):
    """Where a span was found in its export: the messages around it as sent, None where they were not."""

    resource: bytes | None
    resource_schema_url: bytes | None
    scope: bytes | None
    scope_schema_url: bytes | None

    @classmethod
    def of(cls, resource_spans: Message, scope_spans: Message) -> "Source":
        return cls(
            _sent(resource_spans, "resource"),
            _sent(resource_spans, "schema_url"),
            _sent(scope_spans, "scope"),
            _sent(scope_spans, "schema_url"),
        )


class Span(NamedTuple):
    trace_id: bytes
    span_id: bytes
    start_time_unix_nano: int
    row: bytes
    raw: bytes  # OTLP Span
    source: Source

    @property
    def identity(self) -> tuple[bytes, bytes, int]:
        return self[:3]

    def refusal(self, reason: object) -> str:
        return _refusal(wire.Span.FromString(self.raw), reason)


class Origin(NamedTuple):
    """What many spans share: rows, without their ids, of the tables that hold it, by the hashes that are the ids."""

    id: int
    operation_id: int
    operation: tuple
    resource_id: int
    resource: tuple
    scope_id: int
    scope: tuple


@dataclass
class Rows:
    """What stores spans: COPY data, by the statements in sql/store.sql, and what the store must know of it."""

    count: int
    spans: bytes
    traces_data: bytes
    origins: dict[int, Origin]
    minutes: set[int]  # in which spans start, since 1970
    trace_ids: list[bytes]


@dataclass
class Export:
    """What one export request holds: `refused` has a line for each span that is not in `spans`."""

    spans: list[Span] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    origins: dict[int, Origin] = field(default_factory=dict)

    def rows(self, spans: list[Span]) -> Rows:
        """What stores these of its spans."""
        traces = _by_trace(spans)
        return Rows(
            len(spans),
            b"".join([span.row for span in spans]),
            _traces_data_rows(traces),
            self.origins,
            {span.start_time_unix_nano // _MINUTE_NANOS for span in spans},
            list(traces),
        )


def encode(request: bytes) -> tuple[Rows, list[str]]:
    """What stores a serialized OTLP ExportTraceServiceRequest, and why which of its spans cannot be stored.

    Raises MalformedRequest.
    """
    export = read_export(request)
    return export.rows(export.spans), export.refused


def read_export(request: bytes) -> Export:
    """Read a serialized OTLP ExportTraceServiceRequest, span by span. Raises MalformedRequest."""
    try:
        message = wire.TracesData.FromString(request)
    except DecodeError as error:
        raise MalformedRequest(f"not an OTLP ExportTraceServiceRequest: {error}") from None
    export = Export()
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            _read_scope_spans(export, resource_spans, scope_spans)
    return export


def _read_scope_spans(export: Export, resource_spans, scope_spans) -> None:
    source = Source.of(resource_spans, scope_spans)
    try:
        resource = _resource(source.resource, source.resource_schema_url)
        scope = _scope(source.scope, source.scope_schema_url)
    except RefusedSpan as refused:
        export.refused += [f"span refused: {refused}"] * len(scope_spans.spans)
        return
    for raw in scope_spans.spans:
        try:
            span = wire.Span.FromString(raw)
        except DecodeError:
            export.refused.append("span refused: its bytes are not an OTLP Span")
            continue
        try:
            origin, row = _span_row(span, resource, scope)
        except RefusedSpan as refused:
            export.refused.append(_refusal(span, refused))
            continue
        export.origins[origin.id] = origin
        export.spans.append(Span(span.trace_id, span.span_id, span.start_time_unix_nano, row, raw, source))


def _refusal(span, reason: object) -> str:
    name = span.name[:100].decode(errors="replace")
    return f"span {name!r} (trace {span.trace_id[:16].hex()}, span {span.span_id[:8].hex()}) refused: {reason}"


def _sent(message, name: str) -> bytes | None:
    return getattr(message, name) if message.HasField(name) else None


# Rows in COPY's binary format: each field is its length in 4 bytes and its data; the length of NULL is -1. -------------

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"

_LENGTH = struct.Struct(">i")
_FIXED = struct.Struct(">h i16s i8s iq id")
_INT8 = struct.Struct(">iq")
_INT2 = struct.Struct(">ih")
_INT4 = struct.Struct(">ii")
_TRACES_DATA = struct.Struct(">h i16s iq i")
_NULL = _LENGTH.pack(-1)
_NO_DROPS = 3 * _NULL
_EPOCH_MICROS = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01, OTLP from 1970-01-01
_INT4_MAX = 2**31 - 1
_MINUTE_NANOS = 60 * 10**9
_SPAN_COLUMN_COUNT = 16
_TRACES_DATA_COLUMN_COUNT = 3


def _field(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _label(labels: tuple[str, ...]) -> dict[int, bytes]:
    return {number: _field(label.encode()) for number, label in enumerate(labels)}


_STATUS_FIELDS = _label(STATUS_CODES)


def traces_data(sources: dict[Source, list[bytes]]) -> bytes:
    """A serialized OTLP TracesData of these spans, each a serialized OTLP Span."""
    return wire.TracesData(
        resource_spans=[
            wire.ResourceSpans(
                resource=source.resource,
                schema_url=source.resource_schema_url,
                scope_spans=[wire.ScopeSpans(scope=source.scope, schema_url=source.scope_schema_url, spans=raw_spans)],
            )
            for source, raw_spans in sources.items()
        ]
    ).SerializeToString()


def _by_trace(spans: Iterable[Span]) -> dict[bytes, list[Span]]:
    traces: dict[bytes, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    return traces


def _traces_data_rows(traces: dict[bytes, list[Span]]) -> bytes:
    """The spans as they came, one row a trace. Spans of one trace and source keep their order."""
    rows = []
    for trace_id, spans in traces.items():
        sources: dict[Source, list[bytes]] = {}
        for span in spans:
            sources.setdefault(span.source, []).append(span.raw)
        data = zstandard.compress(traces_data(sources), 1)
        last_start = max(span.start_time_unix_nano for span in spans)
        rows.append(traces_data_row(trace_id, last_start // 1000 - _EPOCH_MICROS, data))
    return b"".join(rows)


def traces_data_row(trace_id: bytes, last_start_time: int, data: bytes) -> bytes:
    """A row of `_promscale.traces_data`; the time is PostgreSQL's: microseconds since 2000-01-01."""
    return _TRACES_DATA.pack(_TRACES_DATA_COLUMN_COUNT, 16, trace_id, 8, last_start_time, len(data)) + data


class _Resource(NamedTuple):
    id: int
    row: tuple
    service_name: str


class _Scope(NamedTuple):
    id: int
    row: tuple


def _span_row(span, resource: _Resource, scope: _Scope) -> tuple[Origin, bytes]:
    trace_id, span_id, parent_span_id = span.trace_id, span.span_id, span.parent_span_id
    _check_id("trace_id", trace_id, 16)
    _check_id("span_id", span_id, 8)
    if parent_span_id and len(parent_span_id) != 8:
        raise RefusedSpan(f"parent_span_id has {len(parent_span_id)} bytes instead of 8")
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    kind = span.kind if 0 <= span.kind < len(SPAN_KINDS) else 0  # as OTLP wants of enum values that are not known
    origin = _origin(resource, scope, kind, span.name)
    dropped = (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count)
    start_micros = start // 1000
    row = b"".join(
        (
            _FIXED.pack(
                _SPAN_COLUMN_COUNT,
                16, trace_id,
                8, span_id,
                8, start_micros - _EPOCH_MICROS,
                8, (end - start) / 1e6,
            ),  # fmt: skip
            # Some senders write eight zero bytes where there is no parent.
            _INT8.pack(8, int.from_bytes(parent_span_id, signed=True)) if any(parent_span_id) else _NULL,
            _INT8.pack(8, origin.id),
            _STATUS_FIELDS.get(span.status.code, _STATUS_FIELDS[0]),
            _INT2.pack(2, start % 1000),
            b"".join(map(_count_field, dropped)) if any(dropped) else _NO_DROPS,
            _text_field(span.trace_state, "trace_state"),
            _text_field(span.status.message, "status.message"),
            _jsonb_field(_attributes(span.attributes)) if span.attributes else _NULL,
            _jsonb_field(b"[%b]" % b",".join([_event(event, start_micros) for event in span.events]))
            if span.events
            else _NULL,
            _jsonb_field(b"[%b]" % b",".join(map(_link, span.links))) if span.links else _NULL,
        )
    )
    return origin, row


def _check_id(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise RefusedSpan(f"{name} has {len(value)} bytes instead of {length}")
    if not any(value):
        raise RefusedSpan(f"{name} is all zero")


def _count_field(count: int) -> bytes:
    return _INT4.pack(4, min(count, _INT4_MAX))


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode().replace("\0", "\ufffd")
    except UnicodeDecodeError as error:
        raise RefusedSpan(f"{name} is not valid UTF-8: {error.reason} at byte {error.start}") from None


def _text_field(data: bytes, name: str) -> bytes:
    return _field(_text(data, name).encode()) if data else _NULL


def _jsonb_field(json: bytes) -> bytes:
    return _field(b"\x01" + json)  # 1 is the version of jsonb's binary format


def _event(event, start_micros: int) -> bytes:
    """[microseconds since the span's start, name, {attributes}, dropped attributes], the last two where needed."""
    head = b"[%d,%b" % (event.time_unix_nano // 1000 - start_micros, _event_name(event.name))
    if dropped := event.dropped_attributes_count:
        return b"%b,%b,%d]" % (head, _attributes(event.attributes), min(dropped, _INT4_MAX))
    return b"%b,%b]" % (head, _attributes(event.attributes)) if event.attributes else head + b"]"


def _link(link) -> bytes:
    _text(link.trace_state, "a link's trace_state")
    # OpenTelemetry allows links with ids that are not valid; they lead nowhere.
    ids = b'"t":"%b","s":"%b",' % (link.trace_id.hex().encode(), link.span_id.hex().encode())
    return b'{%b"a":%b%b}' % (
        ids if len(link.trace_id) == 16 and len(link.span_id) == 8 else b"",
        _attributes(link.attributes),
        _dropped_member(link.dropped_attributes_count),
    )


def _dropped_member(count: int) -> bytes:
    return b',"d":%d' % min(count, _INT4_MAX) if count else b""


def _attributes(key_values: Iterable[bytes]) -> bytes:
    # The hottest place of all, so without _remember's call.
    members = [_known_member(item) if len(item) <= _REMEMBERED_BYTES else _member(item) for item in key_values]
    return b"{%b}" % b",".join(members)


# What is alike in many spans is worked out once. A cache counts entries, so only small ones go in: it stays small. ------

_REMEMBERED_BYTES = 256


def _remember(function: Callable) -> Callable:
    """`function`, whose last argument is bytes from outside, with a cache."""
    known = lru_cache(maxsize=8192)(function)

    def call(*args):
        return (known if len(args[-1]) <= _REMEMBERED_BYTES else function)(*args)

    return call


def _member(key_value: bytes) -> bytes:
    """A serialized KeyValue as a member of a JSON object."""
    try:
        attribute = KeyValue.FromString(key_value)
    except DecodeError:
        raise RefusedSpan("an attribute is not a valid OTLP KeyValue (invalid UTF-8 or nested too deep)") from None
    return b"%b:%b" % (orjson.dumps(attribute.key.replace("\0", "\ufffd")), orjson.dumps(plain(attribute.value)))


_known_member = lru_cache(maxsize=65_536)(_member)


def plain(value: AnyValue) -> object:
    """An OTLP value as SQL sees it: what JSON can hold."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value.replace("\0", "\ufffd")
        case "double_value":
            return _plain_double(value.double_value)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "array_value":
            return [plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return _plain_map(value.kvlist_value.values)
        case None:
            return None
        case other:  # bool and int
            return getattr(value, other)


def name(text: str) -> str:
    """A service's or a span's name as SQL has it: of MAX_NAME_BYTES at the most."""
    text = text.replace("\0", "\ufffd")
    return text if len(text) * 4 <= MAX_NAME_BYTES else text.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _plain_double(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _plain_map(key_values: Iterable[KeyValue]) -> dict:
    return {item.key.replace("\0", "\ufffd"): plain(item.value) for item in key_values}


def _hash(*parts: bytes) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(b"%d:%b" % (len(part), part))
    return int.from_bytes(digest.digest(), signed=True)


@_remember
def _event_name(name: bytes) -> bytes:
    return orjson.dumps(_text(name, "an event's name"))


@_remember
def _origin(resource: _Resource, scope: _Scope, kind: int, span_name: bytes) -> Origin:
    text = name(_text(span_name, "its name"))
    operation = (resource.service_name, SPAN_KINDS[kind], text)
    operation_id = _hash(resource.service_name.encode(), b"%d" % kind, text.encode())
    id = _hash(b"%d,%d,%d" % (operation_id, resource.id, scope.id))
    return Origin(id, operation_id, operation, resource.id, resource.row, scope.id, scope.row)


@lru_cache(maxsize=1024)
def _resource(resource: bytes | None, schema_url: bytes | None) -> _Resource:
    try:
        message = Resource.FromString(resource or b"")
    except DecodeError:
        raise RefusedSpan("its resource is not a valid OTLP Resource") from None
    service_name = UNKNOWN_SERVICE
    for attribute in message.attributes:
        if attribute.key == "service.name" and attribute.value.string_value:
            service_name = name(attribute.value.string_value)
    row = (
        orjson.dumps(_plain_map(message.attributes)).decode(),
        min(message.dropped_attributes_count, _INT4_MAX),
        _text(schema_url or b"", "its resource's schema_url") or None,
    )
    return _Resource(_hash(resource or b"", schema_url or b""), row, service_name)


@lru_cache(maxsize=1024)
def _scope(scope: bytes | None, schema_url: bytes | None) -> _Scope:
    try:
        message = InstrumentationScope.FromString(scope or b"")
    except DecodeError:
        raise RefusedSpan("its scope is not a valid OTLP InstrumentationScope") from None
    row = (
        message.name.replace("\0", "\ufffd") or None,
        message.version.replace("\0", "\ufffd") or None,
        _text(schema_url or b"", "its scope's schema_url") or None,
        orjson.dumps(_plain_map(message.attributes)).decode(),
    )
    return _Scope(_hash(scope or b"", schema_url or b""), row)
