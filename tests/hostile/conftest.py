"""Attacks on the demo's parts, each bounded in time, with spans in between that must be stored all the same."""

import pytest

from benchmarks import store as stores
from tests.hostile.target import Target
from tests.store.conftest import cluster, dsn, empty_dsn, postgres_uri, promscale, superuser_uri  # noqa: F401


@pytest.fixture(scope="session")
def target():
    """A promscale of its own process, on a PostgreSQL of its own."""
    with stores.own() as running, Target(running) as target:
        yield target
