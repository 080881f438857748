"""Privileges in the demo's own PostgreSQL: postgres/roles.sql, postgres/pg_hba.conf, and the reader roles."""

import stat
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from local import postgres
from promscale.store import Store
from promscale.upkeep import Upkeep
from tests.databases import data_folder, running_cluster
from tests.store import citus
from tests.store.otlp_messages import request, span
from tests.store.running import Promscale, span_count, value_of

READERS = ("trace_viewer", "explorer", "grafana")


@pytest.fixture(scope="module")
def demo(cluster):
    """The tests' cluster, with the store's schema in its database `postgres`."""
    if not cluster:
        pytest.skip("tests the demo's own PostgreSQL: runs without TEST_POSTGRES_URI only")
    Store(cluster.uri).migrate()
    return cluster


def rows(uri: str, statement: str) -> list[tuple]:
    with psycopg.connect(uri, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


def run(uri: str, statement: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1) to program 'true'",
        "copy (select 1) to '/dev/null'",
        "select pg_read_file('postgresql.conf')",
        "create database another",
        "alter system set work_mem = '1GB'",
        "create role another superuser",
        "grant pg_execute_server_program to postgres",
        "set session authorization superuser",
        "create extension file_fdw",
    ],
)
def test_postgres_is_no_superuser(demo, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(demo.uri, statement)


def test_postgres_owns_the_traces_and_reads_everything(demo):
    assert rows(demo.uri, "select ps_trace.set_trace_retention_period('7 days')") == [(True,)]
    assert rows(demo.uri, "select count(*) > 0 from _promscale.migration") == [(True,)]
    assert rows(demo.uri, "select count(*) > 0 from pg_ls_waldir()") == [(True,)]
    run(demo.uri, "create table public.mine as select 1 as one; drop table public.mine")


def test_postgres_cannot_connect_to_other_databases(demo):
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(demo.uri, dbname="template1")


def test_the_superuser_connects_by_the_socket_only(demo):
    assert rows(demo.superuser_uri, "show is_superuser") == [("on",)]
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(demo.uri_of("superuser"))
    folder = Path(conninfo_to_dict(demo.superuser_uri)["host"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "statement",
    [
        "select lo_create(0)",
        "select lo_from_bytea(0, 'stored')",
        "create temporary table mine ()",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_xact_lock(1)",
        "select pg_terminate_backend(pg_backend_pid())",
        "create table public.mine ()",
    ],
)
@pytest.mark.parametrize("role", READERS)
def test_readers_can_neither_create_objects_nor_disturb_other_sessions(demo, role, statement):
    with psycopg.connect(demo.uri_of(role), autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


@pytest.mark.parametrize("role", READERS)
def test_settings_that_a_reader_changes_for_its_role_are_restored(dsn, upkeep, role):
    reader = conninfo_to_dict(dsn) | {"user": role, "password": ""}
    name = reader["dbname"]
    with psycopg.connect(**reader, autocommit=True) as connection:
        for statement in (
            "set default_transaction_read_only = off",
            f"alter role {role} set search_path = nowhere",
            f"alter role {role} in database {name} set statement_timeout = '1ms'",
        ):
            connection.execute(statement)
    upkeep.restore_readers()
    with psycopg.connect(**reader, autocommit=True) as connection:
        assert connection.execute("show search_path").fetchone() == ('"$user", public, ps_trace',)
        assert connection.execute("show default_transaction_read_only").fetchone() == ("on",)
        assert connection.execute("show statement_timeout").fetchone() == ("30s",)


def test_the_upkeep_restores_the_settings_of_readers(dsn, upkeep, database):
    database.execute("alter role grafana set search_path = nowhere")
    upkeep.turn()
    settings = value_of(database, "select rolconfig from pg_roles where rolname = 'grafana'")
    assert settings == ["default_transaction_read_only=on", "statement_timeout=30s"]


@citus.not_with_citus("sessions between the nodes have the role's settings")
def test_settings_of_promscales_role_do_not_stop_promscale(dsn, database):
    name = conninfo_to_dict(dsn)["dbname"]
    for setting in ("default_transaction_read_only = on", "search_path = nowhere", "statement_timeout = '1ms'"):
        database.execute(f"alter role current_user in database {name} set {setting}")
    promscale, upkeep = Promscale(dsn), Upkeep(dsn)
    try:
        promscale.export(request(span()))
        upkeep.turn()
        assert span_count(database) == 1
    finally:
        upkeep.close()
        promscale.close()


@pytest.fixture
def folder():
    with data_folder() as folder:
        yield folder


def test_a_cluster_from_the_time_when_postgres_was_the_superuser(tmp_path, folder, monkeypatch):
    """Its data is kept, and `postgres` can still do what promscale and users need."""
    roles, access = tmp_path / "roles.sql", tmp_path / "pg_hba.conf"
    roles.write_text("select 'the roles of initdb';\n")
    access.write_text("local all all trust\nhost all all all trust\n")
    with monkeypatch.context() as earlier:
        earlier.setattr(postgres, "ROLES", roles)
        earlier.setattr(postgres, "ACCESS", access)
        with running_cluster(folder) as cluster:
            promscale = Promscale(cluster.uri)
            promscale.export(request(span("kept")))
            promscale.close()
            run(cluster.uri, "create table public.mine as select 'of the user' as text")
            assert rows(cluster.uri, "show is_superuser") == [("on",)]
    with running_cluster(folder) as cluster:
        assert rows(cluster.uri, "show is_superuser") == [("off",)]
        promscale, upkeep = Promscale(cluster.uri), Upkeep(cluster.uri)
        promscale.export(request(span("new")))
        upkeep.turn()
        upkeep.close()
        promscale.close()
        assert rows(cluster.uri, "select span_name from span order by 1") == [("kept",), ("new",)]
        run(cluster.uri, "drop table public.mine; select ps_trace.delete_all_traces()")
        assert rows(cluster.uri, "select count(*) from span") == [(0,)]
