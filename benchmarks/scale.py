"""What a store needs for a rate of spans: measures what a span takes, and computes the rest from the measured values.

    python -m benchmarks.scale                                  prints the tables of docs/scale.md
    python -m benchmarks.scale --cores 32 --days 30 50000       the same for your machine, retention period and rates
    python -m benchmarks.scale --promscales 1 2 3               first measures promscales on a PostgreSQL of their own
    python -m benchmarks.scale --dsn DSN --endpoint ENDPOINT    first measures promscales that run already

What is measured is written to benchmarks/measured.json, and the tables to docs/scale.md. Measure a running store only
while nothing else is sent to it. Its processes are found by their ports where it runs on this machine, also those of
Citus's workers; --process names those that are not, for instance in containers.
"""

import argparse
import contextlib
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import psutil
import psycopg

from benchmarks import store as stores
from benchmarks import worksheet
from benchmarks.ingest import current_times
from benchmarks.processes import Meter, cpu_seconds
from benchmarks.recording import Replay
from benchmarks.senders import send
from promscale.upkeep import Upkeep
from tests.waiting import wait_until

EXPORT_SPANS = 8192
# Of the hour that is closed for the measurement.
CLOSED_SPANS = 500_000
HOUR = 3600
SAMPLE_SECONDS = 0.5
# A minute is summarised once, and a partition closed once: neither may take longer than this.
SETTLE_SECONDS = 900

UPKEEP_LOCK = "hashtext('_promscale.upkeep')"
_IN_DATABASE = "from pg_stat_activity where datname = current_database() and application_name"
SESSIONS = f"select count(*) {_IN_DATABASE} like 'promscale%'"
WORKER_SESSIONS = f"select count(*) {_IN_DATABASE} like 'citus_internal%'"  # Citus's name for connections between nodes
UPKEEP_PIDS = f"select pid {_IN_DATABASE} = 'promscale-upkeep'"
END_UPKEEP = f"select pg_terminate_backend(pid) {_IN_DATABASE} = 'promscale-upkeep'"
PARTITION = """
    select
        total_bytes::float8 / spans as bytes,
        index_bytes::float8 / spans as index_bytes
    from ps_trace.disk_usage
    where starts_at <= to_timestamp(%s) and ends_at > to_timestamp(%s) and spans > 0
"""
CLOSED = "select closed_at is not null from _promscale.partition where starts_at = to_timestamp(%s)"


