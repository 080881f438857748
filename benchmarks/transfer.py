"""Measures export to each format, and import of OTLP: spans per second, peak memory, and size.

python -m benchmarks.transfer [SPANS]     starts a PostgreSQL and a promscale with so many spans (1,500,000)
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import store as stores
from benchmarks.ingest import send
from transfer import FORMATS

SPANS_PER_EXPORT = 8192
HOURS = 1.5


def store_spans(target: stores.Target, spans: int) -> None:
    """Store spans that are evenly distributed over the last hours."""
    exports = spans // SPANS_PER_EXPORT + 1
    now = time.time_ns()
    send(target.endpoint, SPANS_PER_EXPORT, (now - int((1 - i / exports) * HOURS * 3600e9) for i in range(exports)))


def measure(name: str, *arguments: object) -> None:
    """Run `python -m transfer` and print a row of the report."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "transfer", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as run:
        printed = run.stdout.read() if run.stdout else ""
        _, status, usage = os.wait4(run.pid, 0)
    seconds = time.monotonic() - began
    if status:
        raise RuntimeError(f"{name} failed")
    spans = int(printed.split()[1].replace(",", ""))
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{name:20}{spans / seconds:>12,.0f}{spans / cpu:>14,.0f}{memory:>10.0f} MB", end="", flush=True)


def main() -> None:
    spans = int(sys.argv[1]) if len(sys.argv) > 1 else 1_500_000
    with stores.own() as target, tempfile.TemporaryDirectory() as folder:
        store_spans(target, spans)
        print(f"{'':20}{'spans/s':>12}{'per CPU s':>14}{'peak RSS':>13}{'bytes/span':>12}")
        files = {}
        for file_format in FORMATS:
            out = Path(folder) / file_format
            options = ["--from", f"-{HOURS + 1}h", "--format", file_format, "--database", target.dsn]
            measure(f"export {file_format}", "export", *options, out)
            [files[file_format]] = out.iterdir()
            print(f"{files[file_format].stat().st_size / spans:>12.0f}")
        with stores.own() as empty:
            measure("import otlp", "import", "--endpoint", empty.endpoint, "--database", empty.dsn, files["otlp"])
            print()


if __name__ == "__main__":
    main()
