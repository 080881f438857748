"""How fast spans are stored.

python -m benchmarks.ingest                                           our own store, started for it
python -m benchmarks.ingest --endpoint HOST:PORT --dsn DSN            any that takes OTLP/gRPC and has the view span
"""

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import grpc
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import store as stores
from benchmarks.recording import Replay
from promscale import otlp
from promscale.store import Store, copy_rows

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SENDERS = 4
CEILING_CONNECTIONS = 2
CEILING_SPANS = 300_000
# A sender that is told that the store is full asks again after so many seconds.
RETRY_SECONDS = 0.1


@dataclass
class Sent:
    spans: int = 0
    bytes: int = 0
    retries: int = 0
    seconds: float = 0
    latencies: list[float] = field(default_factory=list)


def now_and_again(seconds: float, interval: float) -> Iterator[int]:
    """The time, in nanoseconds since 1970, for so many seconds, at most once in an interval of seconds."""
    began = time.monotonic()
    for turn in count():
        time.sleep(max(0.0, began + turn * interval - time.monotonic()))
        if time.monotonic() > began + seconds:
            return
        yield time.time_ns()


def send(endpoint: str, spans: int, times: Iterator[int]) -> Sent:
    """An export of that many spans for each of the times at which they are to have happened; waits for every answer."""
    sent = Sent()
    lock, turn = threading.Lock(), threading.Lock()
    began = time.monotonic()

    def sender() -> None:
        replay = Replay(spans)
        with grpc.insecure_channel(endpoint, options=[("grpc.max_send_message_length", -1)]) as channel:
            export = channel.unary_unary(EXPORT, response_deserializer=ExportTraceServiceResponse.FromString)
            while True:
                with turn:
                    at = next(times, None)
                if at is None:
                    return
                request = replay.request(at)
                started = time.monotonic()
                retries = export_until_stored(export, request)
                took = time.monotonic() - started
                with lock:
                    sent.spans += replay.spans
                    sent.bytes += len(request)
                    sent.retries += retries
                    sent.latencies.append(took)

    with ThreadPoolExecutor(SENDERS) as threads:
        for ended in [threads.submit(sender) for _ in range(SENDERS)]:
            ended.result()
    sent.seconds = time.monotonic() - began
    return sent


def export_until_stored(export, request: bytes) -> int:
    """Returns how often the store asked to send again. Raises grpc.RpcError for any other failure."""
    for retries in count():
        try:
            answer = export(request, timeout=60)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            if answer.partial_success.rejected_spans:
                raise RuntimeError(answer.partial_success.error_message)
            return retries


def ceiling(dsn: str, spans: int) -> float:
    """Spans a second when the same rows, encoded beforehand, are copied into the same tables of another database."""
    scratch = make_conninfo(**conninfo_to_dict(dsn) | {"dbname": "copy_ceiling"})
    name = sql.Identifier("copy_ceiling")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(name))
        try:
            Store(scratch).migrate()
            replay = Replay(spans)
            batches = [
                otlp.encode(replay.request(time.time_ns()))[0] for _ in range(max(4, CEILING_SPANS // replay.spans))
            ]
            waiting = iter(batches)
            lock = threading.Lock()

            def writer() -> None:
                with psycopg.connect(scratch, autocommit=True) as own:
                    while True:
                        with lock:
                            rows = next(waiting, None)
                        if rows is None:
                            return
                        with own.transaction():
                            copy_rows(own, [rows])

            threads = [threading.Thread(target=writer) for _ in range(CEILING_CONNECTIONS)]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return replay.spans * len(batches) / (time.monotonic() - began)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


class Peak(threading.Thread):
    """The most memory that the store held while this ran."""

    def __init__(self, process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._done = threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._done.wait(0.5):
            self.bytes = max(self.bytes, stores.memory_bytes(self._process))

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.bytes


def measure(target: stores.Target, spans: int, seconds: float, rate: float | None) -> dict[str, str]:
    """One run, as rows of a table."""
    with psycopg.connect(target.dsn, autocommit=True) as connection:

        def stored() -> tuple[int, int]:
            return connection.execute("select count(*), pg_database_size(current_database()) from span").fetchone()

        processes = {"store": target.store, "database": target.database}
        spans_before, bytes_before = stored()
        before = {name: stores.cpu_seconds(process) for name, process in processes.items() if process}
        peak = Peak(target.store) if target.store else None
        if peak:
            peak.start()
        interval = Replay(spans).spans / rate if rate else 0
        sent = send(target.endpoint, spans, now_and_again(seconds, interval))
        used = {name: stores.cpu_seconds(processes[name]) - cpu for name, cpu in before.items()}
        memory = peak.stop() if peak else 0
        spans_after, bytes_after = stored()
    if spans_after - spans_before != sent.spans:
        raise RuntimeError(f"{sent.spans} spans were acknowledged, and {spans_after - spans_before} are there")
    latencies = sorted(sent.latencies)

    def latency(percent: float) -> str:
        return f"{1000 * latencies[min(len(latencies) - 1, int(percent / 100 * len(latencies)))]:.0f} ms"

    row = {
        "spans an export": f"{sent.spans / len(latencies):.0f}",
        "spans": f"{sent.spans:,}, all there",
        "spans/s": f"{sent.spans / sent.seconds:,.0f}",
        "acknowledged after p50, p95, p99": ", ".join(map(latency, (50, 95, 99))),
        "asked to send again": str(sent.retries),
    }
    for name, cpu in used.items():
        row[f"CPU s/million spans, {name}"] = f"{cpu / sent.spans * 1e6:.1f}"
    if memory:
        row["store's memory at most"] = f"{memory / 2**20:.0f} MB"
    on_disk, received = (bytes_after - bytes_before) / sent.spans, sent.bytes / sent.spans
    row["bytes a span: OTLP, on disk"] = f"{received:.0f}, {on_disk:.0f} ({on_disk / received:.2f} times)"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="host:port of OTLP/gRPC; needs --dsn")
    parser.add_argument("--dsn", help="the database behind it")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--spans", type=int, default=8192, help="an export")
    parser.add_argument("--rate", type=float, help="spans a second at most")
    options = parser.parse_args()
    if bool(options.endpoint) != bool(options.dsn):
        parser.error("--endpoint and --dsn go together")
    given = options.endpoint and contextlib.nullcontext(stores.running(options.endpoint, options.dsn))
    with given or stores.own() as target:
        row = measure(target, options.spans, options.seconds, options.rate)
        if not options.endpoint and not options.rate:
            most = ceiling(target.dsn, options.spans)
            share = float(row["spans/s"].replace(",", "")) / most
            row["COPY of the same rows, ceiling"] = f"{most:,.0f} spans/s; reached {share:.0%}"
    for name, value in row.items():
        print(f"{name:36}{value}")


if __name__ == "__main__":
    main()
