"""The local stack: the whole demo as processes of one machine, without Docker.

What its modules share. The standard library only, for `environment` runs before anything is installed.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT / ".data"
LOGS = DATA / "logs"


class Trouble(Exception):
    """A failure that was to be expected. Its message is for the user: one line with the cause and the way out."""


def report(work: Callable[[], int]) -> int:
    """Do the work of a command; returns its exit code. An expected failure becomes one line on stderr, and 1."""
    try:
        return work()
    except Trouble as trouble:
        print(f"run.sh: {trouble}", file=sys.stderr)
    except BrokenPipeError:  # nobody reads on, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except PermissionError as error:
        print(f"run.sh: no right to write: {error}; run it in a checkout of your own", file=sys.stderr)
    except OSError as error:  # no room, a read-only file system, too many open files
        print(f"run.sh: the system refused: {error}; put that right and run it again", file=sys.stderr)
    except KeyboardInterrupt:
        print("run.sh: interrupted; run it again to go on, or ./run.sh down to stop everything", file=sys.stderr)
        return 130
    return 1


@contextmanager
def exclusive() -> Iterator[None]:
    """Only one ./run.sh at a time may change anything in this checkout. Raises Trouble in the second.

    The lock is the kernel's, on the checkout's folder: it leaves no file, and it goes with the process that held it.
    """
    folder = os.open(CHECKOUT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble("another ./run.sh is at work in this checkout; run this again when it has ended") from None
        yield
    finally:
        os.close(folder)
