"""From an OTLP export to the rows that store it. Nothing here touches the network or the database.

Every span becomes two things: a row of `_promscale.span`, which is what SQL asks about, and its own bytes, which are
kept as they came, one compressed OTLP TracesData a trace, and are what is given back.

In the row, what PostgreSQL cannot hold is replaced: a NUL in a text by U+FFFD, NaN and infinities by the strings
"NaN", "Infinity" and "-Infinity" and bytes by base64 (as protobuf's JSON mapping has them), a count above int's range
by int's largest; names of services and spans are cut, so that an index can hold them. Times have microseconds there;
the nanoseconds that are left of the start are a column of their own.
"""

import base64
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

import orjson
import zstandard
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from promscale import wire_pb2 as wire

SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUS_CODES = ("unset", "ok", "error")

# The service's name where a resource has none: OpenTelemetry's semantic conventions for service.name.
UNKNOWN_SERVICE = "unknown_service"

# Two of them fit in an index's entry, which has room for 2,704 bytes.
MAX_NAME_BYTES = 1000

# Spans that are worked on at a time.
EXPORT_SPANS = 8192
# Of a request of 16 MiB, spans of 42 bytes in traces of their own make the most rows: 105 MB.
MAX_ROWS_BYTES = 128 * 2**20
_TOO_LARGE = f"its spans would take more than {MAX_ROWS_BYTES // 2**20} MiB, because each trace has its resource again"
# As many refused spans of a request are named.
MAX_REASONS = 10


class MalformedRequest(ValueError):
    """The request is not an ExportTraceServiceRequest."""


class TooLarge(MalformedRequest):
    """What would be stored of the request is many times larger than itself."""


class RefusedSpan(ValueError):
    """The span breaks OTLP's rules; the message says how."""


class Envelope(NamedTuple):
    """What spans share in an export: their resource or scope and its schema_url, as sent, or None where they were not, and
    the fields around them that today's OTLP does not know."""

    content: bytes | None = None
    schema_url: bytes | None = None
    unknown_fields: bytes = b""

    @classmethod
    def of(cls, message: Message, content: str, *parts: str) -> "Envelope":
        """Of a ResourceSpans or ScopeSpans; `parts` are the names of its other fields, and are cleared if need be."""
        sent = [getattr(message, name) if message.HasField(name) else None for name in (content, "schema_url")]
        if not len(UnknownFieldSet(message)):
            return cls(*sent)
        for name in (content, "schema_url", *parts):
            message.ClearField(name)
        return cls(*sent, message.SerializeToString())


