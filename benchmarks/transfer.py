"""Measures export to each format, and import of OTLP and OTLP/JSON: speed, CPU time, peak memory, and size.

./run.sh bench transfer [SPANS]     starts a PostgreSQL and a promscale with so many spans (1,500,000)
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import store as stores
from benchmarks.ingest import PeakMemory, send
from transfer import FORMATS

SPANS_PER_EXPORT = 8192
HOURS = 1.5


def store_spans(target: stores.Target, spans: int) -> None:
    """Store spans that are evenly distributed over the last hours."""
    exports = spans // SPANS_PER_EXPORT + 1
    now = time.time_ns()
    send(target.endpoint, SPANS_PER_EXPORT, (now - int((1 - i / exports) * HOURS * 3600e9) for i in range(exports)))


def measure(name: str, target: stores.Target, *arguments: object) -> None:
    """Run `python -m transfer` and print a row of the report. CPU times are microseconds per span."""
    command = [sys.executable, "-m", "transfer", *map(str, arguments), "--database", target.dsn]
    assert target.database is not None  # which `stores.own` has started
    database_cpu, began = stores.cpu_seconds(target.database), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        process = psutil.Process(run.pid)
        peak = PeakMemory(process)
        peak.start()
        printed = run.stdout.readline() if run.stdout else ""  # its last act
        cpu = stores.cpu_seconds(process)
    if run.returncode:
        raise RuntimeError(f"{name} failed")
    seconds, database_cpu = time.monotonic() - began, stores.cpu_seconds(target.database) - database_cpu
    spans = int(printed.split()[1].replace(",", ""))
    micros = [f"{1e6 * value / spans:>12.1f}" for value in (cpu, database_cpu)]
    print(f"{name:20}{spans / seconds:>10,.0f}{''.join(micros)}{peak.stop() / 2**20:>9.0f} MB", end="", flush=True)


def main() -> None:
    spans = int(sys.argv[1]) if len(sys.argv) > 1 else 1_500_000
    with stores.own() as target, tempfile.TemporaryDirectory() as folder:
        store_spans(target, spans)
        print(f"{'':20}{'spans/s':>10}{'CPU':>12}{'PostgreSQL':>12}{'peak':>12}{'bytes/span':>12}")
        files = {}
        for file_format in FORMATS:
            out = Path(folder) / file_format
            measure(f"export {file_format}", target, "export", "--from", f"-{HOURS + 1}h", "--format", file_format, out)
            [files[file_format]] = out.iterdir()
            print(f"{files[file_format].stat().st_size / spans:>12.0f}")
        for file_format in ("otlp", "otlp-json"):
            with stores.own() as empty:
                measure(f"import {file_format}", empty, "import", "--endpoint", empty.endpoint, files[file_format])
                print()


if __name__ == "__main__":
    main()
