"""Creates .venv and installs the locked requirements in it: `python -m local.environment`.

The standard library only, because any Python of the machine runs this.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from local import CHECKOUT, LOGS, CommandError, exclusive, exit_code

VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP_INSTALL = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
REQUIRED_MB = 300


def installed(name: str) -> bool:
    """Whether .venv has all packages of requirements/<name>.txt as that file is now."""
    copy = VENV / f"{name}.txt"
    return PYTHON.exists() and copy.exists() and copy.read_bytes() == _locked(name).read_bytes()


def install(name: str) -> None:
    """Install requirements/<name>.txt in .venv unless it is installed. Raises CommandError, OSError.

    `local` is the base of the other requirements: it replaces any existing .venv. The progress is printed to stderr:
    stdout is the output of the command that needs the packages.
    """
    if installed(name):
        return
    with exclusive():
        if installed(name):  # by another process, while this one waited
            return
        free_mb = shutil.disk_usage(CHECKOUT).free // 2**20
        if free_mb < REQUIRED_MB:
            raise CommandError(
                f"not enough disk space: {CHECKOUT} has {free_mb} MB free, and the packages and first data need about"
                f" {REQUIRED_MB} MB; free some, or move the checkout to another disk"
            )
        LOGS.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        packages = len(re.findall(r"^\S+==", _locked(name).read_text(), re.MULTILINE))
        print(f"Installing {packages} Python packages in {VENV} (once)", file=sys.stderr)
        if name == "local":
            # The real path of the interpreter: a symbolic link may later lead to another version.
            python = os.path.realpath(sys.executable)
            _run([python, "-m", "venv", "--clear", str(VENV)])
        _run([*PIP_INSTALL, "--require-hashes", "--only-binary=:all:", f"--requirement={_locked(name)}"], packages)
        shutil.copyfile(_locked(name), VENV / f"{name}.txt")
        print(f"Installed in {time.monotonic() - began:.0f} s", file=sys.stderr)


def package_folder(package: str) -> Path:
    """The folder of an installed Python package, which is not imported for this. Raises CommandError."""
    spec = importlib.util.find_spec(package)
    if not spec or not spec.origin:
        raise CommandError(f"the Python package {package} is not in .venv; delete .venv and run this again")
    return Path(spec.origin).parent


def _locked(name: str) -> Path:
    return CHECKOUT / "requirements" / f"{name}.txt"


def _run(command: list[str], packages: int = 0) -> None:
    """Run a program with its output in setup.log. On a terminal, show pip's progress through so many packages.

    Raises CommandError with the reason that the program gives.
    """
    log = LOGS / "setup.log"
    terminal = sys.stderr.isatty()
    lines = []
    resolved = 0
    with (
        log.open("a") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as run,
    ):
        for line in run.stdout or ():
            file.write(line)
            lines.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                resolved += 1
                step = f"{resolved} of {packages} packages downloaded"
            elif line.startswith("Installing collected"):
                step = "all packages downloaded, unpacking"
            else:
                continue
            if terminal:
                print(f"\r  {step:40}", end="", file=sys.stderr, flush=True)
    if terminal and resolved:
        print(file=sys.stderr)
    if run.returncode:
        # Without a connection, pip's last line only says that there is no such package; an earlier one has the cause.
        broken = re.search(r"connection broken by '(.+)'", "".join(lines))
        errors = " ".join(line.strip() for line in lines if re.match("error|.*No space left", line, re.IGNORECASE))
        reason = f"no connection to the package index: {broken[1]}" if broken else errors or "".join(lines[-1:]).strip()
        raise CommandError(
            f"setting up .venv failed: {reason} (the whole output: {log}); correct this and run it again"
        )


def _main() -> int:
    install("local")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(_main))
