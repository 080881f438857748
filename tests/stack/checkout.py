"""Copies of this checkout, each with a run.sh, data and processes of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from local import CHECKOUT, encoder
from local.stack import MARK
from tests.waiting import wait_until

NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".data", "__pycache__", "target", ".*_cache", ".hypothesis", ".coverage*"
)


class Checkout:
    """A copy of this checkout in `folder`. It uses the installed Python packages of this one through symbolic links,
    or, without `packages`, has none."""

    def __init__(self, folder: Path, packages: bool = True) -> None:
        self.folder = folder
        shutil.copytree(CHECKOUT, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
        if packages:
            venv = folder / ".venv"
            (venv / "bin").mkdir(parents=True)
            interpreter = Path(sys.base_prefix) / "bin" / Path(os.path.realpath(sys.executable)).name
            (venv / "bin" / "python").symlink_to(interpreter)
            (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
            shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
            for name in ("local", "transfer"):  # installed, as requirements/test.txt has them all
                shutil.copy(CHECKOUT / "requirements" / f"{name}.txt", venv)
            if encoder.is_built():
                shutil.copy(encoder.INSTALLED, venv)

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run run.sh; `options` are subprocess.run's."""
        command = [str(self.folder / "run.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, **options)

    def wait_until_healthy(self, **options: Any) -> None:
        """Wait until ./run.sh status says that all parts are healthy; `options` are subprocess.run's."""
        wait_until(lambda: self.run("status", **options).returncode == 0, "all parts are healthy")

    def processes(self) -> list[psutil.Process]:
        """All processes that have anything to do with this copy."""
        folder = str(self.folder)
        data = os.path.realpath(self.folder / ".data" / "postgres")
        return [
            process
            for process in psutil.process_iter(["cmdline", "cwd", "environ"])
            if (process.info["cwd"] or "").startswith((folder, data))
            or any(folder in word for word in process.info["cmdline"] or [])
            or (process.info["environ"] or {}).get(MARK) == folder
        ]


def error_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a run.sh that failed with exit code 1."""
    assert finished.returncode == 1, (finished.returncode, finished.stdout, finished.stderr)
    lines = finished.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("run.sh: "), finished.stderr
    return lines[0]
