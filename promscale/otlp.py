"""Encodes OTLP export requests as rows of the store's tables, without touching network or database.

Each span is stored twice: as a row of `_promscale.span`, for SQL, and byte for byte as it was received, in a compressed
OTLP TracesData per trace, which reads give back.

The row replaces what PostgreSQL cannot hold: a NUL in a text becomes U+FFFD; NaN and infinities become the strings
"NaN", "Infinity" and "-Infinity", and bytes become base64 (as in protobuf's JSON mapping); a count above the range of
int becomes the largest int. Names of services and spans are truncated, so that they fit into an index. Times have
microseconds; a column of its own has the remaining nanoseconds of the start.
"""

import base64
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple, TypeAlias, TypeVar, TypeVarTuple

import orjson
import zstandard
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from promscale import copying
from promscale import wire_pb2 as wire
from promscale.copying import INT4_MAX, NULL, POSTGRES_EPOCH_MICROS

SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUS_CODES = ("unset", "ok", "error")

# OpenTelemetry's semantic conventions: the service.name of a resource that has none.
UNKNOWN_SERVICE = "unknown_service"

# An entry of a PostgreSQL index has room for 2,704 bytes, and some indexes have two names.
MAX_NAME_BYTES = 1000

# Spans are encoded in batches of this size, to bound memory.
EXPORT_SPANS = 8192
# The worst request of 16 MiB, spans of 42 bytes that are each a trace of its own, becomes 105 MB of rows.
MAX_ROWS_BYTES = 128 * 2**20
# What an origin takes in memory, without its texts.
ORIGIN_BYTES = 512
# Reasons that are reported for the refused spans of a request.
MAX_REASONS = 10

_MINUTE_NANOS = 60 * 10**9


Item = TypeVar("Item")
Data: TypeAlias = bytes | memoryview


class MalformedRequest(ValueError):
    """The request is not an ExportTraceServiceRequest, unless the message says what else is wrong with it."""

    def __init__(self, message: str = "not an OTLP ExportTraceServiceRequest") -> None:
        super().__init__(message)


class TooLarge(MalformedRequest):
    """The rows of the request would take more than MAX_ROWS_BYTES."""

    def __init__(self) -> None:
        super().__init__(
            f"its spans would take more than {MAX_ROWS_BYTES // 2**20} MiB, because each trace repeats its resource"
        )


class RefusedSpan(ValueError):
    """The span breaks OTLP's rules; the message says how."""


class Envelope(NamedTuple):
    """What spans of an export share: the serialized resource or scope and its schema_url, None where the sender left it
    out, and the fields around them that this version of OTLP does not know."""

    content: bytes | None = None
    schema_url: bytes | None = None
    unknown_fields: bytes = b""

    @classmethod
    def of(cls, message: wire.ResourceSpans | wire.ScopeSpans, content_name: str, *part_names: str) -> "Envelope":
        """The envelope of `message`, which has its content in the field `content_name`. If the message has unknown
        fields, this clears all of its known fields, `part_names` included."""
        content, schema_url = (
            getattr(message, name) if message.HasField(name) else None for name in (content_name, "schema_url")
        )
        if not len(UnknownFieldSet(message)):
            return cls(content, schema_url)
        for name in (content_name, "schema_url", *part_names):
            message.ClearField(name)
        return cls(content, schema_url, message.SerializeToString())


class Source(NamedTuple):
    """Where in its export request a span was."""

    resource: Envelope = Envelope()
    scope: Envelope = Envelope()


class Span(NamedTuple):
    trace_id: bytes
    span_id: bytes
    start_time_unix_nano: int
    row: bytes  # of _promscale.span, for COPY
    raw: bytes  # the serialized OTLP Span
    source: Source

    @property
    def identity(self) -> tuple[bytes, bytes, int]:
        return self[:3]


@dataclass(frozen=True)
class TagSet:
    """Attributes that most spans of an origin have. Spans that have all of them refer to them by the id."""

    id: int
    tags: Mapping[bytes, bytes]  # each key as JSON, with the colon behind it, and its value as JSON

    @classmethod
    def of(cls, tag_set_id: int, tags: Mapping[str, object]) -> "TagSet":
        return cls(tag_set_id, {orjson.dumps(key) + b":": orjson.dumps(value) for key, value in tags.items()})

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        return tuple(self.tags)

    @cached_property
    def members(self) -> frozenset[bytes]:
        """The members of the JSON object."""
        return frozenset(map(operator.add, self.tags.keys(), self.tags.values()))


