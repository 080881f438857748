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
from benchmarks.processes import Meter
from benchmarks.senders import send
from transfer import FORMATS

SPANS_PER_EXPORT = 8192
HOURS = 1.5


def store_spans(target: stores.OwnPromscale, spans: int) -> None:
    """Store spans that are evenly distributed over the last hours."""
    exports = spans // SPANS_PER_EXPORT + 1
    now = time.time_ns()
    send(target.endpoint, SPANS_PER_EXPORT, (now - int((1 - i / exports) * HOURS * 3600e9) for i in range(exports)))


def measure(name: str, target: stores.OwnPromscale, *arguments: object) -> None:
    """Run `python -m transfer` and print a row of the report. CPU times are microseconds per span."""
    command = [sys.executable, "-m", "transfer", *map(str, arguments), "--database", target.dsn]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        meter = Meter({"transfer": psutil.Process(run.pid), "database": target.processes["database"]})
        printed = run.stdout.readline() if run.stdout else ""  # its last act
        usage = meter.stop()
    if run.returncode:
        raise RuntimeError(f"{name} failed")
    seconds = time.monotonic() - began
    spans = int(printed.split()[1].replace(",", ""))
    micros = [f"{1e6 * usage[part].cpu_seconds / spans:>12.1f}" for part in ("transfer", "database")]
    peak = usage["transfer"].peak_bytes / 2**20
    print(f"{name:20}{spans / seconds:>10,.0f}{''.join(micros)}{peak:>9.0f} MB", end="", flush=True)


def main() -> None:
    spans = int(sys.argv[1]) if len(sys.argv) > 1 else 1_500_000
    with stores.own() as target, tempfile.TemporaryDirectory() as folder:
        store_spans(target, spans)
        target.wait_for_upkeep()
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
