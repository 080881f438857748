"""What the local stack costs: time, disk space, memory and CPU, from a fresh clone on.

    python -m benchmarks.start        or ./run.sh bench start

It clones the last commit of this checkout into a temporary folder, downloads all packages again (without pip's cache),
and starts the stack there, on its usual ports. Memory is measured after a minute at the default load, CPU and disk
growth during that minute, which begins 15 s after the start. 100 % of CPU is one core.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from benchmarks.processes import cpu_seconds, disk_bytes, memory_bytes
from local import CHECKOUT, CommandError, exit_code, stack

SETTLE_SECONDS = 15
MEASURED_SECONDS = 60
MEGABYTE = 10**6
SETTINGS = re.compile("LOAD_|OTEL_|PROMSCALE_|TRACE_SAMPLING_|BIND_ADDRESS")  # a user's, which would change the result
STORED = "select sum(spans)::int, sum(row_bytes + index_bytes + lossless_bytes)::int8 from ps_trace.disk_usage"


@contextmanager
def fresh_clone() -> Iterator[Path]:
    """A clone in a temporary folder. Its stack is stopped and deleted at the end."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "tracing-demo"
        subprocess.run(["git", "clone", "--quiet", CHECKOUT, clone], check=True)
        try:
            yield clone
        finally:
            run(clone, "reset")


def run(clone: Path, *arguments: str) -> str:
    """The output of run.sh in the clone. Raises CommandError with the line that it fails with."""
    environment = {name: value for name, value in os.environ.items() if not SETTINGS.match(name)}
    finished = subprocess.run(
        [clone / "run.sh", *arguments], env=environment | {"PIP_NO_CACHE_DIR": "1"}, capture_output=True, text=True
    )
    if finished.returncode:
        raise CommandError(f"in the clone, {finished.stderr.strip()}")
    return finished.stdout


def processes(clone: Path) -> dict[str, psutil.Process]:
    """The process of each part, by the part's name."""
    rows = re.findall(r"^(\w+) +healthy .* (\d+)$", run(clone, "status"), re.MULTILINE)
    return {name: psutil.Process(int(pid)) for name, pid in rows}


def downloaded_bytes(log: str) -> float:
    """The sum of the sizes in pip's output: "Downloading flask-3.1.3-py3-none-any.whl (103 kB)"."""
    factors = {"bytes": 1, "kB": 10**3, "MB": 10**6}
    return sum(float(size) * factors[unit] for size, unit in re.findall(r"Downloading \S+ \(([\d.]+) (\w+)\)", log))


def stored() -> tuple[int, int]:
    """How many spans there are, and how many bytes they take in the database."""
    with psycopg.connect(stack.DATABASE.uri) as connection:
        [(spans, size)] = connection.execute(STORED).fetchall()
        return spans, size


def measure(clone: Path) -> None:
    """Start the stack of the clone and print the table."""
    output = run(clone, "local")
    [(setup, start)] = re.findall(r"Set-up took (\d+) s.* ([\d.]+) s\.", output)
    data = clone / ".data"
    database = (data / "postgres").resolve() / "data"  # root's is outside of .data
    print(f"{'set-up: download and installation':<44}{setup:>8} s")
    print(f"{'from the start to the first trace':<44}{start:>8} s")
    for title, size in (
        ("packages, downloaded", downloaded_bytes((data / "logs" / "setup.log").read_text())),
        (".venv", disk_bytes(clone / ".venv")),
        (".data: an empty database and logs", disk_bytes(database) + disk_bytes(data / "logs")),
    ):
        print(f"{title:<44}{size / MEGABYTE:>8.0f} MB", flush=True)

    time.sleep(SETTLE_SECONDS)
    parts = processes(clone)
    parts.pop("supervisord")  # its children are the other parts; by itself it takes 15 MB and no CPU time
    spans_before, bytes_before = stored()
    cpu_before = {name: cpu_seconds(process) for name, process in parts.items()}
    began = time.monotonic()
    time.sleep(MEASURED_SECONDS)
    seconds = time.monotonic() - began
    shares = {name: 100 * (cpu_seconds(process) - cpu_before[name]) / seconds for name, process in parts.items()}
    spans, size = stored()
    memory = {name: memory_bytes(process) / MEGABYTE for name, process in parts.items()}
    print(f"{'spans per minute at the default load':<44}{(spans - spans_before) / seconds * 60:>8,.0f}")
    print(f"{'disk growth per hour':<44}{(size - bytes_before) / seconds * 3600 / MEGABYTE:>8.0f} MB")
    print(f"\n{'part':<14}{'memory MB':>10}{'CPU %':>8}")
    for name, megabytes in memory.items():
        print(f"{name:<14}{megabytes:>10.0f}{shares[name]:>8.1f}")
    print(f"{'together':<14}{sum(memory.values()):>10.0f}{sum(shares.values()):>8.1f}")


def main() -> int:
    stack.check_ports()
    with fresh_clone() as clone:
        measure(clone)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
