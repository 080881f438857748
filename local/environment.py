"""Makes .venv from the locked requirements: `python -m local.environment`.

The standard library only: this is run by whatever Python the machine has.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from local import CHECKOUT, LOGS, Trouble, exclusive, report

VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
NEEDED_MB = 300


def installed(name: str) -> bool:
    """Whether all of requirements/<name>.txt, as it is now, is in .venv."""
    copy = VENV / f"{name}.txt"
    return PYTHON.exists() and copy.exists() and copy.read_bytes() == _locked(name).read_bytes()


def install(name: str) -> None:
    """See to it that all of requirements/<name>.txt is in .venv. Raises Trouble, OSError.

    `local` is what everything else is added to: it makes .venv anew, whatever was left there.
    """
    if installed(name):
        return
    with exclusive():
        if installed(name):  # by another one, in the meantime
            return
        free_mb = shutil.disk_usage(CHECKOUT).free // 2**20
        if free_mb < NEEDED_MB:
            raise Trouble(
                f"no room: {CHECKOUT} has {free_mb} MB free, and the packages and first data need about {NEEDED_MB} MB;"
                " make room, or put the checkout elsewhere"
            )
        LOGS.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        packages = len(re.findall(r"^\S+==", _locked(name).read_text(), re.MULTILINE))
        print(f"Installing {packages} Python packages in {VENV} (once)", flush=True)
        if name == "local":
            # The interpreter itself, not a link that may come to mean another version.
            python = os.path.realpath(sys.executable)
            _run([python, "-m", "venv", "--clear", VENV])
        _run(
            [
                PYTHON,
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-input",
                "--progress-bar",
                "off",
                "--require-hashes",
                "--only-binary",
                ":all:",
                "-r",
                _locked(name),
            ],
            packages,
        )
        shutil.copyfile(_locked(name), VENV / f"{name}.txt")
        print(f"Installed in {time.monotonic() - began:.0f} s", flush=True)


def _locked(name: str) -> Path:
    return CHECKOUT / "requirements" / f"{name}.txt"


def _run(command: list, packages: int = 0) -> None:
    """Run it with its output in a log; of pip's, show how far it has come. Raises Trouble with its own reason."""
    log = LOGS / "setup.log"
    terminal = sys.stdout.isatty()
    lines = []
    found = 0
    with (
        log.open("a") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as run,
    ):
        for line in run.stdout:
            file.write(line)
            lines.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                found += 1
            elif not line.startswith("Installing collected"):
                continue
            if terminal:
                step = f"{found} of {packages} found" if line.startswith(("C", "R")) else "all found, unpacking"
                print(f"\r  {step:40}", end="", flush=True)
    if terminal and found:
        print()
    if run.returncode:
        # What pip says last when it reached nothing is that there is no such package.
        broken = re.search(r"connection broken by '(.+)'", "".join(lines))
        errors = " ".join(line.strip() for line in lines if re.match("error|.*No space left", line, re.IGNORECASE))
        reason = f"no connection to the package index: {broken[1]}" if broken else errors or "".join(lines[-1:]).strip()
        raise Trouble(f"setting up .venv failed: {reason} (all of it: {log}); put that right and run it again")


def _main() -> int:
    install("local")
    return 0


if __name__ == "__main__":
    sys.exit(report(_main))
