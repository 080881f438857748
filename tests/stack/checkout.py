"""Copies of this checkout, each with a run.sh, data and processes of its own; and what the tests do with them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".data", "__pycache__", ".*_cache", ".hypothesis", ".coverage*")


class Checkout:
    """A copy in `folder`. `packages`: with the Python packages of this one, by links; else it has none yet."""

    def __init__(self, folder: Path, packages: bool = True) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
        if packages:
            venv = folder / ".venv"
            (venv / "bin").mkdir(parents=True)
            (venv / "bin" / "python").symlink_to(sys._base_executable)
            (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
            shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
            shutil.copy(ROOT / "requirements" / "local.txt", venv)

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Call run.sh; `options` are subprocess.run's."""
        command = [self.folder / "run.sh", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, **options)

    def processes(self) -> list[psutil.Process]:
        """Whatever runs in this copy or out of it."""
        place = str(self.folder)
        data = os.path.realpath(self.folder / ".data" / "postgres")
        return [
            process
            for process in psutil.process_iter(["cmdline", "cwd", "environ"])
            if (process.info["cwd"] or "").startswith((place, data))
            or any(place in word for word in process.info["cmdline"] or [])
            or (process.info["environ"] or {}).get("TRACING_DEMO") == place
        ]


def complaint(run: subprocess.CompletedProcess) -> str:
    """The one line of a failure that was expected."""
    assert run.returncode == 1, (run.returncode, run.stdout, run.stderr)
    lines = run.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("run.sh: "), run.stderr
    return lines[0]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> object:
    """Until it holds; returns what it returned. The limit is no expectation, only an end."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.1)
    return result
