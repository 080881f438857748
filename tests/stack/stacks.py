"""A running stack, as the tests see it."""

import os
import re
import subprocess
from typing import Any

import psycopg
import pytest

from local import CommandError, postgres
from local import stack as local_stack
from telemetry.services import SERVICES
from tests.stack.checkout import Checkout
from tests.waiting import wait_until

GENERATOR_URL = f"http://localhost:{SERVICES['generator']}"


class Stack:
    """A running stack, by the addresses of its generator and its database."""

    def __init__(self, generator: str, dsn: str) -> None:
        self.generator = generator.rstrip("/")
        self.dsn = dsn

    def psql(self, *arguments: str) -> str:
        """The output of psql, which must succeed."""
        command = [postgres.psql(), self.dsn, *arguments]
        return checked(subprocess.run(command, capture_output=True, text=True, timeout=600)).stdout

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(statement.encode(), parameters).fetchall()


class OwnStack(Stack):
    """A stack that runs in a checkout of the tests, which may disturb it."""

    def __init__(self, generator: str, dsn: str, checkout: Checkout) -> None:
        super().__init__(generator, dsn)
        self.checkout = checkout

    def psql(self, *arguments: str) -> str:
        return checked(self.checkout.run("psql", *arguments)).stdout

    def pids(self) -> dict[str, str]:
        """The process id of each part by its name; empty unless all parts are healthy."""
        status = self.checkout.run("status")
        healthy = re.findall(r"^(\w+) +healthy .* (\d+)$", status.stdout, re.MULTILINE)
        return dict(healthy) if status.returncode == 0 else {}

    def healthy_pids(self) -> dict[str, str]:
        """Wait until all parts are healthy; returns the process id of each part by its name."""
        return wait_until(self.pids, "all parts are healthy")

    def wait_until_replaced(self, name: str, pid: str) -> None:
        """Wait until another process than `pid` is this part, and all parts are healthy."""
        wait_until(lambda: self.pids().get(name, pid) != pid, f"{name} is restarted, and all parts are healthy")

    def stored_spans(self) -> int:
        """The number of spans that ./run.sh status prints."""

        def number() -> re.Match[str] | None:
            return re.search(r"spans stored so far: (\d+)", self.checkout.run("status").stdout)

        match = wait_until(number, "a number of stored spans")
        return int(match[1]) if match else 0

    def restart(self, **environment: str) -> None:
        """Stop the stack, and start the local stack with these additional environment variables."""
        checked(self.checkout.run("down"))
        checked(self.checkout.run("local", env=os.environ | environment))


def checked(finished: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert finished.returncode == 0, finished.stderr
    return finished


def skip_unless_ports_are_free() -> None:
    try:
        local_stack.check_ports()
    except CommandError as error:
        pytest.skip(f"{error}; or set STACK_GENERATOR_URL and STACK_DSN to test the stack that runs there")
