"""PostgreSQL and promscale for the tests.

PostgreSQL is a new cluster of the wheel, or the one at TEST_POSTGRES_URI (a superuser's URI). That may be the
coordinator of Citus (tests/store/citus.py).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from faults.recorder import SCHEMA, State, record
from local.postgres import Cluster, as_account
from promscale.store import Store
from promscale.upkeep import Upkeep
from tests.store import citus
from tests.store.known_traces import NOON, export_passwords
from tests.store.process import Process
from tests.store.running import Promscale, value_of
from tests.waiting import free_port, wait_until

# In memory, if there is room: ext4 without a journal takes up to 0.5 s of CPU to create the files of a database after
# those of another were deleted.
MEMORY = Path("/dev/shm")
MIN_MEMORY_BYTES = 4 * 2**30
DATABASE_SETTINGS = """
    select unnest(s.setconfig) from pg_db_role_setting as s join pg_database as d on d.oid = s.setdatabase
    where d.datname = %s and s.setrole = 0
"""


@pytest.fixture(scope="session")
def cluster():
    """The PostgreSQL that is started for the tests; None with TEST_POSTGRES_URI."""
    if os.environ.get("TEST_POSTGRES_URI"):
        yield None
        return
    with data_folder() as folder, running_cluster(folder) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_uri(cluster):
    """For the role that promscale and users log in as: `postgres`, which is no superuser in the tests' own cluster."""
    return cluster.uri if cluster else os.environ["TEST_POSTGRES_URI"]


@pytest.fixture(scope="session")
def superuser_uri(cluster):
    return cluster.superuser_uri if cluster else os.environ["TEST_POSTGRES_URI"]


@pytest.fixture
def own_cluster():
    """A PostgreSQL for one test, with the local stack's settings except for a small write-ahead log."""
    if os.environ.get("TEST_POSTGRES_URI"):
        pytest.skip("needs a PostgreSQL of its own: runs without TEST_POSTGRES_URI only")
    with data_folder() as folder, running_cluster(folder, "--max_wal_size=64MB", "--min_wal_size=32MB") as cluster:
        yield cluster


@pytest.fixture
def own_uri(own_cluster):
    return own_cluster.uri


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """A new folder, which all users may enter."""
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MIN_MEMORY_BYTES
    with tempfile.TemporaryDirectory(prefix="tests-", dir=MEMORY if in_memory else None) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def running_cluster(folder: Path, *options: str) -> Iterator[Cluster]:
    """A cluster of the PostgreSQL wheel with its data in `folder`, and with more options for its server."""
    cluster = Cluster(folder / "home", free_port(), root_data=folder)
    cluster.prepare()
    # No durability is needed: the data does not outlive the tests.
    command = [*cluster.server, "--fsync=off", *options]
    server = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **as_account())

    def answers() -> bool:
        assert server.poll() is None, "PostgreSQL did not start"
        try:
            psycopg.connect(cluster.uri, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(answers, "an answer of PostgreSQL")
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


@contextlib.contextmanager
def new_database(postgres_uri: str, superuser_uri: str, template: str = "template0") -> Iterator[str]:
    """A connection string to a new database, a copy of `template`."""
    name, owner = f"test_{uuid.uuid4().hex[:12]}", str(conninfo_to_dict(postgres_uri)["user"])
    with citus.all_nodes(superuser_uri) as nodes:
        for connection in nodes:
            created = sql.SQL("create database {} owner {} template {} strategy file_copy")
            connection.execute(created.format(*map(sql.Identifier, (name, owner, template))))
            # A copy lacks the settings of its template.
            for setting in connection.execute(DATABASE_SETTINGS, [template]).fetchall():
                parameter, value = setting[0].split("=", 1)
                changed = sql.SQL("alter database {} set {} = {}")
                connection.execute(changed.format(sql.Identifier(name), sql.Identifier(parameter), sql.SQL(value)))
        if template == "template0" and citus.WORKERS:
            citus.join_nodes(superuser_uri, name)
    yield make_conninfo(postgres_uri, dbname=name)
    with citus.all_nodes(superuser_uri) as nodes:
        for connection in nodes:
            wait_until(partial(citus.dropped, connection, name), f"the database {name} to have no more sessions")


@pytest.fixture
def empty_dsn(postgres_uri, superuser_uri):
    with new_database(postgres_uri, superuser_uri) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def migrated(postgres_uri, superuser_uri):
    """The name of a database with the schemas of the store and of faults/, from which others are copied: that is faster
    than migrating."""
    with new_database(postgres_uri, superuser_uri) as dsn:
        Store(dsn).migrate()
        with psycopg.connect(dsn) as owner:
            owner.execute(SCHEMA)
        name = str(conninfo_to_dict(dsn)["dbname"])
        # A database with connections cannot be copied, and background workers of TimescaleDB and Citus would connect.
        with citus.all_nodes(superuser_uri) as nodes:
            for connection in nodes:
                connection.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
                connection.execute(
                    "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", [name]
                )
        yield name


@pytest.fixture
def patient_connections(monkeypatch):
    """A machine that is busy with other tests may need longer for a connection than the limits of the demo."""
    for limit in ("explorer.database.CONNECT_SECONDS", "explorer.store.CONNECT_SECONDS"):
        monkeypatch.setattr(limit, 60)
    monkeypatch.setattr("promscale.jaeger.CONNECTION_SECONDS", 60)


@pytest.fixture
def dsn(postgres_uri, superuser_uri, migrated, patient_connections):
    """A connection string to a new database that has the store's schema."""
    with new_database(postgres_uri, superuser_uri, template=migrated) as dsn:
        yield dsn


@pytest.fixture
def database(dsn):
    """A connection to the database of `dsn`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def native(database):
    """Skips tests of native partitions with TimescaleDB."""
    if value_of(database, "select _promscale.is_timescaledb()"):
        pytest.skip("with TimescaleDB, spans are in its chunks, not in native partitions")


@pytest.fixture
def promscale(dsn):
    running = Promscale(dsn)
    yield running
    running.close()


@pytest.fixture
def start_process(tmp_path):
    """A function that starts a promscale as a process, with the arguments of `Process` except for its log."""
    started: list[Process] = []

    def start(dsn: str, **arguments: str) -> Process:
        started.append(Process(dsn, tmp_path / f"promscale-{len(started)}.log", **arguments))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@pytest.fixture
def upkeep(dsn):
    """The store's upkeep; the test calls its parts."""
    upkeep = Upkeep(dsn)
    yield upkeep
    upkeep.close()


@pytest.fixture
def traces(promscale, database):
    """The root spans of known_traces.export_passwords, which are stored. A fault was switched in their time."""
    switch_fault(database, NOON + timedelta(minutes=1))
    return export_passwords(promscale)


def switch_fault(database: psycopg.Connection, time: datetime) -> None:
    """Record that digit.errors was switched from mild to strong."""
    variants = {time - timedelta(hours=1): "mild", time: "strong"}
    record(database, [State(begin, None, {"digit.errors": variant}) for begin, variant in variants.items()])
