"""Jaeger's remote storage protocol, version 2 (package jaeger.storage.v2), on the same port as OTLP.

Each call is one read-only transaction as the role prom_reader. Large answers are streamed from a database cursor at the
speed of the client (backpressure). When the client disconnects, its database statement is cancelled.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import resources
from typing import Any, LiteralString, NamedTuple, TypeVar
from uuid import UUID

import aiosql
import grpc
import orjson
import psycopg
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from psycopg import errors, sql
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout

from promscale import jaeger_pb2 as messages
from promscale import otlp
from promscale.database import conninfo
from promscale.frames import Decompressor

TRACE_READER = f"{messages.DESCRIPTOR.package}.TraceReader"
DEPENDENCY_READER = f"{messages.DESCRIPTOR.package}.DependencyReader"

CONNECTIONS = 8
# Concurrent calls, of which some wait for a connection. The server's other threads are left to exports.
MAX_CALLS = 16
CONNECTION_SECONDS = 5
STATEMENT_SECONDS = 60
# A trace is sent in messages of about this size: gRPC clients accept up to 4 MiB by default.
CHUNK_BYTES = 2**20
FETCH_ROWS = 100
FETCH_TRACES_DATA = 4
SUMMARIES_PER_MESSAGE = 100
MAX_SEARCH_DEPTH = 10_000
DEFAULT_SEARCH_DEPTH = 100  # the default of Jaeger's own storages
# Attributes in Jaeger that are fields in OTLP, and so are in none of the Bloom filters of attributes.
FIELDS_AS_ATTRIBUTES = (
    "error", "span.kind", "otel.status_code", "otel.status_description", "otel.scope.name", "otel.scope.version"
)  # fmt: skip
UINT64_MAX = 2**64 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2600, 1, 1, tzinfo=UTC)  # OTLP's times, nanoseconds since 1970 in 64 bits, end before
_RESOLUTION = timedelta(microseconds=1)
_WINDOWS = 12  # almost three days
# protobuf's limits of a Timestamp, 0001-01-01 and 9999-12-31; the first is also Go's zero time, which means "not set".
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799
_MAX_DURATION_SECONDS = 315_576_000_000  # protobuf's limit of a Duration: 10,000 years

_TimeRange = tuple[datetime, datetime]  # with both ends
_Request = TypeVar("_Request", bound=Message)
_Query = TypeVar("_Query")
_SearchRequest = messages.FindTracesRequest | messages.FindTraceIDsRequest | messages.FindTraceSummariesRequest

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "jaeger.sql").read_text(), "psycopg")
# For other readers of the views jaeger_*, so that their searches and Jaeger's have the same results.
HAS_ATTRIBUTE: LiteralString = _queries.has_attribute.sql
TRACE_SUMMARIES: LiteralString = _queries.trace_summaries.sql


class BadRequest(ValueError):
    """The request is not valid in Jaeger's protocol; the message names the field."""


class Attribute(NamedTuple):
    """An attribute to search for: its key, and the values that match."""

    key: str
    values: list[object]

    @classmethod
    def of(cls, key: str, value: object) -> "Attribute":
        """Jaeger's search box sends texts only: 123 matches the number as well, and true the boolean."""
        values = [value]
        if isinstance(value, str):
            values = [value.replace("\0", "\ufffd")]
            with contextlib.suppress(orjson.JSONDecodeError):
                parsed = orjson.loads(value)
                values += [parsed] if isinstance(parsed, (bool, int, float)) else []
        return cls(key.replace("\0", "\ufffd"), values)

    def parameters(self) -> dict[str, object]:
        """The values of the placeholders in `HAS_ATTRIBUTE`."""
        return {
            "key": self.key,
            "values": [_jsonb(value) for value in self.values],
            "events": [_jsonb([[{self.key: value}]]) for value in self.values],
            "links": [_jsonb([{"a": {self.key: value}}]) for value in self.values],
        }