class Sessions(threading.Thread):
    """Samples the number of promscales' sessions, and of those on the Citus worker with the most, until `stop`."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._stopped = threading.Event()
        self.peaks: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while True:
                counts = {"sessions": stores.on_nodes(connection, SESSIONS)[0]}
                if workers := stores.on_nodes(connection, WORKER_SESSIONS)[1:]:
                    counts["worker_sessions"] = max(workers)
                self.peaks = {name: max(count, self.peaks.get(name, 0)) for name, count in counts.items()}
                if self._stopped.wait(SAMPLE_SECONDS):
                    return

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def measure(
    target: stores.Promscale, seconds: float, rounds: int = 1, closed_spans: int = CLOSED_SPANS
) -> dict[str, float]:
    """The values of worksheet.LABELS, as far as this machine knows them. Sends for `seconds`, as fast as the store
    takes the spans, which is repeated in `rounds`, and then `closed_spans` of an earlier hour.

    Raises RuntimeError if the store has closed partitions, because these make it store such spans another way.
    """
    with psycopg.connect(target.dsn, autocommit=True) as database:
        if stores.one_value(database, "select exists (select from _promscale.partition where closed_at is not null)"):
            raise RuntimeError("the store has closed partitions: measure a new one")
    return _medians([_measure_storing(target, seconds) for _ in range(rounds)]) | _measure_closing(target, closed_spans)


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def _measure_storing(target: stores.Promscale, seconds: float) -> dict[str, float]:
    with psycopg.connect(target.dsn, autocommit=True) as database:
        _settle(database)
        wal_before, upkeep_before = target.sizes()["write-ahead log"], _upkeep_seconds(target, database)
        meter, sessions = Meter(target.processes), Sessions(target.dsn)
        sent = send(target.endpoint, EXPORT_SPANS, current_times(seconds, 0))
        sessions.stop()
        _settle(database)
        cpu, upkeep = meter.cpu_seconds(), _upkeep_seconds(target, database)
        peaks = {name: usage.peak_bytes for name, usage in meter.stop().items()}
        millions = sent.spans / 1e6
        values = {
            "spans_per_second": sent.spans / sent.seconds,
            "otlp_bytes": sent.bytes / sent.spans,
            "wal_bytes": (target.sizes()["write-ahead log"] - wal_before) / sent.spans,
            **{f"cpu_{role}": each / millions for role, each in _by_role(cpu).items()},
            "memory_promscale": max(peak for name, peak in peaks.items() if name.startswith("store")),
            "memory_database": peaks["database"],
            **sessions.peaks,
        }
        if upkeep is not None and upkeep_before is not None:
            values["cpu_upkeep"] = (upkeep - upkeep_before) / millions
        return values


def _measure_closing(target: stores.Promscale, spans: int) -> dict[str, float]:
    """Stores spans of an hour that is over while nobody does the upkeep, and lets promscale close its partition."""
    hour = int(time.time()) // HOUR * HOUR - 2 * HOUR
    exports = -(-spans // Replay(EXPORT_SPANS).spans)
    times = ((hour * 10**9 + HOUR * 10**9 * (2 * number + 1) // (2 * exports)) for number in range(exports))
    with psycopg.connect(target.dsn, autocommit=True) as database:

        def partition() -> tuple[float, float]:
            [(size, index_size)] = database.execute(PARTITION, [hour, hour])
            return size, index_size

        def closed() -> bool:
            return bool(stores.one_value(database, CLOSED, hour))

        with _without_upkeep(target.dsn), contextlib.closing(Upkeep(target.dsn)) as upkeep:
            sent = send(target.endpoint, EXPORT_SPANS, times)
            open_bytes, open_index_bytes = partition()
            while upkeep.summarise(quiet_seconds=0):
                pass
            meter = Meter(target.processes)
        wait_until(closed, "the closing of the partition", SETTLE_SECONDS)
        cpu = sum(meter.cpu_seconds().values())
        meter.stop()
        return {
            "open_bytes": open_bytes,
            "open_index_bytes": open_index_bytes,
            "closed_bytes": partition()[0],
            "cpu_closing": cpu / sent.spans * 1e6,
        }


def _by_role(cpu: Mapping[str, float]) -> dict[str, float]:
    """The sum of all promscales, that of the database, and where there are any, that of Citus's workers."""
    roles = {"store": "store", "database": "database", "worker": "workers"}
    totals: dict[str, float] = {}
    for name, each in cpu.items():
        role = roles[name.partition(" ")[0]]
        totals[role] = totals.get(role, 0) + each
    return totals


def _settle(database: psycopg.Connection) -> None:
    """Wait until all minutes are summarised."""
    summarised = "select not exists (select from _promscale.touched_minute)"
    wait_until(lambda: stores.one_value(database, summarised), "the summaries of all minutes", SETTLE_SECONDS)


def _upkeep_seconds(target: stores.Promscale, database: psycopg.Connection) -> float | None:
    """The CPU time of the upkeep's sessions, of which one has work; None if the database's processes are not here."""
    server = target.processes.get("database")
    pids = [pid for (pid,) in database.execute(UPKEEP_PIDS)]
    sessions = {child.pid: child for child in server.children()} if server else {}
    if not sessions or not sessions.keys() >= set(pids):
        return None
    return sum(cpu_seconds(sessions[pid]) for pid in pids)


@contextlib.contextmanager
def _without_upkeep(dsn: str) -> Iterator[None]:
    """Nobody does the upkeep meanwhile, because this holds its lock: it waits for it when the holder's session ends."""
    with psycopg.connect(dsn, autocommit=True) as holder, psycopg.connect(dsn, autocommit=True) as database:
        taking = threading.Thread(target=holder.execute, args=[f"select pg_advisory_lock({UPKEEP_LOCK})"])
        taking.start()
        while taking.is_alive():
            waiting = f"select from pg_stat_activity where pid = {holder.info.backend_pid} and wait_event_type = 'Lock'"
            if database.execute(waiting).fetchone() is not None:
                database.execute(END_UPKEEP)
            taking.join(SAMPLE_SECONDS)
        yield


