"""Process management of the stacks: what `./run.sh` does once there is a Python environment.

This file: what its modules share. The standard library only, because `environment` runs before packages are installed.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT / ".data"
LOGS = DATA / "logs"


class CommandError(Exception):
    """An expected failure of a command. The message is for the user: one line with the cause and the fix."""


def exit_code(command: Callable[[], int]) -> int:
    """Run the command and return its exit code. An expected failure is one line on stderr and exit code 1."""
    try:
        return command()
    except CommandError as error:
        print(f"run.sh: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except PermissionError as error:
        print(f"run.sh: permission denied: {error}; run it in a checkout that belongs to you", file=sys.stderr)
    except OSError as error:  # the disk is full, a file system is read-only, too many files are open
        print(f"run.sh: the operating system reports: {error}; correct this and run it again", file=sys.stderr)
    except KeyboardInterrupt:
        print("run.sh: interrupted; run it again to continue, or ./run.sh down to stop everything", file=sys.stderr)
        return 130
    return 1


def hash_of_files(folder: Path, files: Iterable[Path]) -> str:
    """The SHA-256 of the paths within the folder and the contents of these files, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(repr((str(file.relative_to(folder)), file.read_bytes())).encode())
    return digest.hexdigest()


@contextmanager
def exclusive() -> Iterator[None]:
    """A lock for whatever changes this checkout. Raises CommandError if another ./run.sh holds it.

    It is an flock(2) on the checkout's folder: it leaves no lock file, and the kernel releases it when the process
    ends.
    """
    folder = os.open(CHECKOUT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError("another ./run.sh is at work in this checkout; wait until it has ended") from None
        yield
    finally:
        os.close(folder)
