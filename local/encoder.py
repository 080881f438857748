"""Builds promscale's Rust encoder and installs it in .venv: `python -m local.encoder`. Nothing depends on it."""

import fcntl
import shutil
import subprocess
import sys

from local import CHECKOUT, LOGS, CommandError, exit_code, hash_of_files
from local.environment import PIP_INSTALL, VENV

SOURCES = CHECKOUT / "promscale" / "encoder"
LOG = LOGS / "encoder.log"
# The hash of the sources that the installed encoder was built from.
INSTALLED = VENV / "encoder.sha256"


def is_built() -> bool:
    """Whether .venv has the encoder of the sources as they are now."""
    return INSTALLED.exists() and INSTALLED.read_text() == _hash_of_sources()


def build() -> None:
    """Build and install the encoder unless that is done, or wait until another process has done it.

    Raises CommandError, OSError.
    """
    with (VENV / "encoder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_built():
            return
        if not shutil.which("cargo"):
            raise CommandError("the Rust encoder needs cargo on the PATH; without it, promscale encodes in Python")
        built_from = _hash_of_sources()
        INSTALLED.unlink(missing_ok=True)
        LOGS.mkdir(parents=True, exist_ok=True)
        with LOG.open("w") as log:
            pip = subprocess.run([*PIP_INSTALL, "--no-deps", "--force-reinstall", SOURCES], stdout=log, stderr=log)
        if pip.returncode:
            raise CommandError(f"building the Rust encoder failed, promscale encodes in Python; the output: {LOG}")
        INSTALLED.write_text(built_from)


def build_where_possible() -> None:
    """The same where cargo is on the PATH. If it fails, this says so and goes on."""
    if is_built() or not shutil.which("cargo"):
        return
    print("Building promscale's Rust encoder (once)", file=sys.stderr)
    try:
        build()
    except CommandError as error:
        print(f"run.sh: {error}", file=sys.stderr)


def start_to_build() -> None:
    """The same in the background, in which the build also outlives this process."""
    if not is_built() and shutil.which("cargo"):
        print("Building promscale's Rust encoder in the background; the next ./run.sh uses it", flush=True)
        subprocess.Popen(
            ["nice", "-n", "19", sys.executable, "-P", "-m", "local.encoder"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _hash_of_sources() -> str:
    return hash_of_files(SOURCES, [*SOURCES.glob("*.*"), *SOURCES.glob("src/*.rs")])


def _main() -> int:
    build()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(_main))