# The command --------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """The options. Exits with a message about the first that is not possible."""
    machine = worksheet.Machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", type=int, nargs="*", default=worksheet.RATES, metavar="RATE", help="spans/s")
    parser.add_argument("--cores", type=int, default=machine.cores, help="of a machine (%(default)s)")
    parser.add_argument("--memory", type=int, default=machine.memory_gb, metavar="GB", help="of it (%(default)s)")
    parser.add_argument("--disk", type=float, default=machine.disk_tb, metavar="TB", help="of it (%(default)s)")
    parser.add_argument("--connections", type=int, default=machine.connections, help="max_connections (%(default)s)")
    parser.add_argument("--days", type=int, default=machine.retention_days, help="retention period (%(default)s)")
    parser.add_argument("--headroom", type=float, default=machine.headroom, help="times the CPU time (%(default)s)")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--promscales", type=int, nargs="+", metavar="N", help="numbers of them, measured in turn")
    measuring.add_argument("--rounds", type=int, default=3, help="of each; the medians count (%(default)s)")
    measuring.add_argument("--seconds", type=float, default=60, help="of each round (%(default)s)")
    measuring.add_argument("--endpoint", help="of running promscales: HOST:PORT, or several ADDRESS:PORT with commas")
    measuring.add_argument("--dsn", help="their database, or Citus's coordinator, for a superuser")
    measuring.add_argument("--name", help="of this layout in the tables; one of the same name is replaced")
    measuring.add_argument(
        "--process",
        action="append",
        default=[],
        metavar="PART=PID",
        help='of "store", "store 2", "database", "worker 1"',
    )
    options = parser.parse_args()
    if bool(options.dsn) != bool(options.endpoint) or (options.dsn and options.promscales):
        parser.error("--dsn and --endpoint are for promscales that run already, --promscales for new ones")
    try:
        options.pids = {name: int(pid) for name, _, pid in (each.partition("=") for each in options.process)}
    except ValueError:
        parser.error("--process needs PART=PID")
    return options


def measured(options: argparse.Namespace) -> Iterator[worksheet.Layout]:
    if options.dsn:
        target = stores.Promscale.running(options.endpoint, options.dsn, pids=options.pids)
        with psycopg.connect(options.dsn) as connection:
            workers = len(stores.worker_ports(connection))
        promscales = len(options.endpoint.split(","))
        if len(target.processes) < promscales + 1 + workers:
            sys.exit(
                f"of the store's processes only these were found, name the others with --process: {target.processes}"
            )
        name = options.name or _count(promscales, "promscale") + (f", {_count(workers, 'worker')}" if workers else "")
        try:
            values = measure(target, options.seconds, options.rounds)
        except RuntimeError as error:
            sys.exit(f"{error}")
        how = f"--dsn … --endpoint … --rounds {options.rounds} --seconds {options.seconds:g}"
        yield _layout(name, promscales, workers, values, how)
    elif options.promscales:
        by_count: dict[int, list[dict[str, float]]] = {count: [] for count in options.promscales}
        # In turn, because the machine's speed changes over time.
        for _ in range(options.rounds):
            for count, rounds in by_count.items():
                with stores.own(promscales=count) as target:
                    rounds.append(measure(target, options.seconds))
                print(f"{_count(count, 'promscale')}: {rounds[-1]['spans_per_second']:,.0f} spans/s", flush=True)
        counts = " ".join(map(str, by_count))
        arguments = f"--promscales {counts} --rounds {options.rounds} --seconds {options.seconds:g}"
        for count, rounds in by_count.items():
            yield _layout(_count(count, "promscale"), count, 0, _medians(rounds), arguments)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _layout(name: str, promscales: int, workers: int, values: Mapping[str, float], arguments: str) -> worksheet.Layout:
    return worksheet.Layout(
        name=name,
        promscales=promscales,
        workers=workers,
        date=datetime.now(UTC).date().isoformat(),
        command=f"./run.sh bench scale {arguments}",
        machine=f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, {platform.machine()}",
        values={key: float(f"{values[key]:.4g}") for key in worksheet.LABELS if key in values},
    )


def main() -> None:
    options = arguments()
    if layouts := list(measured(options)):
        worksheet.write(layouts)
    machine = worksheet.Machine(
        cores=options.cores,
        memory_gb=options.memory,
        disk_tb=options.disk,
        connections=options.connections,
        retention_days=options.days,
        headroom=options.headroom,
    )
    print("\n\n".join(worksheet.tables(worksheet.read(), machine, options.rates).values()))


if __name__ == "__main__":
    main()
