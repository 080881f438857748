"""Waiting for a condition, and TCP ports for the programs under test."""

import socket
import time
from collections.abc import Callable
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
    """A TCP port of 127.0.0.1 that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
