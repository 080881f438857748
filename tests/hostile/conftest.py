"""Attacks on the demo's parts, each limited in time. Valid spans that are sent in between must be stored."""

import pytest

from benchmarks import store as stores
from tests.hostile.target import Target


@pytest.fixture(scope="session")
def target():
    """A promscale in its own process, with its own PostgreSQL."""
    with stores.own() as running, Target(running) as target:
        yield target
