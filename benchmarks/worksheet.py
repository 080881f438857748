"""What a store needs for a rate of spans, computed from measured values, and where the next limit is.

The measured values are in measured.json; `python -m benchmarks.scale` writes them there, and any of them may be
replaced by your own. docs/scale.md shows the tables, and says what this model leaves out.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from local import CHECKOUT
from promscale import jaeger, store

FILE = Path(__file__).with_name("measured.json")
DOCUMENT = CHECKOUT / "docs" / "scale.md"
COLLECTOR = CHECKOUT / "collector" / "config.yaml"

# Of a promscale to its database, at most: writers, Jaeger's reads, upkeep, readiness.
CONNECTIONS = store.WRITERS + jaeger.CONNECTIONS + 2
# One may be killed or replaced while another goes on.
MIN_PROMSCALES = 2
DAY = 86_400
# A partition has an hour, and is open for half an hour after it.
OPEN_SECONDS = 5_400

RATES = 1_000, 100_000, 10_000_000
RETENTIONS = 1, 7, 30
_END = "<!-- end -->"

# The measured values, in the order of the table.
LABELS = {
    "spans_per_second": "spans/s, on the machine of the senders",
    "cpu_store": "CPU s per million spans: promscales",
    "cpu_database": "CPU s per million spans: database (Citus: coordinator)",
    "cpu_workers": "CPU s per million spans: Citus's workers",
    "cpu_upkeep": "of the database's: summaries, by the upkeep's session",
    "cpu_closing": "CPU s per million spans: closing partitions, all processes",
    "memory_promscale": "peak memory of a promscale",
    "memory_database": "peak memory of the database",
    "otlp_bytes": "bytes per span: OTLP",
    "open_bytes": "bytes per span: open partition",
    "open_index_bytes": "of these: indexes",
    "closed_bytes": "bytes per span: closed partition",
    "wal_bytes": "bytes per span: write-ahead log",
    "sessions": "connections of promscales, peak while storing",
    "worker_sessions": "connections of the coordinator to a worker, peak",
}


@dataclass(frozen=True)
class Layout:
    """Promscales and database servers that were measured together. `values` are those of LABELS."""

    name: str
    promscales: int
    workers: int  # of Citus
    date: str
    command: str
    machine: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Machine:
    """A server of the database, and what is planned for it."""

    cores: int = 16
    memory_gb: int = 64
    disk_tb: int = 4
    connections: int = 500  # max_connections
    retention_days: int = 7
    headroom: float = 2  # times the average CPU time: for peaks, and for readers


@dataclass(frozen=True)
class Limit:
    """What there is of something, and what each span per second takes of it."""

    name: str
    taken: float
    capacity: float

    @property
    def rate(self) -> float:
        """The spans per second that reach it."""
        return self.capacity / self.taken


def read() -> list[Layout]:
    return [Layout(**each) for each in json.loads(FILE.read_text())]


def write(measured: Iterable[Layout]) -> None:
    """Replace the layouts of the same names in the file, and the tables in the document."""
    by_name = {layout.name: layout for layout in (*read(), *measured)}
    layouts = sorted(by_name.values(), key=lambda layout: (layout.workers, layout.promscales, layout.name))
    FILE.write_text(json.dumps([asdict(layout) for layout in layouts], indent=2) + "\n")
    text = DOCUMENT.read_text()
    for name, table in tables(layouts).items():
        before, rest = text.split(f"<!-- {name} -->")
        text = before + block(name, table) + rest.partition(_END)[2]
    DOCUMENT.write_text(text)


def block(name: str, table: str) -> str:
    """A table as it stands in the document."""
    return f"<!-- {name} -->\n\n{table}\n\n{_END}"


def tables(layouts: Iterable[Layout], machine: Machine = Machine(), rates: Sequence[int] = RATES) -> dict[str, str]:
    """The tables of the document by their names, in Markdown. `rates` are spans per second."""
    layouts = list(layouts)
    # Of each number of workers, what was measured with the most promscales, because larger stores have several.
    largest = {layout.workers: layout for layout in layouts}.values()
    alone = next(layout for layout in largest if not layout.workers)
    return {
        "measured": _measured(layouts),
        "sizes": "\n\n".join(_sizes(layout, machine, rates) for layout in largest),
        "limits": "\n\n".join(_limits(layout, machine) for layout in largest),
        "sampling": _sampling(alone, machine, rates),
    }


def server_limits(layout: Layout, machine: Machine) -> list[Limit]:
    """What each further server of the database adds to: one machine with its promscales, or a worker of Citus."""
    values = layout.values
    cpu = values["cpu_workers"] if layout.workers else values["cpu_store"] + values["cpu_database"]
    return [
        Limit("cores", (cpu + values["cpu_closing"]) * machine.headroom / 1e6, machine.cores),
        Limit("memory for indexes", values["open_index_bytes"] * OPEN_SECONDS, machine.memory_gb * 1e9),
        Limit("disk", _stored_bytes(values, machine), machine.disk_tb * 1e12),
    ]


def common_limits(layout: Layout, machine: Machine) -> list[Limit]:
    """What no further server adds to."""
    values = layout.values
    connections = CONNECTIONS * values["cpu_store"] * machine.headroom / 1e6
    limits = [Limit("connections of promscales", connections, machine.connections)]
    if "cpu_upkeep" in values:
        limits.append(_upkeep(values))
    if layout.workers:
        cores = values["cpu_database"] * machine.headroom / 1e6
        limits.append(Limit("the coordinator's cores", cores, machine.cores))
        to_worker = connections * values["worker_sessions"] / values["sessions"]
        limits.append(Limit("connections of the coordinator to a worker", to_worker, machine.connections))
    return limits


def _upkeep(values: Mapping[str, float]) -> Limit:
    """Summaries and closing are the work of one session, which cannot use more than one core."""
    return Limit("the upkeep's session", (values["cpu_upkeep"] + values["cpu_closing"]) / 1e6, 1)


def _stored_bytes(values: Mapping[str, float], machine: Machine) -> float:
    """Of a span per second, at the end of the retention period."""
    closed_seconds = machine.retention_days * DAY - OPEN_SECONDS
    return OPEN_SECONDS * values["open_bytes"] + closed_seconds * values["closed_bytes"]


def _measured(layouts: Sequence[Layout]) -> str:
    names = [key for key in LABELS if any(key in layout.values for layout in layouts)]
    rows = [[LABELS[name], *(_measured_value(name, layout.values.get(name)) for layout in layouts)] for name in names]
    table = _table(["", *(layout.name for layout in layouts)], rows)
    sources: dict[str, list[str]] = {}
    for layout in layouts:
        sources.setdefault(f"{layout.date}, {layout.machine}:\n  `{layout.command}`", []).append(layout.name)
    return "\n".join([table, "", *(f"- {', '.join(names)}: {source}" for source, names in sources.items())])


def _measured_value(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return _bytes(value) if name.startswith("memory") else _number(value)


def _sizes(layout: Layout, machine: Machine, rates: Sequence[int]) -> str:
    values = layout.values
    rows: dict[str, list[str]] = {}

    def row(name: str, amount: Callable[[int], str]) -> None:
        rows[name] = [amount(rate) for rate in rates]

    def cores(rate: int, cpu: float) -> str:
        return _number(rate * cpu * machine.headroom / 1e6)

    def promscales(rate: int) -> int:
        return max(MIN_PROMSCALES, math.ceil(rate * values["cpu_store"] * machine.headroom / 1e6))

    def workers(rate: int) -> int:
        return max(1, math.ceil(rate / min(limit.rate for limit in server_limits(layout, machine))))

    def next_limit(rate: int) -> str:
        limits = common_limits(layout, machine) + ([] if layout.workers else server_limits(layout, machine))
        nearest = min(limits, key=lambda limit: limit.rate)
        return f"{nearest.name}: {_number(100 * rate / nearest.rate)} %"

    row("promscales, at least two", lambda rate: _number(promscales(rate)))
    row("cores: promscales", lambda rate: cores(rate, values["cpu_store"]))
    if layout.workers:
        row("cores: coordinator", lambda rate: cores(rate, values["cpu_database"]))
        row("cores: all workers, with closing", lambda rate: cores(rate, values["cpu_workers"] + values["cpu_closing"]))
        row("workers", lambda rate: _number(workers(rate)))
    else:
        row("cores: database, with closing", lambda rate: cores(rate, values["cpu_database"] + values["cpu_closing"]))
    if "cpu_upkeep" in values:
        row("cores: the upkeep's session, without headroom", lambda rate: _number(rate * _upkeep(values).taken))
    row("memory: promscales", lambda rate: _bytes(promscales(rate) * values["memory_promscale"]))
    row("memory: indexes of open partitions", lambda rate: _bytes(rate * values["open_index_bytes"] * OPEN_SECONDS))
    row(f"disk: spans of {machine.retention_days} days", lambda rate: _bytes(rate * _stored_bytes(values, machine)))
    row("disk: write-ahead log per second", lambda rate: _bytes(rate * values["wal_bytes"]))
    row("connections of all promscales", lambda rate: _number(promscales(rate) * CONNECTIONS))
    if layout.workers:
        to_worker = values["worker_sessions"] / values["sessions"]
        row("of the coordinator to each worker", lambda rate: _number(promscales(rate) * CONNECTIONS * to_worker))
    queue = _queue_bytes() / values["otlp_bytes"]
    row("one Collector's queue holds the spans of", lambda rate: _seconds(queue / rate))
    row("the next limit, and how much of it is used", next_limit)
    return _table(
        [_title(layout), *(f"{rate:,} spans/s" for rate in rates)], [[name, *cells] for name, cells in rows.items()]
    )


def _title(layout: Layout) -> str:
    return f"Citus, by the values of {layout.name}" if layout.workers else "PostgreSQL on one machine"


def _limits(layout: Layout, machine: Machine) -> str:
    kinds = [(limit, "") for limit in common_limits(layout, machine)]
    kinds += [(limit, " of each worker" if layout.workers else "") for limit in server_limits(layout, machine)]
    kinds.sort(key=lambda each: each[0].rate)
    return _table(
        [_title(layout), "reached at spans/s"], [[limit.name + of, _number(limit.rate)] for limit, of in kinds]
    )


def _sampling(layout: Layout, machine: Machine, rates: Sequence[int]) -> str:
    def kept(rate: int, days: int) -> str:
        planned = replace(machine, retention_days=days)
        limits = common_limits(layout, planned) + server_limits(layout, planned)
        nearest = min(limits, key=lambda limit: limit.rate)
        return "100 %" if nearest.rate >= rate else f"{_number(100 * nearest.rate / rate)} %: {nearest.name}"

    columns = [f"kept for {days} {'day' if days == 1 else 'days'}" for days in RETENTIONS]
    return _table(
        ["spans/s that are sent", *columns],
        [[f"{rate:,}", *(kept(rate, days) for days in RETENTIONS)] for rate in rates],
    )


def _queue_bytes() -> int:
    exporters = yaml.safe_load(COLLECTOR.read_text())["exporters"]
    size: int = exporters["otlp_grpc"]["sending_queue"]["queue_size"]
    return size


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("|  |", "| |")


def _number(number: float) -> str:
    """Three significant digits, of which those after the point are at most two; a whole number as it is."""
    if number >= 100 or isinstance(number, int) or number.is_integer():
        digits = max(0, len(str(int(number))) - 3)
        return f"{round(number, -digits):,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{_number(number)} {unit}"
        number /= 1000
    return f"{_number(number)} PB"


def _seconds(seconds: float) -> str:
    return f"{_number(seconds / 60)} min" if seconds >= 100 else f"{_number(seconds)} s"