class Source(NamedTuple):
    """Where a span was found in its export."""

    resource: Envelope = Envelope()
    scope: Envelope = Envelope()


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
class Refusals:
    """How many spans were refused, and for the first of them why."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str | Callable[[], str], spans: int = 1) -> None:
        self.count += spans
        if len(self.reasons) < MAX_REASONS:
            self.reasons.append(reason if isinstance(reason, str) else reason())

    def extend(self, others: "Refusals") -> None:
        self.count += others.count
        self.reasons = (self.reasons + others.reasons)[:MAX_REASONS]

    def __str__(self) -> str:
        rest = self.count - len(self.reasons)
        return "; ".join(self.reasons + ([f"and {rest:,} more"] if rest else []))


@dataclass
class Rows:
    """What stores spans: COPY data, by the statements in sql/store.sql, and what the store must know of it."""

    count: int = 0
    spans: list[bytes] = field(default_factory=list)
    traces_data: list[bytes] = field(default_factory=list)
    origins: dict[int, Origin] = field(default_factory=dict)
    minutes: set[int] = field(default_factory=set)  # in which spans start, since 1970
    trace_ids: list[bytes] = field(default_factory=list)

    def extend(self, others: "Rows") -> None:
        self.count += others.count
        self.spans += others.spans
        self.traces_data += others.traces_data
        self.origins |= others.origins
        self.minutes |= others.minutes
        self.trace_ids += others.trace_ids

    def size(self) -> int:
        """Bytes of COPY data."""
        return sum(map(len, self.spans)) + sum(map(len, self.traces_data))


@dataclass
class Export:
    """Spans of an export request, and those that were refused."""

    spans: list[Span] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    origins: dict[int, Origin] = field(default_factory=dict)

    def rows(self, spans: list[Span]) -> Rows:
        """What stores these of its spans. Raises TooLarge."""
        traces = _by_trace(spans)
        return Rows(
            len(spans),
            [b"".join([span.row for span in spans])],
            list(_traces_data_rows(traces)),
            self.origins,
            {span.start_time_unix_nano // _MINUTE_NANOS for span in spans},
            list(traces),
        )


def encode(request: bytes) -> tuple[Rows, Refusals]:
    """What stores a serialized OTLP ExportTraceServiceRequest, and which of its spans cannot be stored.

    Raises MalformedRequest, TooLarge and MemoryError.
    """
    rows, refusals, size = Rows(), Refusals(), 0
    for export in read_exports(request):
        more = export.rows(export.spans)
        size += more.size()
        if size > MAX_ROWS_BYTES:
            raise TooLarge(_TOO_LARGE)
        rows.extend(more)
        refusals.extend(export.refusals)
    return rows, refusals


def read_exports(request: bytes) -> Iterator[Export]:
    """Read a serialized OTLP ExportTraceServiceRequest, span by span, in parts that take little memory.

    Raises MalformedRequest, TooLarge and MemoryError.
    """
    export = Export()
    for envelope, found in groupby(sources(_parse(request)), key=lambda each: each[0].resource):
        try:
            resource = _resource(envelope.content, envelope.schema_url)
        except RefusedSpan as refused:
            _refuse(export, [raw_spans for _, raw_spans in found], refused)
            continue
        for source, raw_spans in found:
            try:
                scope = _scope(source.scope.content, source.scope.schema_url)
            except RefusedSpan as refused:
                _refuse(export, [raw_spans], refused)
                continue
            for raw in raw_spans:
                _read_span(export, raw, source, resource, scope)
                if len(export.spans) == EXPORT_SPANS:
                    yield export
                    export = Export()
    yield export


def _parse(request: bytes) -> Message:
    try:
        return wire.TracesData.FromString(request)
    except DecodeError as error:
        if "alloc failed" in str(error):  # protobuf's only sign that memory was short
            raise MemoryError from None
        raise MalformedRequest(f"not an OTLP ExportTraceServiceRequest: {error}") from None


def sources(traces_data: Message) -> Iterator[tuple[Source, Sequence[bytes]]]:
    """The spans of a TracesData, each a serialized OTLP Span, by where they are. Takes the message apart."""
    for resource_spans in traces_data.resource_spans:
        parts = [*resource_spans.scope_spans, *resource_spans.instrumentation_library_spans]
        resource = Envelope.of(resource_spans, "resource", "scope_spans", "instrumentation_library_spans")
        for scope_spans in parts:
            spans = list(scope_spans.spans)
            yield Source(resource, Envelope.of(scope_spans, "scope", "spans")), spans


def _refuse(export: Export, spans: Iterable[Sequence[bytes]], reason: RefusedSpan) -> None:
    """For what is around them."""
    if count := sum(map(len, spans)):
        export.refusals.add(f"span refused: {reason}", count)


def _read_span(export: Export, raw: bytes, source: Source, resource: "_Resource", scope: "_Scope") -> None:
    try:
        span = wire.Span.FromString(raw)
    except DecodeError:
        export.refusals.add("span refused: its bytes are not an OTLP Span")
        return
    try:
        origin, row = _span_row(span, resource, scope)
    except RefusedSpan as error:
        reason = str(error)
        export.refusals.add(lambda: _refusal(span, reason))
        return
    export.origins[origin.id] = origin
    export.spans.append(Span(span.trace_id, span.span_id, span.start_time_unix_nano, row, raw, source))


def _refusal(span, reason: object) -> str:
    name = span.name[:100].decode(errors="replace")
    return f"span {name!r} (trace {span.trace_id[:16].hex()}, span {span.span_id[:8].hex()}) refused: {reason}"


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
    message = wire.TracesData()
    for source, raw_spans in sources.items():
        resource_spans = message.resource_spans.add(
            resource=source.resource.content, schema_url=source.resource.schema_url
        )
        scope_spans = resource_spans.scope_spans.add(
            scope=source.scope.content, schema_url=source.scope.schema_url, spans=raw_spans
        )
        scope_spans.MergeFromString(source.scope.unknown_fields)
        resource_spans.MergeFromString(source.resource.unknown_fields)
    return message.SerializeToString()


def _by_trace(spans: Iterable[Span]) -> dict[bytes, list[Span]]:
    traces: dict[bytes, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    return traces


def _traces_data_rows(traces: dict[bytes, list[Span]]) -> Iterator[bytes]:
    """The spans as they came, one row a trace. Spans of one trace and source keep their order."""
    size = 0
    for trace_id, spans in traces.items():
        sources: dict[Source, list[bytes]] = {}
        for span in spans:
            sources.setdefault(span.source, []).append(span.raw)
        data = zstandard.compress(traces_data(sources), 1)
        last_start = max(span.start_time_unix_nano for span in spans)
        size += len(data)
        if size > MAX_ROWS_BYTES:
            raise TooLarge(_TOO_LARGE)
        yield traces_data_row(trace_id, last_start // 1000 - _EPOCH_MICROS, data)


def traces_data_row(trace_id: bytes, last_start_time: int, data: bytes) -> bytes:
    """A row of `_promscale.traces_data`; the time is PostgreSQL's: microseconds since 2000-01-01."""
    return _TRACES_DATA.pack(_TRACES_DATA_COLUMN_COUNT, 16, trace_id, 8, last_start_time, len(data)) + data