class Search(NamedTuple):
    """The contents of a TraceQueryParameters. `depth` limits the number of traces; durations are milliseconds."""

    start_time_min: datetime | None
    start_time_max: datetime | None
    service_name: str | None
    operation_name: str | None
    duration_min: float | None
    duration_max: float | None
    attributes: list[Attribute]
    depth: int


class Jaeger:
    """Reads the store on the database at `uri` for Jaeger. Call `close` after the gRPC server has stopped."""

    def __init__(self, uri: str) -> None:
        self._pool = ConnectionPool(
            conninfo(uri, "promscale-jaeger"),
            kwargs={
                "autocommit": True,
                # No prepared statements: a generic plan would serve one minute and 24 h alike.
                "prepare_threshold": None,
            },
            configure=_become_reader,
            check=ConnectionPool.check_connection,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=CONNECTION_SECONDS,
            open=True,
        )
        self._calls = threading.BoundedSemaphore(MAX_CALLS)

    def close(self) -> None:
        self._pool.close()

    def services(self) -> "dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]]":
        """Handlers, by gRPC service and method."""
        stream, unary = self._stream, self._unary
        return {
            TRACE_READER: {
                "GetTraces": stream(messages.GetTracesRequest, _trace_ids, _traces),
                "GetServices": unary(messages.GetServicesRequest, lambda request: None, _services),
                "GetOperations": unary(messages.GetOperationsRequest, _operation_filter, _operations),
                "FindTraces": stream(messages.FindTracesRequest, _search, _find_traces),
                "FindTraceIDs": unary(messages.FindTraceIDsRequest, _search, _find_trace_ids),
                "FindTraceSummaries": stream(messages.FindTraceSummariesRequest, _search, _find_summaries),
            },
            DEPENDENCY_READER: {
                "GetDependencies": unary(messages.GetDependenciesRequest, _time_range, _dependencies),
            },
        }

    def _unary(
        self,
        request_class: type[_Request],
        read: Callable[[_Request], _Query],
        answer: Callable[[psycopg.Connection, _Query], Message],
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        def call(data: bytes, context: grpc.ServicerContext) -> bytes:
            with self._answering(context):
                request = read(_parse(request_class, data))
                with self._connection(context) as connection:
                    return answer(connection, request).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(call)

    def _stream(
        self,
        request_class: type[_Request],
        read: Callable[[_Request], _Query],
        answer: Callable[[psycopg.Connection, _Query], Iterator[bytes]],
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        def call(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._answering(context):
                request = read(_parse(request_class, data))
                with self._connection(context) as connection:
                    yield from answer(connection, request)

        return grpc.unary_stream_rpc_method_handler(call)

    @contextlib.contextmanager
    def _answering(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Limits the number of concurrent calls, and answers an exception with the gRPC status for it."""
        if not self._calls.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"already answering {MAX_CALLS} calls: retry later")
        try:
            yield
        except BadRequest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except errors.QueryCanceled:
            context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"a statement took more than {STATEMENT_SECONDS} s: search a shorter time",
            )
        except (PoolTimeout, psycopg.OperationalError, errors.UndefinedTable) as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"database: {' '.join(str(error).split())}")
        finally:
            self._calls.release()

    @contextlib.contextmanager
    def _connection(self, context: grpc.ServicerContext) -> Iterator[psycopg.Connection]:
        """A pooled connection in a transaction. Its statement is cancelled if the call ends before it."""
        reading, lock = True, threading.Lock()

        def cancel() -> None:
            with lock:
                if reading:
                    connection.cancel_safe()

        with self._pool.connection() as connection:
            try:
                if not context.add_callback(cancel):
                    context.abort(grpc.StatusCode.CANCELLED, "the client disconnected")
                with connection.transaction():
                    yield connection
            finally:
                with lock:
                    reading = False


def _become_reader(connection: psycopg.Connection) -> None:
    _queries.become_reader(connection, milliseconds=str(int(STATEMENT_SECONDS * 1000)))


# Requests ------------------------------------------------------------------------------------------------------------


def _parse(request_class: type[_Request], data: bytes) -> _Request:
    try:
        return request_class.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"not a {request_class.DESCRIPTOR.name}: {error}") from None


def _trace_ids(request: messages.GetTracesRequest) -> list[UUID]:
    for number, query in enumerate(request.query):
        if len(query.trace_id) != 16:
            raise BadRequest(f"query[{number}].trace_id has {len(query.trace_id)} bytes instead of 16")
        # Only checked: the times are hints, and spans of the trace may lie outside of them.
        _time_range(query, f"query[{number}].")
    return [UUID(bytes=trace_id) for trace_id in dict.fromkeys(query.trace_id for query in request.query)]


def _operation_filter(request: messages.GetOperationsRequest) -> dict[str, str | None]:
    kind = _name(request.span_kind, "span_kind") or None
    if kind and kind not in otlp.SPAN_KINDS:
        raise BadRequest(f"span_kind {kind[:40]!r} is not one of {', '.join(otlp.SPAN_KINDS)}")
    return {"service_name": _name(request.service, "service"), "span_kind": kind}


def _time_range(
    message: Message, prefix: str = "", start: str = "start_time", end: str = "end_time"
) -> dict[str, datetime | None]:
    """The times in the fields `start` and `end`, by these names; `prefix` precedes them in error messages."""
    begins, ends = _time(message, start, prefix), _time(message, end, prefix)
    if begins and ends and begins > ends:
        raise BadRequest(f"{prefix}{start} is after {prefix}{end}")
    return {start: begins, end: ends}


def _search(request: _SearchRequest) -> Search:
    query = request.query
    if query.filter:
        raise BadRequest("query.filter is not supported")
    if not 0 <= query.search_depth <= MAX_SEARCH_DEPTH:
        raise BadRequest(f"query.search_depth is {query.search_depth}, not between 0 and {MAX_SEARCH_DEPTH}")
    times = _time_range(query, "query.", "start_time_min", "start_time_max")
    now = datetime.now(UTC)
    if times["start_time_max"] is None and (times["start_time_min"] or now) <= now:
        times["start_time_max"] = now  # spans with start times in the future (clock skew) would hide the newest ones
    shortest, longest = _milliseconds(query, "duration_min"), _milliseconds(query, "duration_max")
    if shortest and longest and shortest > longest:
        raise BadRequest("query.duration_min is longer than query.duration_max")
    return Search(
        **times,
        service_name=_name(query.service_name, "query.service_name") or None,
        operation_name=_name(query.operation_name, "query.operation_name") or None,
        duration_min=shortest,
        duration_max=longest,
        attributes=[_attribute(data, number) for number, data in enumerate(query.attributes)],
        depth=query.search_depth or DEFAULT_SEARCH_DEPTH,
    )


def _attribute(data: bytes, number: int) -> Attribute:
    try:
        attribute = KeyValue.FromString(data)
    except DecodeError:
        raise BadRequest(f"query.attributes[{number}] is not a valid KeyValue") from None
    return Attribute.of(attribute.key, otlp.plain(attribute.value))


def attributes_of_times(attributes: Iterable[Attribute]) -> Jsonb:
    """Those attributes by which jaeger_times can skip minutes, as its last argument."""
    return _jsonb([list(attribute) for attribute in attributes if attribute.key not in FIELDS_AS_ATTRIBUTES])


def _jsonb(value: object) -> Jsonb:
    return Jsonb(value, orjson.dumps)


def _name(data: bytes, field: str) -> str:
    try:
        return otlp.truncated_name(data.decode())
    except UnicodeDecodeError:
        raise BadRequest(f"{field} is not valid UTF-8") from None


def _time(message: Message, name: str, prefix: str) -> datetime | None:
    if not message.HasField(name):
        return None
    time = getattr(message, name)
    if not (_MIN_SECONDS <= time.seconds <= _MAX_SECONDS and 0 <= time.nanos < 10**9):
        raise BadRequest(f"{prefix}{name} is not a time between the years 1 and 9999")
    if time.seconds == _MIN_SECONDS:
        return None
    return _EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1000)


def _milliseconds(query: Message, name: str) -> float | None:
    duration = getattr(query, name)
    if not (0 <= duration.seconds <= _MAX_DURATION_SECONDS and 0 <= duration.nanos < 10**9):
        raise BadRequest(f"query.{name} is not a duration between 0 and 10,000 years")
    return (duration.seconds * 10**9 + duration.nanos) / 1e6 or None


# Answers -------------------------------------------------------------------------------------------------------------


def _services(connection: psycopg.Connection, query: None) -> messages.GetServicesResponse:
    return messages.GetServicesResponse(services=[name for (name,) in _queries.services(connection)])


def _operations(
    connection: psycopg.Connection, operation_filter: dict[str, str | None]
) -> messages.GetOperationsResponse:
    rows = _queries.operations(connection, **operation_filter)
    return messages.GetOperationsResponse(
        operations=[messages.Operation(name=name, span_kind=kind) for name, kind in rows]
    )


def _traces(connection: psycopg.Connection, trace_ids: list[UUID]) -> Iterator[bytes]:
    """The traces as serialized OTLP TracesData."""
    decompress = Decompressor(lambda number: _queries.dictionary(connection, id=number))
    for trace_id in trace_ids:
        rows = _rows(connection, _queries.traces_data.sql, FETCH_TRACES_DATA, {"trace_id": trace_id})
        yield from otlp.requests(map(decompress, rows), CHUNK_BYTES)


def _find_traces(connection: psycopg.Connection, search: Search) -> Iterator[bytes]:
    yield from _traces(connection, _find(connection, search))


def _find_trace_ids(connection: psycopg.Connection, search: Search) -> messages.FindTraceIDsResponse:
    trace_ids = _find(connection, search)
    times = {
        trace_id: (int(start), int(end))
        for trace_id, start, end in _queries.trace_times(connection, trace_ids=trace_ids)
    }
    return messages.FindTraceIDsResponse(
        trace_ids=[
            messages.FoundTraceID(
                trace_id=trace_id.bytes, start=_timestamp(times[trace_id][0]), end=_timestamp(times[trace_id][1])
            )
            for trace_id in trace_ids
        ]
    )


def _find_summaries(connection: psycopg.Connection, search: Search) -> Iterator[bytes]:
    for trace_ids in otlp.batches(_find(connection, search), lambda trace_id: 1, SUMMARIES_PER_MESSAGE):
        rows = {row[0]: row for row in _queries.trace_summaries(connection, trace_ids=trace_ids)}
        response = messages.FindTraceSummariesResponse(summaries=[summary(rows[trace_id]) for trace_id in trace_ids])
        yield response.SerializeToString()


def summary(row: tuple[Any, ...]) -> messages.TraceSummary:
    """A row of `TRACE_SUMMARIES` as a message."""
    trace_id, service_name, span_name, start, end, spans, errors, orphans, *services = row
    return messages.TraceSummary(
        trace_id=trace_id.bytes,
        root_service_name=service_name or "",
        root_operation_name=span_name or "",
        min_start_time_unix_nano=int(start),
        max_end_time_unix_nano=_uint64(int(end)),
        span_count=spans,
        error_span_count=errors,
        orphan_span_count=orphans,
        services=[
            messages.ServiceSummary(name=name, span_count=count, error_span_count=failed)
            for name, count, failed in zip(*services, strict=True)
        ],
    )


def _dependencies(
    connection: psycopg.Connection, times: dict[str, datetime | None]
) -> messages.GetDependenciesResponse:
    return messages.GetDependenciesResponse(
        dependencies=[
            messages.Dependency(parent=parent, child=child, call_count=count)
            for parent, child, count in _queries.dependencies(connection, **times)
        ]
    )


def _find(connection: psycopg.Connection, search: Search) -> list[UUID]:
    """The ids of `search.depth` traces that have a matching span, those with the newest such span first."""
    origin_ids = None
    if search.service_name or search.operation_name:
        names = {"service_name": search.service_name, "operation_name": search.operation_name}
        origin_ids = [origin_id for (origin_id,) in _queries.origin_ids(connection, **names)]
    times = _times_to_search(connection, search, origin_ids)
    conditions = [sql.SQL(HAS_ATTRIBUTE).format(**attribute.parameters()) for attribute in search.attributes]
    spans = partial(
        sql.SQL(_queries.matching_spans.sql).format,
        duration_min=search.duration_min or "-infinity",
        duration_max=search.duration_max or "infinity",
        origin_ids=origin_ids,
        conditions=sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true"),
    )
    if not times:
        return []
    if _queries.is_distributed(connection):
        statement, parts = _queries.newest_matching_traces.sql, _windows(times)
    else:
        statement, parts = _queries.matching_traces.sql, iter([times])
    trace_ids: dict[UUID, None] = {}
    for part in parts:
        matching = spans(starts=[start for start, _ in part], ends=[end for _, end in part])
        # For a cursor, PostgreSQL chooses a plan that returns the first rows early; the loop stops when it has enough.
        for trace_id in _rows(connection, sql.SQL(statement).format(spans=matching, depth=search.depth), FETCH_ROWS):
            trace_ids[trace_id] = None
            if len(trace_ids) == search.depth:
                return list(trace_ids)
    return list(trace_ids)


def _windows(times: list[_TimeRange]) -> Iterator[list[_TimeRange]]:
    """The same times in parts, the latest first: the last minute, the two minutes before, the four before, and so on.

    Citus reads all of a part to find its newest spans, so a search for frequent ones should end after the first.
    """
    latest = times[0][1]
    for n in range(_WINDOWS):
        since = latest - timedelta(minutes=2 ** (n + 1) - 1)
        window = [(max(start, since), end) for start, end in times if end >= since]
        times = [(start, min(end, since - _RESOLUTION)) for start, end in times if start < since]
        if window:
            yield window
    if times:
        yield times


def _times_to_search(connection: psycopg.Connection, search: Search, origin_ids: list[int] | None) -> list[_TimeRange]:
    """The parts of the search's time range that may have matching spans, both ends included, the latest first."""
    first, last = max(search.start_time_min or _EPOCH, _EPOCH), search.start_time_max or _LATEST
    if first > last:
        return []
    attributes = attributes_of_times(search.attributes)
    if origin_ids is None and search.duration_min is None and not attributes.obj:
        return [(first, last)]
    candidates = _queries.times(
        connection,
        start_time_min=first,
        start_time_max=last,
        origin_ids=origin_ids,
        duration_min=search.duration_min,
        attributes=attributes,
    )
    times: list[_TimeRange] = []
    for start, end in candidates:
        if times and times[-1][0] == end + _RESOLUTION:
            times[-1] = start, times[-1][1]
        else:
            times.append((start, end))
    return times


def _rows(
    connection: psycopg.Connection,
    statement: str | sql.Composed,
    fetch: int,
    parameters: dict[str, object] | None = None,
) -> Iterator[Any]:
    """The only column of each row, from a server-side cursor that fetches so many rows at a time."""
    with connection.cursor(name="jaeger") as cursor:
        cursor.itersize = fetch
        cursor.execute(statement, parameters)
        for (value,) in cursor:
            yield value


def _uint64(number: int) -> int:
    return min(max(number, 0), UINT64_MAX)


def _timestamp(nanos: int) -> messages.Timestamp:
    seconds, rest = divmod(_uint64(nanos), 10**9)
    return messages.Timestamp(seconds=seconds, nanos=rest)
