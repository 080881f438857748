"""Measures how fast traces are read from a store with many spans.

    python -m benchmarks.query                                      starts a PostgreSQL and a promscale, and fills them
    python -m benchmarks.query --endpoint HOST:PORT --dsn DSN       a running store, filled if it has too few spans
    python -m benchmarks.query ... --jaeger http://HOST:PORT        also the HTTP API of a Jaeger that reads from it

Each result is the median of five times, in milliseconds.
"""

import argparse
import contextlib
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import aiosql
import grpc
import psycopg
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

import queries
from benchmarks import store as stores
from benchmarks.recording import Replay
from benchmarks.senders import send
from promscale import jaeger_pb2 as messages
from promscale.jaeger import DEPENDENCY_READER, TRACE_READER

EXPORT_SPANS = 8192
HOURS = 24
TIMES = 5
SERVICE, OPERATION = "lower", "GET /"


def fill(target: stores.Promscale, spans: int) -> None:
    """Store this number of spans, evenly distributed over the last hours, if there are fewer."""
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        if stores.one_value(connection, "select count(*) from span") >= spans:
            return
    exports = -(-spans // Replay(EXPORT_SPANS).spans)
    end, duration = time.time_ns(), HOURS * 3600 * 10**9
    print(f"Storing {spans:,} spans", flush=True)
    send(target.endpoint, EXPORT_SPANS, (end - duration + duration * number // exports for number in range(exports)))


def sizes(dsn: str) -> Iterator[tuple[str, int, float, float, float]]:
    """Of open and closed partitions: state, number of spans, and bytes per span of rows, indexes and OTLP."""
    statement = """
        select
            case when closed_at is null then 'open' else 'closed' end, sum(spans),
            sum(row_bytes) / sum(spans), sum(index_bytes) / sum(spans), sum(lossless_bytes) / sum(spans)
        from ps_trace.disk_usage
        where spans > 0
        group by 1
    """
    with psycopg.connect(dsn) as connection:
        yield from connection.execute(statement)


def median_ms(read: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


def statements(dsn: str) -> Iterator[tuple[str, float, float]]:
    """Of each statement in queries/: its name, and the time that it takes for the last hour and for all hours."""
    executable = aiosql.from_path(queries.FOLDER, "psycopg", kwargs_only=True)
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        end = stores.one_value(connection, "select max(start_time) from span")

        def statement_ms(name: str, hours: int) -> float:
            values = {"time_from": end - timedelta(hours=hours), "time_to": end}
            values |= {"service": SERVICE, "operation": OPERATION, "step": "1 second"}
            return median_ms(lambda: list(getattr(executable, name)(connection, **values)))

        for name in sorted(queries.statements()):
            yield name, statement_ms(name, 1), statement_ms(name, HOURS)


@dataclass
class Examples:
    """Stored data to search for."""

    end: datetime  # the start of the last span
    trace_id: UUID  # of a trace half an hour before
    long_ms: float  # one in 10,000 spans takes longer

    @classmethod
    def read(cls, dsn: str) -> "Examples":
        trace = "select trace_id from span where start_time < %s and is_root_span order by start_time desc limit 1"
        percentile = (
            "select percentile_cont(0.9999) within group (order by duration_ms) from span where start_time > %s"
        )
        with psycopg.connect(dsn) as connection:
            end = stores.one_value(connection, "select max(start_time) from span")
            return cls(
                end=end,
                trace_id=stores.one_value(connection, trace, end - timedelta(minutes=30)),
                long_ms=stores.one_value(connection, percentile, end - timedelta(minutes=5)),
            )


class Reader:
    """Calls of Jaeger's storage protocol."""

    def __init__(self, channel: grpc.Channel, examples: Examples) -> None:
        self._channel = channel
        self._examples = examples

    def calls(self) -> Iterator[tuple[str, float]]:
        end, trace_id = self._examples.end, self._examples.trace_id.bytes
        yield "one trace", self._ms("GetTraces", messages.GetTracesRequest(query=[{"trace_id": trace_id}]))
        searches: dict[str, dict[str, Any]] = {
            "by service": {"service_name": SERVICE.encode()},
            "by operation": {"service_name": SERVICE.encode(), "operation_name": b"random_lower"},
            "by a frequent tag": {"attributes": [_tag("http.response.status_code", "200")]},
            "by a rare tag": {"attributes": [_tag("char", "Q")]},
            "by a tag that no span has": {"attributes": [_tag("char", "none")]},
            "by service and tag": {"service_name": SERVICE.encode(), "attributes": [_tag("char", "q")]},
            "by minimum duration": {"duration_min": _duration(self._examples.long_ms)},
            "by service without spans": {"service_name": b"unknown"},
        }
        requests = {
            name: messages.FindTracesRequest(
                query=messages.TraceQueryParameters(
                    start_time_min=_timestamp(end - timedelta(hours=1)),
                    start_time_max=_timestamp(end),
                    search_depth=20,
                    **fields,
                )
            )
            for name, fields in searches.items()
        }
        for name, request in requests.items():
            yield f"20 traces of the last hour {name}", self._ms("FindTraces", request)
        yield "summaries of those by service", self._ms("FindTraceSummaries", requests["by service"])
        yield "services", self._ms("GetServices", messages.GetServicesRequest())
        yield "operations", self._ms("GetOperations", messages.GetOperationsRequest(service=SERVICE.encode()))
        day = messages.GetDependenciesRequest(
            start_time=_timestamp(end - timedelta(hours=HOURS)), end_time=_timestamp(end)
        )
        yield f"dependencies of the last {HOURS} hours", self._ms("GetDependencies", day)

    def _ms(self, method: str, request: Message) -> float:
        service = DEPENDENCY_READER if method == "GetDependencies" else TRACE_READER
        call: grpc.UnaryStreamMultiCallable = self._channel.unary_stream(f"/{service}/{method}")
        return median_ms(lambda: list(call(request.SerializeToString(), timeout=120)))


def jaeger_reads(url: str, examples: Examples) -> Iterator[tuple[str, float]]:
    """Requests of Jaeger's UI to Jaeger's HTTP API."""
    begin, end = examples.end - timedelta(hours=1), examples.end
    hour = {"end": _micros(end), "start": _micros(begin), "limit": 20, "service": SERVICE}
    requests: dict[str, tuple[str, dict[str, object]]] = {
        "one trace": (f"traces/{examples.trace_id.hex}", {}),
        "20 traces of the last hour by service": ("traces", hour),
        "by service and tag": ("traces", hour | {"tags": '{"char": "q"}'}),
        "by service and minimum duration": ("traces", hour | {"minDuration": f"{examples.long_ms}ms"}),
        "by a tag that no span has": ("traces", hour | {"tags": '{"char": "none"}'}),
        "by a duration that no span has": ("traces", hour | {"minDuration": "1h"}),
    }
    for name, (path, parameters) in requests.items():
        address = f"{url}/api/{path}?{urlencode(parameters)}"
        yield name, median_ms(partial(_get, address))


def _get(address: str) -> None:
    with urllib.request.urlopen(address, timeout=120) as response:
        response.read()


def _tag(key: str, value: str) -> bytes:
    return KeyValue(key=key, value=AnyValue(string_value=value)).SerializeToString()


def _micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _timestamp(time: datetime) -> messages.Timestamp:
    return messages.Timestamp(seconds=int((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()))


def _duration(milliseconds: float) -> messages.Duration:
    seconds, rest = divmod(int(milliseconds * 1_000_000), 10**9)
    return messages.Duration(seconds=seconds, nanos=rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="host:port of OTLP/gRPC and Jaeger's protocol; requires --dsn")
    parser.add_argument("--dsn", help="the store's database")
    parser.add_argument("--jaeger", help="the URL of a Jaeger that reads from this store")
    parser.add_argument("--spans", type=int, default=24_000_000)
    options = parser.parse_args()
    if bool(options.endpoint) != bool(options.dsn) or (options.jaeger and not options.dsn):
        parser.error("--endpoint and --dsn must be given together, and --jaeger requires both")
    running = options.endpoint and contextlib.nullcontext(stores.Promscale.running(options.endpoint, options.dsn))
    with running or stores.own() as target:
        fill(target, options.spans)
        target.wait_for_upkeep()
        print(f"{'partitions':<12}{'spans':>12}{'rows':>8}{'indexes':>9}{'OTLP':>6}  bytes per span")
        for state, spans, *parts in sizes(target.dsn):
            print(f"{state:<12}{spans:>12,}{parts[0]:>8.0f}{parts[1]:>9.0f}{parts[2]:>6.0f}  {sum(parts):.0f} in total")
        print(f"{'statement':36}{'last hour':>12}{'24 h':>12}")
        for name, hour, day in statements(target.dsn):
            print(f"{name:36}{hour:12.0f}{day:12.0f}", flush=True)
        examples = Examples.read(target.dsn)
        print("\nJaeger reads, gRPC")
        with grpc.insecure_channel(target.endpoint) as channel:
            for name, milliseconds in Reader(channel, examples).calls():
                print(f"{name:48}{milliseconds:12.1f}", flush=True)
        if options.jaeger:
            print("\nJaeger reads, HTTP JSON")
            for name, milliseconds in jaeger_reads(options.jaeger, examples):
                print(f"{name:48}{milliseconds:12.1f}", flush=True)


if __name__ == "__main__":
    main()
