"""Measures how fast spans are stored.

python -m benchmarks.ingest                                     starts a PostgreSQL and a promscale, and measures them
python -m benchmarks.ingest --endpoint HOST:PORT --dsn DSN      any running store with OTLP/gRPC and the view `span`
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
import psutil
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks import store as stores
from benchmarks.recording import Replay
from promscale import otlp
from promscale.store import Store, copy_rows

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SENDERS = 4
CEILING_CONNECTIONS = 2
CEILING_SPANS = 300_000
RETRY_SECONDS = 0.1  # the pause of a sender after RESOURCE_EXHAUSTED (backpressure)


@dataclass
class Sent:
    """What the senders have sent, and the response time of each export in seconds."""

    spans: int = 0
    bytes: int = 0
    retries: int = 0
    seconds: float = 0
    latencies: list[float] = field(default_factory=list)


def current_times(seconds: float, interval: float) -> Iterator[int]:
    """The current time in nanoseconds since 1970, at most once per `interval` seconds, until `seconds` have passed."""
    began = time.monotonic()
    for turn in count():
        time.sleep(max(0.0, began + turn * interval - time.monotonic()))
        if time.monotonic() > began + seconds:
            return
        yield time.time_ns()


def send(endpoint: str, spans: int, times: Iterator[int]) -> Sent:
    """Send an export of about `spans` spans that end at each of the `times`, from several threads."""
    sent = Sent()
    lock, times_lock = threading.Lock(), threading.Lock()
    began = time.monotonic()

    def sender() -> None:
        replay = Replay(spans)
        with grpc.insecure_channel(endpoint, options=[("grpc.max_send_message_length", -1)]) as channel:
            export: grpc.UnaryUnaryMultiCallable = channel.unary_unary(
                EXPORT, response_deserializer=ExportTraceServiceResponse.FromString
            )
            while True:
                with times_lock:
                    end = next(times, None)
                if end is None:
                    return
                request = replay.request(end)
                started = time.monotonic()
                retries = export_until_stored(export, request)
                latency = time.monotonic() - started
                with lock:
                    sent.spans += replay.spans
                    sent.bytes += len(request)
                    sent.retries += retries
                    sent.latencies.append(latency)

    with ThreadPoolExecutor(SENDERS) as threads:
        for future in [threads.submit(sender) for _ in range(SENDERS)]:
            future.result()
    sent.seconds = time.monotonic() - began
    return sent


def export_until_stored(export: grpc.UnaryUnaryMultiCallable, request: bytes) -> int:
    """The number of retries after RESOURCE_EXHAUSTED. Raises grpc.RpcError for any other failure."""
    retries = 0
    while True:
        try:
            response = export(request, timeout=60)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            retries += 1
            time.sleep(RETRY_SECONDS)
        else:
            if response.partial_success.rejected_spans:
                raise RuntimeError(response.partial_success.error_message)
            return retries


def ceiling(dsn: str, spans: int) -> float:
    """Spans per second when the same rows, encoded in advance, are copied into the same tables of another database."""
    scratch = make_conninfo(dsn, dbname="copy_ceiling")
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
                with psycopg.connect(scratch, autocommit=True) as writer_connection:
                    while True:
                        with lock:
                            rows = next(waiting, None)
                        if rows is None:
                            return
                        with writer_connection.transaction():
                            copy_rows(writer_connection, [rows])

            threads = [threading.Thread(target=writer) for _ in range(CEILING_CONNECTIONS)]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return replay.spans * len(batches) / (time.monotonic() - began)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


class PeakMemory(threading.Thread):
    """Samples the memory of a process; `stop` returns the maximum in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._stopped = threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._stopped.wait(0.5):
            self.bytes = max(self.bytes, stores.memory_bytes(self._process))

    def stop(self) -> int:
        self._stopped.set()
        self.join()
        return self.bytes


def measure(target: stores.Target, spans: int, seconds: float, rate: float | None) -> dict[str, str]:
    """One run: the rows of the report."""
    with psycopg.connect(target.dsn, autocommit=True) as connection:

        def stored() -> tuple[int, int]:
            [(count, size)] = connection.execute("select count(*), pg_database_size(current_database()) from span")
            return count, size

        processes = {"store": target.store, "database": target.database}
        spans_before, bytes_before = stored()
        measured = {name: process for name, process in processes.items() if process}
        cpu_before = {name: stores.cpu_seconds(process) for name, process in measured.items()}
        peak = PeakMemory(target.store) if target.store else None
        if peak:
            peak.start()
        interval = Replay(spans).spans / rate if rate else 0
        sent = send(target.endpoint, spans, current_times(seconds, interval))
        cpu_used = {name: stores.cpu_seconds(process) - cpu_before[name] for name, process in measured.items()}
        memory = peak.stop() if peak else 0
        spans_after, bytes_after = stored()
    if spans_after - spans_before != sent.spans:
        raise RuntimeError(f"{sent.spans} spans were acknowledged, but {spans_after - spans_before} are stored")
    latencies = sorted(sent.latencies)

    def latency(percent: float) -> str:
        return f"{1000 * latencies[min(len(latencies) - 1, int(percent / 100 * len(latencies)))]:.0f} ms"

    row = {
        "spans per export": f"{sent.spans / len(latencies):.0f}",
        "spans": f"{sent.spans:,}, all stored",
        "spans/s": f"{sent.spans / sent.seconds:,.0f}",
        "response time p50, p95, p99": ", ".join(map(latency, (50, 95, 99))),
        "retries (backpressure)": str(sent.retries),
    }
    for name, cpu in cpu_used.items():
        row[f"CPU s/million spans, {name}"] = f"{cpu / sent.spans * 1e6:.1f}"
    if memory:
        row["store's peak memory"] = f"{memory / 2**20:.0f} MB"
    on_disk, received = (bytes_after - bytes_before) / sent.spans, sent.bytes / sent.spans
    row["bytes per span: OTLP, on disk"] = f"{received:.0f}, {on_disk:.0f} ({on_disk / received:.2f} times)"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="host:port of OTLP/gRPC; requires --dsn")
    parser.add_argument("--dsn", help="the store's database")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--spans", type=int, default=8192, help="spans per export")
    parser.add_argument("--rate", type=float, help="maximum of spans per second")
    options = parser.parse_args()
    if bool(options.endpoint) != bool(options.dsn):
        parser.error("--endpoint and --dsn must be given together")
    running = options.endpoint and contextlib.nullcontext(stores.running(options.endpoint, options.dsn))
    with running or stores.own() as target:
        row = measure(target, options.spans, options.seconds, options.rate)
        if not options.endpoint and not options.rate:
            maximum = ceiling(target.dsn, options.spans)
            share = float(row["spans/s"].replace(",", "")) / maximum
            row["ceiling: COPY of the same rows"] = f"{maximum:,.0f} spans/s; reached {share:.0%}"
    for name, value in row.items():
        print(f"{name:36}{value}")


if __name__ == "__main__":
    main()