@dataclass(frozen=True)
class TagSets:
    """The tag sets that new spans get, by their origin's id. The version is the database's count of their changes."""

    version: int = 0
    by_origin: Mapping[int, TagSet] = field(default_factory=dict)

    @property
    def version_in_use(self) -> int | None:
        """None if no span can get a tag set."""
        return self.version if self.by_origin else None


NO_TAG_SETS = TagSets()


class Origin(NamedTuple):
    """What many spans share: an operation, a resource and a scope (a row each). Ids are hashes of the rows."""

    id: int
    operation_id: int
    operation: tuple[object, ...]
    resource_id: int
    resource: tuple[object, ...]
    scope_id: int
    scope: tuple[object, ...]


@dataclass
class Refusals:
    """How many spans were refused, and the reasons for the first of them."""

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
    """Rows that store spans, encoded for COPY, and what else the store must know to commit them."""

    count: int = 0
    spans: list[Data] = field(default_factory=list)
    traces_data: list[Data] = field(default_factory=list)
    origins: dict[int, Origin] = field(default_factory=dict)
    minutes: set[int] = field(default_factory=set)  # of the spans' starts, since 1970
    trace_ids: list[bytes] = field(default_factory=list)
    tag_sets_version: int | None = None  # of the tag sets that spans may refer to; None: there were none

    def extend(self, others: "Rows") -> None:
        self.count += others.count
        self.spans += others.spans
        self.traces_data += others.traces_data
        self.origins |= others.origins
        self.minutes |= others.minutes
        self.trace_ids += others.trace_ids

    def size(self) -> int:
        """Bytes of memory, about: of COPY data and of origins."""
        return sum(map(len, self.spans)) + sum(map(len, self.traces_data)) + ORIGIN_BYTES * len(self.origins)


