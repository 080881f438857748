"""The stack that the tests look at: the local one, started for them in a copy of this checkout; or any that runs
already, by its addresses:

    STACK_GENERATOR_URL=http://localhost:5050 STACK_DSN=postgresql://postgres@localhost:5999/postgres pytest tests/stack
"""

import os
import re
import subprocess

import psycopg
import pytest

from local import Trouble, postgres
from local import stack as local_stack
from tests.stack.checkout import Checkout, wait_for


class Stack:
    """A running stack. `checkout` is None when it was not started by the tests, and then is not to be disturbed."""

    def __init__(self, generator: str, dsn: str, checkout: Checkout | None) -> None:
        self.generator = generator.rstrip("/")
        self.dsn = dsn
        self.checkout = checkout

    def psql(self, *arguments: str) -> str:
        """What psql prints, called as the user is told to. Fails when it does."""
        if self.checkout:
            done = self.checkout.run("psql", *arguments)
        else:
            done = subprocess.run([postgres.psql(), self.dsn, *arguments], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pids(self) -> dict[str, str]:
        """The process of each part, if all parts are healthy; else nothing."""
        status = self.checkout.run("status")
        healthy = re.findall(r"^(\w+) +healthy .* (\d+)$", status.stdout, re.MULTILINE)
        return dict(healthy) if status.returncode == 0 else {}

    def stored_spans(self) -> int:
        """As ./run.sh status says."""
        said = r"spans stored so far: (\d+)"
        return int(wait_for(lambda: re.search(said, self.checkout.run("status").stdout), "a count of spans")[1])

    def start_anew(self, **environment: str) -> None:
        """Down, and up again with these variables besides."""
        down = self.checkout.run("down")
        assert down.returncode == 0, down.stderr
        started = self.checkout.run("local", env=os.environ | environment)
        assert started.returncode == 0, started.stderr

    def rows(self, statement: str, *parameters: object) -> list[tuple]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(statement, parameters).fetchall()


def skip_where_ports_are_taken() -> None:
    try:
        local_stack.check_ports()
    except Trouble as trouble:
        pytest.skip(f"{trouble}; or set STACK_GENERATOR_URL and STACK_DSN to test what runs there")


@pytest.fixture
def free_ports():
    skip_where_ports_are_taken()


@pytest.fixture(scope="package")
def stack(tmp_path_factory):
    generator, dsn = os.environ.get("STACK_GENERATOR_URL"), os.environ.get("STACK_DSN")
    if generator and dsn:
        yield Stack(generator, dsn, None)
        return
    skip_where_ports_are_taken()
    checkout = Checkout(tmp_path_factory.mktemp("stack") / "checkout")
    try:
        started = checkout.run("local")
        assert started.returncode == 0, started.stderr
        yield Stack("http://localhost:5050", local_stack.DATABASE.uri, checkout)
    finally:
        checkout.run("reset")
    assert checkout.processes() == []
    assert not (checkout.folder / ".data").exists()


@pytest.fixture
def own_stack(stack):
    """A stack that the test may disturb."""
    if not stack.checkout:
        pytest.skip("the stack at STACK_GENERATOR_URL is not the tests' own, and this would disturb it")
    return stack
