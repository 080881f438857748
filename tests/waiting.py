"""Waiting for a condition, and TCP ports for the programs under test."""

import contextlib
import itertools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(condition: Callable[[], Result], what: str, seconds: float = 120) -> Result:
    """Poll `condition` until its value is truthy, and return that value.

    Raises AssertionError, which names `what`, after `seconds`: a limit that ends a hanging test and measures nothing.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return result


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, and that none of the last calls has returned.

    It is none of those that the kernel chooses for connections (32768 and above): one of them could take it before the
    program under test listens on it. Each process of pytest-xdist has ports of its own.
    """
    while True:
        port = next(_PORTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _ports() -> Iterator[int]:
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + 1_000 * (process % 12)
    # In random order, because other runs of the tests have the same ports.
    return itertools.cycle(random.sample(range(first, first + 1_000), 1_000))


_PORTS = _ports()