class _Resource(NamedTuple):
    id: int
    row: tuple
    service_name: str
    bytes: int


class _Scope(NamedTuple):
    id: int
    row: tuple
    bytes: int


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
    fixed = _FIXED.pack(
        _SPAN_COLUMN_COUNT,
        16, trace_id,
        8, span_id,
        8, start_micros - _EPOCH_MICROS,
        8, (end - start) / 1e6,
    )  # fmt: skip
    row = b"".join(
        (
            fixed,
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
    # The hottest place of all, so without the call that _remember adds.
    members = [_known_member(item) if len(item) <= _REMEMBERED_BYTES else _member(item) for item in key_values]
    return b"{%b}" % b",".join(members)


# What is alike in many spans is worked out once. The caches are bounded in bytes, because each has a number of entries, and
# takes small ones only. In JSON a byte can become six, so that together they have 20 MB as a rule, and 100 MB at most.

_REMEMBERED_BYTES = 256
_REMEMBERED_ENVELOPE_BYTES = 2048
_LARGE_BYTES = 2**20


def _remember(entries: int, most_bytes: int, size_of: Callable[..., int]) -> Callable[[Callable], Callable]:
    """For a function: the results for its last arguments are remembered, if these have so many bytes at most."""

    def decorate(function: Callable) -> Callable:
        known = lru_cache(maxsize=entries)(function)

        def call(*args):
            return (known if size_of(*args) <= most_bytes else function)(*args)

        return call

    return decorate


def _size_of_envelope(content: bytes | None, schema_url: bytes | None) -> int:
    return len(content or b"") + len(schema_url or b"")


def _member(key_value: bytes) -> bytes:
    """A serialized KeyValue as a member of a JSON object."""
    try:
        attribute = KeyValue.FromString(key_value)
    except DecodeError:
        raise RefusedSpan("an attribute is not a valid OTLP KeyValue (invalid UTF-8 or nested too deep)") from None
    return b"%b:%b" % (
        orjson.dumps(attribute.key.replace("\0", "\ufffd")),
        _json(plain(attribute.value), len(key_value)),
    )


def _json(value: object, size: int) -> bytes:
    """Of what has about that size: orjson would reserve eight times as much for a text."""
    if size < _LARGE_BYTES:
        return orjson.dumps(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


_known_member = lru_cache(maxsize=16_384)(_member)


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


@_remember(4096, _REMEMBERED_BYTES, len)
def _event_name(name: bytes) -> bytes:
    return orjson.dumps(_text(name, "an event's name"))


@_remember(
    2048,
    _REMEMBERED_ENVELOPE_BYTES,
    lambda resource, scope, kind, span_name: resource.bytes + scope.bytes + len(span_name),
)
def _origin(resource: _Resource, scope: _Scope, kind: int, span_name: bytes) -> Origin:
    text = name(_text(span_name, "its name"))
    operation = (resource.service_name, SPAN_KINDS[kind], text)
    operation_id = _hash(resource.service_name.encode(), b"%d" % kind, text.encode())
    id = _hash(b"%d,%d,%d" % (operation_id, resource.id, scope.id))
    return Origin(id, operation_id, operation, resource.id, resource.row, scope.id, scope.row)


@_remember(512, _REMEMBERED_ENVELOPE_BYTES, _size_of_envelope)
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
        _json(_plain_map(message.attributes), len(resource or b"")).decode(),
        min(message.dropped_attributes_count, _INT4_MAX),
        _text(schema_url or b"", "its resource's schema_url") or None,
    )
    id = _hash(resource or b"", schema_url or b"")
    return _Resource(id, row, service_name, _size_of_envelope(resource, schema_url))


@_remember(512, _REMEMBERED_ENVELOPE_BYTES, _size_of_envelope)
def _scope(scope: bytes | None, schema_url: bytes | None) -> _Scope:
    try:
        message = InstrumentationScope.FromString(scope or b"")
    except DecodeError:
        raise RefusedSpan("its scope is not a valid OTLP InstrumentationScope") from None
    row = (
        message.name.replace("\0", "\ufffd") or None,
        message.version.replace("\0", "\ufffd") or None,
        _text(schema_url or b"", "its scope's schema_url") or None,
        _json(_plain_map(message.attributes), len(scope or b"")).decode(),
    )
    return _Scope(_hash(scope or b"", schema_url or b""), row, _size_of_envelope(scope, schema_url))