@dataclass
class Export:
    """Encoded spans of an export request, and its refused ones."""

    spans: list[Span] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    origins: dict[int, Origin] = field(default_factory=dict)

    def rows(self, spans: list[Span]) -> Rows:
        """The rows of `spans`, which are some or all of this export's. Raises TooLarge."""
        traces = _by_trace(spans)
        return Rows(
            len(spans),
            [b"".join([span.row for span in spans])],
            list(_traces_data_rows(traces)),
            self.origins,
            {span.start_time_unix_nano // _MINUTE_NANOS for span in spans},
            list(traces),
        )


def encode(request: bytes, tag_sets: TagSets = NO_TAG_SETS) -> tuple[Rows, Refusals]:
    """The rows that store a serialized OTLP ExportTraceServiceRequest, and the spans that cannot be stored.

    Raises MalformedRequest, TooLarge and MemoryError.
    """
    rows, refusals = Rows(tag_sets_version=tag_sets.version_in_use), Refusals()
    for export in read_exports(request, tag_sets):
        rows.extend(export.rows(export.spans))
        if rows.size() > MAX_ROWS_BYTES:
            raise TooLarge
        refusals.extend(export.refusals)
    return rows, refusals


def read_exports(request: bytes, tag_sets: TagSets = NO_TAG_SETS) -> Iterator[Export]:
    """Encode a serialized OTLP ExportTraceServiceRequest, in batches of EXPORT_SPANS.

    Raises MalformedRequest, TooLarge and MemoryError.
    """
    export = Export()
    for envelope, spans_by_source in groupby(sources(_parse(request)), key=lambda item: item[0].resource):
        try:
            resource = _resource(envelope.content, envelope.schema_url)
        except RefusedSpan as refused:
            _refuse(export, [raw_spans for _, raw_spans in spans_by_source], refused)
            continue
        for source, raw_spans in spans_by_source:
            try:
                scope = _scope(source.scope.content, source.scope.schema_url)
            except RefusedSpan as refused:
                _refuse(export, [raw_spans], refused)
                continue
            for raw in raw_spans:
                _read_span(export, raw, source, resource, scope, tag_sets)
                if len(export.spans) == EXPORT_SPANS:
                    yield export
                    export = Export()
    yield export


def _parse(request: bytes) -> wire.TracesData:
    try:
        return wire.TracesData.FromString(request)
    except DecodeError as error:
        # The text is the only difference that protobuf makes between a lack of memory and a malformed message.
        if "alloc failed" in str(error):
            raise MemoryError from None
        raise MalformedRequest from None


def sources(traces_data: wire.TracesData) -> Iterator[tuple[Source, Sequence[bytes]]]:
    """The serialized spans of a TracesData, by source. May clear fields of the message."""
    for resource_spans in traces_data.resource_spans:
        scopes = [*resource_spans.scope_spans, *resource_spans.instrumentation_library_spans]
        resource = Envelope.of(resource_spans, "resource", "scope_spans", "instrumentation_library_spans")
        for scope_spans in scopes:
            spans = list(scope_spans.spans)
            yield Source(resource, Envelope.of(scope_spans, "scope", "spans")), spans


def _refuse(export: Export, spans: Iterable[Sequence[bytes]], reason: RefusedSpan) -> None:
    """Refuse spans because of their resource or scope."""
    if count := sum(map(len, spans)):
        export.refusals.add(f"span refused: {reason}", count)


def _read_span(
    export: Export, raw: bytes, source: Source, resource: "_Resource", scope: "_Scope", tag_sets: TagSets
) -> None:
    try:
        span = wire.Span.FromString(raw)
    except DecodeError:
        export.refusals.add("span refused: its bytes are not an OTLP Span")
        return
    try:
        origin, row = _span_row(span, resource, scope, tag_sets)
    except RefusedSpan as error:
        reason = str(error)
        export.refusals.add(lambda: refusal(raw, reason))
        return
    export.origins[origin.id] = origin
    export.spans.append(Span(span.trace_id, span.span_id, span.start_time_unix_nano, row, raw, source))


def refusal(raw: bytes, reason: object) -> str:
    """The refusal of a serialized OTLP Span for this reason."""
    span = wire.Span.FromString(raw)
    span_name = span.name[:100].decode(errors="replace")
    return f"span {span_name!r} (trace {span.trace_id[:16].hex()}, span {span.span_id[:8].hex()}) refused: {reason}"


# Rows of traces_data --------------------------------------------------------------------------------------------------


def traces_data(sources: dict[Source, list[bytes]]) -> bytes:
    """A serialized OTLP TracesData of serialized OTLP Spans."""
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


def requests(messages: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The spans of serialized OTLP TracesData in messages of at most `limit` bytes, or of a single larger span.

    Raises DecodeError.
    """
    parts = (part for message in messages for part in _parts(message, limit))
    # Concatenated messages of one type are one message with the repeated fields of all.
    yield from map(b"".join, batches(parts, len, limit))


def _parts(data: bytes, limit: int) -> Iterator[bytes]:
    if len(data) <= limit:
        yield data
        return
    for source, raw_spans in sources(wire.TracesData.FromString(data)):
        for spans in batches(raw_spans, len, limit):
            yield traces_data({source: spans})


def batches(items: Iterable[Item], size_of: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """The items in lists with a total size of at most `limit`, or of a single larger item."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and size + size_of(item) > limit:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += size_of(item)
    if batch:
        yield batch


def _by_trace(spans: Iterable[Span]) -> dict[bytes, list[Span]]:
    traces: dict[bytes, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    return traces


def _traces_data_rows(traces: dict[bytes, list[Span]]) -> Iterator[bytes]:
    """One row per trace. Spans of one trace and source keep their order."""
    size = 0
    for trace_id, spans in traces.items():
        raw_spans: dict[Source, list[bytes]] = {}
        for span in spans:
            raw_spans.setdefault(span.source, []).append(span.raw)
        data = zstandard.compress(traces_data(raw_spans), 1)
        last_start = max(span.start_time_unix_nano for span in spans)
        size += len(data)
        if size > MAX_ROWS_BYTES:
            raise TooLarge
        yield copying.traces_data_row(trace_id, last_start // 1000 - POSTGRES_EPOCH_MICROS, data)


# Rows of span ---------------------------------------------------------------------------------------------------------


class _Resource(NamedTuple):
    id: int
    row: tuple[object, ...]
    service_name: str
    size: int  # bytes of the OTLP message and its schema_url


class _Scope(NamedTuple):
    id: int
    row: tuple[object, ...]
    size: int  # bytes of the OTLP message and its schema_url


_STATUS_FIELDS = {number: copying.field(label.encode()) for number, label in enumerate(STATUS_CODES)}
_NO_DROPS = 3 * NULL


def _span_row(span: wire.Span, resource: _Resource, scope: _Scope, tag_sets: TagSets) -> tuple[Origin, bytes]:
    trace_id, span_id, parent_span_id = span.trace_id, span.span_id, span.parent_span_id
    _check_id("trace_id", trace_id, 16)
    _check_id("span_id", span_id, 8)
    if parent_span_id and len(parent_span_id) != 8:
        raise RefusedSpan(f"parent_span_id has {len(parent_span_id)} bytes instead of 8")
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    # OTLP: a receiver that does not know a kind treats it as unspecified.
    kind = span.kind if 0 <= span.kind < len(SPAN_KINDS) else 0
    origin = _origin(resource, scope, kind, span.name)
    dropped = (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count)
    start_micros = start // 1000
    # In the order of copying.SPAN_COLUMNS.
    row = b"".join(
        (
            copying.span_head(trace_id, span_id, start_micros - POSTGRES_EPOCH_MICROS, (end - start) / 1e6),
            # Some senders write eight zero bytes where there is no parent.
            copying.int8_field(int.from_bytes(parent_span_id, signed=True)) if any(parent_span_id) else NULL,
            copying.int8_field(origin.id),
            _STATUS_FIELDS.get(span.status.code, _STATUS_FIELDS[0]),
            copying.int2_field(start % 1000),
            b"".join(map(_count_field, dropped)) if any(dropped) else _NO_DROPS,
            _text_field(span.trace_state, "trace_state"),
            _text_field(span.status.message, "status.message"),
            _tag_fields(span.attributes, tag_sets.by_origin.get(origin.id)),
            copying.jsonb_field(b"[%b]" % b",".join([_event(event, start_micros) for event in span.events]))
            if span.events
            else NULL,
            copying.jsonb_field(b"[%b]" % b",".join(map(_link, span.links))) if span.links else NULL,
        )
    )
    return origin, row


def _check_id(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise RefusedSpan(f"{name} has {len(value)} bytes instead of {length}")
    if not any(value):
        raise RefusedSpan(f"{name} is all zero")


def _count_field(count: int) -> bytes:
    return copying.int4_field(min(count, INT4_MAX))


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode().replace("\0", "\ufffd")
    except UnicodeDecodeError as error:
        raise RefusedSpan(f"{name} is not valid UTF-8: {error.reason} at byte {error.start}") from None


def _text_field(data: bytes, name: str) -> bytes:
    return copying.field(_text(data, name).encode()) if data else NULL


def _event(event: wire.Event, start_micros: int) -> bytes:
    """[microseconds since the span's start, name, {attributes}, dropped attributes] without empty values at the end."""
    head = b"[%d,%b" % (event.time_unix_nano // 1000 - start_micros, _event_name(event.name))
    if dropped := event.dropped_attributes_count:
        return b"%b,%b,%d]" % (head, _attributes(event.attributes), min(dropped, INT4_MAX))
    return b"%b,%b]" % (head, _attributes(event.attributes)) if event.attributes else head + b"]"


def _link(link: wire.Link) -> bytes:
    """{"t": trace id, "s": span id, "a": {attributes}, "d": dropped attributes}, the ids in hex."""
    _text(link.trace_state, "a link's trace_state")
    # OpenTelemetry allows a link with invalid ids: it is stored without ids, and leads to no span.
    ids = b'"t":"%b","s":"%b",' % (link.trace_id.hex().encode(), link.span_id.hex().encode())
    dropped = link.dropped_attributes_count
    return b'{%b"a":%b%b}' % (
        ids if len(link.trace_id) == 16 and len(link.span_id) == 8 else b"",
        _attributes(link.attributes),
        b',"d":%d' % min(dropped, INT4_MAX) if dropped else b"",
    )


def _tag_fields(attributes: Sequence[bytes], tag_set: TagSet | None) -> bytes:
    """The fields tag_set_id and span_tags: the tag set, if the span has each of its attributes once, and the others."""
    if not attributes:
        return 2 * NULL
    members = _members(attributes)
    if tag_set:
        others = [member for member in members if member not in tag_set.members]
        # Of attributes with the same key, the last one counts: such a span keeps all of its attributes.
        if (
            len(members) - len(others) == len(tag_set.members)
            and tag_set.members.issubset(members)
            and not any(member.startswith(tag_set.keys) for member in others)
        ):
            return copying.int4_field(tag_set.id) + (copying.jsonb_field(_object(others)) if others else NULL)
    return NULL + copying.jsonb_field(_object(members))


def _attributes(key_values: Iterable[bytes]) -> bytes:
    return _object(_members(key_values))


def _object(members: Iterable[bytes]) -> bytes:
    return b"{%b}" % b",".join(members)


def _members(key_values: Iterable[bytes]) -> list[bytes]:
    # The hottest path of ingestion: it calls the cache directly, without the function that _cached would put before it.
    return [_cached_member(item) if len(item) <= _CACHED_MEMBER_BYTES else _member(item) for item in key_values]


# Values ---------------------------------------------------------------------------------------------------------------


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
    """JSON of a value whose OTLP message has `size` bytes."""
    # orjson reserves eight times the size of a text, which is too much memory for a large one.
    if size < _LARGE_VALUE_BYTES:
        return orjson.dumps(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def plain(value: AnyValue) -> object:
    """An OTLP value as SQL shows it: a value that JSON can hold."""
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
        case bool_or_int:
            return getattr(value, bool_or_int)


def truncated_name(text: str) -> str:
    """A service's or a span's name as SQL shows it: without NUL, and with at most MAX_NAME_BYTES of UTF-8."""
    text = text.replace("\0", "\ufffd")
    return text if len(text) * 4 <= MAX_NAME_BYTES else text.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _plain_double(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _plain_map(key_values: Iterable[KeyValue]) -> dict[str, object]:
    return {item.key.replace("\0", "\ufffd"): plain(item.value) for item in key_values}


def _hash(*parts: bytes) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(b"%d:%b" % (len(part), part))
    return int.from_bytes(digest.digest(), signed=True)


# Cache encodings of repeated values. Each cache has a limited number of entries and takes only small values, which
# bounds its memory. One byte can become six in JSON: together the caches have 20 MB as a rule and 100 MB at most.

_CACHED_MEMBER_BYTES = 256
_CACHED_ENVELOPE_BYTES = 2048
_LARGE_VALUE_BYTES = 2**20

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


def _cached(
    entries: int, max_bytes: int, size_of: Callable[[*Arguments], int]
) -> Callable[[Callable[[*Arguments], Result]], Callable[[*Arguments], Result]]:
    """Decorates a function with an LRU cache that takes results for arguments of at most `max_bytes` only."""

    def decorate(function: Callable[[*Arguments], Result]) -> Callable[[*Arguments], Result]:
        cached = lru_cache(maxsize=entries)(function)

        def call(*arguments: *Arguments) -> Result:
            return (cached if size_of(*arguments) <= max_bytes else function)(*arguments)

        return call

    return decorate


def _envelope_size(content: bytes | None, schema_url: bytes | None) -> int:
    return len(content or b"") + len(schema_url or b"")


def _origin_size(resource: _Resource, scope: _Scope, kind: int, span_name: bytes) -> int:
    return resource.size + scope.size + len(span_name)


_cached_member = lru_cache(maxsize=16_384)(_member)


@_cached(4096, _CACHED_MEMBER_BYTES, bytes.__len__)
def _event_name(name: bytes) -> bytes:
    return orjson.dumps(_text(name, "an event's name"))


@_cached(2048, _CACHED_ENVELOPE_BYTES, _origin_size)
def _origin(resource: _Resource, scope: _Scope, kind: int, span_name: bytes) -> Origin:
    name = truncated_name(_text(span_name, "its name"))
    operation = (resource.service_name, SPAN_KINDS[kind], name)
    operation_id = _hash(resource.service_name.encode(), b"%d" % kind, name.encode())
    origin_id = _hash(b"%d,%d,%d" % (operation_id, resource.id, scope.id))
    return Origin(origin_id, operation_id, operation, resource.id, resource.row, scope.id, scope.row)


@_cached(512, _CACHED_ENVELOPE_BYTES, _envelope_size)
def _resource(resource: bytes | None, schema_url: bytes | None) -> _Resource:
    try:
        message = Resource.FromString(resource or b"")
    except DecodeError:
        raise RefusedSpan("its resource is not a valid OTLP Resource") from None
    service_name = UNKNOWN_SERVICE
    for attribute in message.attributes:
        if attribute.key == "service.name" and attribute.value.string_value:
            service_name = truncated_name(attribute.value.string_value)
    row = (
        _json(_plain_map(message.attributes), len(resource or b"")).decode(),
        min(message.dropped_attributes_count, INT4_MAX),
        _text(schema_url or b"", "its resource's schema_url") or None,
    )
    resource_id = _hash(resource or b"", schema_url or b"")
    return _Resource(resource_id, row, service_name, _envelope_size(resource, schema_url))


@_cached(512, _CACHED_ENVELOPE_BYTES, _envelope_size)
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
    return _Scope(_hash(scope or b"", schema_url or b""), row, _envelope_size(scope, schema_url))
