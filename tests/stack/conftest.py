"""The stack under test: the local one, started for the tests in a copy of this checkout, or any running stack, by its
addresses:

    STACK_GENERATOR_URL=http://localhost:5050 STACK_DSN=postgresql://postgres@localhost:5999/postgres pytest tests/stack
"""

import os
from collections.abc import Iterator

import pytest

from local import stack as local_stack
from tests.stack.checkout import Checkout
from tests.stack.stacks import GENERATOR_URL, OwnStack, Stack, checked, skip_unless_ports_are_free


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the ports for themselves run before those for which `stack` stays up."""
    items.sort(key=lambda item: "free_ports" not in getattr(item, "fixturenames", ()))


@pytest.fixture
def free_ports() -> None:
    skip_unless_ports_are_free()


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    generator, dsn = os.environ.get("STACK_GENERATOR_URL"), os.environ.get("STACK_DSN")
    if generator and dsn:
        yield Stack(generator, dsn)
        return
    skip_unless_ports_are_free()
    checkout = Checkout(tmp_path_factory.mktemp("stack") / "checkout")
    try:
        checked(checkout.run("local"))
        yield OwnStack(GENERATOR_URL, local_stack.DATABASE.uri, checkout)
    finally:
        checkout.run("reset")
    assert checkout.processes() == []
    assert not (checkout.folder / ".data").exists()


@pytest.fixture
def own_stack(stack: Stack) -> OwnStack:
    """A stack that the test may disturb."""
    if not isinstance(stack, OwnStack):
        pytest.skip("the test would disturb the stack at STACK_GENERATOR_URL")
    return stack


@pytest.fixture
def quiet_stack(own_stack: OwnStack) -> Iterator[OwnStack]:
    """A stack that the test may disturb, without the faults that are on by default."""
    checked(own_stack.checkout.run("faults", "off"))
    yield own_stack
    checked(own_stack.checkout.run("faults", "reset"))
