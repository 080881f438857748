"""Measures how fast spans are stored, what that costs, and whether all of them are stored.

python -m benchmarks.ingest                                     starts a PostgreSQL and a promscale, and measures them
python -m benchmarks.ingest --endpoint ENDPOINT --dsn DSN       a running promscale with this database
python -m benchmarks.ingest --endpoint ENDPOINT --jaeger URL    any running store with OTLP and Jaeger's HTTP API

ENDPOINT is HOST:PORT of OTLP/gRPC, or ADDRESS:PORT of several with commas between them, or the URL of OTLP/HTTP.
"""

import argparse
import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks import store as stores
from benchmarks.processes import Meter
from benchmarks.recording import Replay
from benchmarks.senders import Sent, send
from promscale import otlp
from promscale.store import Store, copy_rows

CEILING_CONNECTIONS = 2
CEILING_SPANS = 300_000


@dataclass
class Result:
    """Of one run: what was sent, what of it is stored at the end, and what the store took, as rows of the report."""

    sent: Sent
    read_back: stores.ReadBack
    costs: dict[str, str]


def current_times(seconds: float, interval: float) -> Iterator[int]:
    """The current time in nanoseconds since 1970, at most once per `interval` seconds, until `seconds` have passed."""
    began = time.monotonic()
    for turn in count():
        time.sleep(max(0.0, began + turn * interval - time.monotonic()))
        if time.monotonic() > began + seconds:
            return
        yield time.time_ns()


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


def measure(target: stores.Target, spans: int, seconds: float, rate: float | None, kill: bool) -> Result:
    """Send exports of about `spans` spans, at most `rate` spans per second.

    With `kill`, the store is killed right after the last acknowledgement and started again. Otherwise its growth on
    disk is measured.
    """
    interval = Replay(spans).spans / rate if rate else 0
    target.settle()
    sizes_before = target.sizes()
    meter = Meter(target.processes)
    sent = send(target.endpoint, spans, current_times(seconds, interval))
    usage = meter.stop()
    sent.cpu_seconds -= meter.own_cpu_seconds
    if kill:
        target.crash()
    if len(usage) < 3:  # one process is all of them
        del usage["together"]
    costs = {f"CPU s/million spans: {name}": per_million(each.cpu_seconds, sent) for name, each in usage.items()}
    costs |= {f"peak memory: {name}": f"{each.peak_bytes / 2**20:.0f} MB" for name, each in usage.items()}
    if not kill:
        settled = target.settle()
        for name, size in target.sizes().items():
            growth = size - sizes_before[name]
            costs[f"bytes per span: {name}"] = f"{growth / sent.spans:.0f} ({growth / sent.bytes:.2f} times OTLP)"
        if settled:
            costs["disk use"] = settled
            later = {name: cpu - usage[name].cpu_seconds for name, cpu in meter.cpu_seconds().items()}
            costs |= {f"CPU s/million spans until then: {name}": per_million(cpu, sent) for name, cpu in later.items()}
    return Result(sent, target.read_back(sent.traces), costs)


def report(result: Result, killed: bool) -> dict[str, str]:
    sent, read_back = result.sent, result.read_back
    latencies = sorted(sent.latencies)

    def latency(percent: float) -> str:
        return f"{1000 * latencies[min(len(latencies) - 1, int(percent / 100 * len(latencies)))]:.0f} ms"

    sample = f" of {read_back.spans:,} in a random sample of traces" if read_back.spans < sent.spans else ""
    return {
        f"spans{', and SIGKILL' * killed}": f"acknowledged {sent.spans:,}, missing {read_back.missing:,}{sample}",
        "spans per export": f"{sent.spans / len(latencies):.0f}",
        "spans/s": f"{sent.spans / sent.seconds:,.0f}",
        "response time p50, p95, p99": ", ".join(map(latency, (50, 95, 99))),
        "retries (backpressure)": str(sent.retries),
        "bytes per span: OTLP": f"{sent.bytes / sent.spans:.0f}",
        "CPU s/million spans: sender": per_million(sent.cpu_seconds, sent),
        **result.costs,
    }


def per_million(seconds: float, sent: Sent) -> str:
    return f"{seconds / sent.spans * 1e6:.1f}"


def arguments() -> argparse.Namespace:
    """The options. Exits with a message about the first that is not possible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--spans", type=int, default=8192, help="spans per export")
    parser.add_argument("--rate", type=float, help="maximum of spans per second")
    parser.add_argument("--kill", action="store_true", help="SIGKILL the store at the end, and count what it lost")
    parser.add_argument("--encoder", choices=("python", "rust"), help="of the promscale that is started")
    running = parser.add_argument_group("a running store")
    running.add_argument("--endpoint", help="of OTLP; requires --dsn or --jaeger")
    running.add_argument("--restart", metavar="COMMAND", help="starts the store after --kill; runs without a shell")
    running.add_argument("--dsn", help="promscale's database, for a superuser")
    running.add_argument("--jaeger", metavar="URL", help="what comes before /api/traces in URLs of Jaeger's HTTP API")
    running.add_argument("--read-back", type=int, default=1000, metavar="N", help="of how many traces (1000)")
    running.add_argument("--pid", type=int, help="the store's process (default: the one that listens at the endpoint)")
    running.add_argument("--folder", type=Path, help="the store's files, whose disk use is measured")
    options = parser.parse_args()
    if bool(options.endpoint) != bool(options.dsn or options.jaeger) or (options.dsn and options.jaeger):
        parser.error("--endpoint requires one of --dsn and --jaeger, and these require --endpoint")
    if not options.jaeger and (options.pid or options.folder):
        parser.error("--pid and --folder require --jaeger")
    if options.endpoint and options.encoder:
        parser.error("--encoder is for the promscale that is started, and not possible with --endpoint")
    if bool(options.restart) != bool(options.endpoint and options.kill):
        parser.error("--kill together with --endpoint requires --restart, which is for nothing else")
    if options.folder and not options.folder.is_dir():
        parser.error(f"--folder: there is no folder {options.folder}")
    return options


def chosen(options: argparse.Namespace) -> contextlib.AbstractContextManager[stores.Target]:
    restart = shlex.split(options.restart or "")
    if options.dsn:
        return contextlib.nullcontext(stores.Promscale.running(options.endpoint, options.dsn, restart))
    if options.jaeger:
        other = stores.OtherStore(
            options.endpoint, options.jaeger, options.read_back, options.pid, options.folder, restart
        )
        return contextlib.nullcontext(other)
    return stores.own(options.encoder)


def main() -> int:
    options = arguments()
    with chosen(options) as target:
        result = measure(target, options.spans, options.seconds, options.rate, options.kill)
        rows = report(result, options.kill)
        if isinstance(target, stores.OwnPromscale):
            rows["encoder"] = target.encoder
            if not options.rate:
                maximum = ceiling(target.dsn, options.spans)
                share = result.sent.spans / result.sent.seconds / maximum
                rows["ceiling: COPY of the same rows"] = f"{maximum:,.0f} spans/s; reached {share:.0%}"
    for name, value in rows.items():
        print(f"{name:48}{value}")
    return int(result.read_back.missing > 0 and not options.kill)


if __name__ == "__main__":
    sys.exit(main())
