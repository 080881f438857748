"""A real PostgreSQL for the store's tests: the wheel's, or the one at TEST_POSTGRES_URI (a superuser's URI)."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from local.postgres import Cluster, as_account
from promscale.store import Store
from promscale.upkeep import Upkeep
from tests.store.known_traces import export_passwords
from tests.store.running import Promscale


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The PostgreSQL that is started for the tests; None where one is given."""
    if os.environ.get("TEST_POSTGRES_URI"):
        yield None
        return
    with running_cluster(tmp_path_factory.mktemp("postgres")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_uri(cluster):
    """As promscale and people log in: as `postgres`, which is no superuser in the cluster that is started here."""
    return cluster.uri if cluster else os.environ["TEST_POSTGRES_URI"]


@pytest.fixture(scope="session")
def superuser_uri(cluster):
    return cluster.superuser_uri if cluster else os.environ["TEST_POSTGRES_URI"]


@pytest.fixture
def own_cluster(tmp_path):
    """A PostgreSQL of the test's own, as the local stack has it but for a small write-ahead log."""
    if os.environ.get("TEST_POSTGRES_URI"):
        pytest.skip("it has a PostgreSQL of its own, and so runs where none is given")
    with running_cluster(tmp_path, "--max_wal_size=64MB", "--min_wal_size=32MB") as cluster:
        yield cluster


@pytest.fixture
def own_uri(own_cluster):
    return own_cluster.uri


@contextlib.contextmanager
def running_cluster(folder: Path, *options: str) -> Iterator[Cluster]:
    """A new PostgreSQL, the wheel's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        cluster = Cluster(folder / "home", free.getsockname()[1])
    cluster.prepare()
    # Nothing here outlives the tests, so that the disk need not be waited for.
    command = [*cluster.server, "--fsync=off", *options]
    server = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **as_account())
    try:
        wait_until_it_answers(server, cluster.uri)
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        cluster.delete()


def wait_until_it_answers(server: subprocess.Popen, uri: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(uri, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.1)


@contextlib.contextmanager
def new_database(postgres_uri: str, superuser_uri: str) -> Iterator[str]:
    """A connection string to a new, empty database."""
    name, owner = f"test_{uuid.uuid4().hex[:12]}", conninfo_to_dict(postgres_uri)["user"]
    with psycopg.connect(superuser_uri, autocommit=True) as connection:
        created = sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(owner))
        connection.execute(created)
        yield make_conninfo(**conninfo_to_dict(postgres_uri) | {"dbname": name})
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def empty_dsn(postgres_uri, superuser_uri):
    with new_database(postgres_uri, superuser_uri) as dsn:
        yield dsn


@pytest.fixture
def dsn(empty_dsn):
    """A connection string to a new database that has the store's schema."""
    Store(empty_dsn).migrate()
    return empty_dsn


@pytest.fixture
def database(dsn):
    """A connection to the database of `dsn`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def native(database):
    """For tests of what only native partitions have."""
    if database.execute("select _promscale.is_timescaledb()").fetchone()[0]:
        pytest.skip("with TimescaleDB the spans are in its chunks, not in native partitions")


@pytest.fixture
def promscale(dsn):
    running = Promscale(dsn)
    yield running
    running.close()


@pytest.fixture
def upkeep(dsn):
    """The store's upkeep, whose parts run when a test calls them."""
    upkeep = Upkeep(dsn)
    yield upkeep
    upkeep.close()


@pytest.fixture
def traces(promscale):
    """The passwords of tests/store/known_traces.py, stored: their root spans."""
    return export_passwords(promscale)
