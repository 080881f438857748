"""How fast traces are read where there are many.

    python -m benchmarks.query                                           our own store, started and filled for it
    python -m benchmarks.query --endpoint HOST:PORT --dsn DSN            one that runs already, filled if it has too few
    python -m benchmarks.query ... --jaeger http://HOST:PORT             and by the HTTP JSON of a Jaeger that reads from it

Everything is read five times; the median is shown. Times are milliseconds.
"""

import argparse
import contextlib
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlencode
from uuid import UUID

import aiosql
import grpc
import psycopg
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

import queries
from benchmarks import store as stores
from benchmarks.ingest import send
from benchmarks.recording import Replay
from promscale import jaeger_pb2 as messages
from promscale.jaeger import DEPENDENCY_READER, TRACE_READER

EXPORT_SPANS = 8192
HOURS = 24
TIMES = 5
SERVICE, OPERATION = "lower", "GET /"


def fill(target: stores.Target, spans: int) -> None:
    """Spread that many spans evenly over the last hours, in time's order, if there are fewer."""
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        if connection.execute("select count(*) from span").fetchone()[0] >= spans:
            return
        exports = -(-spans // Replay(EXPORT_SPANS).spans)
        end, span = time.time_ns(), HOURS * 3600 * 10**9
        print(f"Storing {spans:,} spans", flush=True)
        send(target.endpoint, EXPORT_SPANS, (end - span + span * number // exports for number in range(exports)))


def settle(target: stores.Target) -> None:
    """Wait until every minute is summarised and every partition closed that is to be."""
    unfinished = """
        select (select count(*) from _promscale.touched_minute)
            + (select count(*) from _promscale.partition where closed_at is null and ends_at < now() - interval '31 minutes')
    """
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        while connection.execute(unfinished).fetchone()[0]:
            time.sleep(1)
        connection.execute("vacuum analyze")


def sizes(dsn: str) -> Iterator[tuple[str, int, float, float, float]]:
    """Bytes a span in open and in closed partitions: rows, indexes, OTLP bytes."""
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
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        read()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def statements(dsn: str) -> Iterator[tuple[str, float, float]]:
    """Of each statement in queries/: name, time for the last hour, time for all hours."""
    found = aiosql.from_path(queries.FOLDER, "psycopg", kwargs_only=True)
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        end = connection.execute("select max(start_time) from span").fetchone()[0]
        for name in sorted(queries.statements()):
            took = []
            for hours in (1, HOURS):
                values = {"time_from": end - timedelta(hours=hours), "time_to": end}
                values |= {"service": SERVICE, "operation": OPERATION, "step": "1 second"}
                took.append(median_ms(lambda: list(getattr(found, name)(connection, **values))))
            yield name, *took


def _chosen(connection: psycopg.Connection) -> tuple[datetime, UUID, float]:
    """When the last span starts; a trace of half an hour before; and of how many ms one in 10,000 spans is."""
    end = connection.execute("select max(start_time) from span").fetchone()[0]
    statement = "select trace_id from span where start_time < %s and is_root_span order by start_time desc limit 1"
    trace_id = connection.execute(statement, [end - timedelta(minutes=30)]).fetchone()[0]
    statement = "select percentile_cont(0.9999) within group (order by duration_ms) from span where start_time > %s"
    return end, trace_id, connection.execute(statement, [end - timedelta(minutes=5)]).fetchone()[0]


class Reader:
    """Jaeger's calls."""

    def __init__(self, channel: grpc.Channel, dsn: str) -> None:
        self._channel = channel
        with psycopg.connect(dsn) as connection:
            self._end, trace_id, self._long_ms = _chosen(connection)
            self._trace_id = trace_id.bytes

    def calls(self) -> Iterator[tuple[str, float]]:
        yield "one trace", self._ms("GetTraces", messages.GetTracesRequest(query=[{"trace_id": self._trace_id}]))
        searches = {
            "by service": {"service_name": SERVICE.encode()},
            "by operation": {"service_name": SERVICE.encode(), "operation_name": b"random_lower"},
            "by a frequent tag": {"attributes": [_tag("http.response.status_code", "200")]},
            "by a rare tag": {"attributes": [_tag("char", "Q")]},
            "by a tag that none has": {"attributes": [_tag("char", "none")]},
            "by service and tag": {"service_name": SERVICE.encode(), "attributes": [_tag("char", "q")]},
            "by minimum duration": {"duration_min": _duration(self._long_ms)},
            "by service without spans": {"service_name": b"nobody"},
        }
        requests = {
            name: messages.FindTracesRequest(
                query=messages.TraceQueryParameters(
                    start_time_min=_timestamp(self._end - timedelta(hours=1)),
                    start_time_max=_timestamp(self._end),
                    search_depth=20,
                    **wanted,
                )
            )
            for name, wanted in searches.items()
        }
        for name, request in requests.items():
            yield f"20 traces of the last hour {name}", self._ms("FindTraces", request)
        yield "summaries of those by service", self._ms("FindTraceSummaries", requests["by service"])
        yield "services", self._ms("GetServices", messages.GetServicesRequest())
        yield "operations", self._ms("GetOperations", messages.GetOperationsRequest(service=SERVICE.encode()))
        day = messages.GetDependenciesRequest(
            start_time=_timestamp(self._end - timedelta(hours=HOURS)), end_time=_timestamp(self._end)
        )
        yield f"dependencies of the last {HOURS} hours", self._ms("GetDependencies", day)

    def _ms(self, method: str, request) -> float:
        service = DEPENDENCY_READER if method == "GetDependencies" else TRACE_READER
        call = self._channel.unary_stream(f"/{service}/{method}")
        return median_ms(lambda: list(call(request.SerializeToString(), timeout=120)))


def jaeger_reads(url: str, dsn: str) -> Iterator[tuple[str, float]]:
    """What Jaeger's page asks for, as JSON."""
    with psycopg.connect(dsn) as connection:
        end, trace_id, long_ms = _chosen(connection)
    hour = {"end": _micros(end), "start": _micros(end - timedelta(hours=1)), "limit": 20, "service": SERVICE}
    asked: dict[str, tuple[str, dict[str, object]]] = {
        "one trace": (f"traces/{trace_id.hex}", {}),
        "20 traces of the last hour by service": ("traces", hour),
        "by service and tag": ("traces", hour | {"tags": '{"char": "q"}'}),
        "by service and minimum duration": ("traces", hour | {"minDuration": f"{long_ms}ms"}),
        "by a tag that none has": ("traces", hour | {"tags": '{"char": "none"}'}),
        "by a duration that none has": ("traces", hour | {"minDuration": "1h"}),
    }
    for name, (path, parameters) in asked.items():
        address = f"{url}/api/{path}?{urlencode(parameters)}"
        yield name, median_ms(partial(_get, address))


def _get(address: str) -> None:
    with urllib.request.urlopen(address, timeout=120) as answer:
        answer.read()


def _tag(key: str, value: str) -> bytes:
    return KeyValue(key=key, value=AnyValue(string_value=value)).SerializeToString()


def _micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _timestamp(time: datetime) -> object:
    return messages.Timestamp(seconds=int((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()))


def _duration(milliseconds: float) -> object:
    seconds, rest = divmod(int(milliseconds * 1_000_000), 10**9)
    return messages.Duration(seconds=seconds, nanos=rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="host:port of OTLP/gRPC and of Jaeger's protocol; needs --dsn")
    parser.add_argument("--dsn", help="the database behind it")
    parser.add_argument("--jaeger", help="the address of a Jaeger that reads from there")
    parser.add_argument("--spans", type=int, default=24_000_000)
    options = parser.parse_args()
    if bool(options.endpoint) != bool(options.dsn) or (options.jaeger and not options.dsn):
        parser.error("--endpoint and --dsn go together, and --jaeger with both")
    given = options.endpoint and contextlib.nullcontext(stores.running(options.endpoint, options.dsn))
    with given or stores.own() as target:
        fill(target, options.spans)
        settle(target)
        print(f"{'partitions':<12}{'spans':>12}{'rows':>8}{'indexes':>9}{'OTLP':>6}  bytes a span")
        for state, spans, *parts in sizes(target.dsn):
            print(f"{state:<12}{spans:>12,}{parts[0]:>8.0f}{parts[1]:>9.0f}{parts[2]:>6.0f}  {sum(parts):.0f} together")
        print(f"{'statement':36}{'last hour':>12}{'24 h':>12}")
        for name, hour, day in statements(target.dsn):
            print(f"{name:36}{hour:12.0f}{day:12.0f}", flush=True)
        print("\nJaeger reads, gRPC")
        with grpc.insecure_channel(target.endpoint) as channel:
            for name, took in Reader(channel, target.dsn).calls():
                print(f"{name:48}{took:12.1f}", flush=True)
        if options.jaeger:
            print("\nJaeger reads, HTTP JSON")
            for name, took in jaeger_reads(options.jaeger, target.dsn):
                print(f"{name:48}{took:12.1f}", flush=True)


if __name__ == "__main__":
    main()
