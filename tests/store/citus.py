"""The nodes of Citus, if TEST_POSTGRES_URI is the URI of a coordinator. TEST_CITUS_WORKERS has those of its workers,
separated by spaces. All are superusers' URIs."""

import contextlib
import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

WORKERS = os.environ.get("TEST_CITUS_WORKERS", "").split()
# What a reader of disk_usage may get instead of a wait for a lock.
LOCKED = (errors.LockNotAvailable,) if WORKERS else ()


def not_with_citus(reason: str) -> pytest.MarkDecorator:
    """Skips the test with Citus."""
    return pytest.mark.skipif(bool(WORKERS), reason=f"with Citus, {reason}")


def dropped(connection: psycopg.Connection, name: str) -> bool:
    try:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
    except psycopg.errors.ObjectInUse:  # by a background worker of Citus that is just starting
        return False
    return True


@contextlib.contextmanager
def all_nodes(superuser_uri: str) -> Iterator[list[psycopg.Connection]]:
    """Connections to the server or, with Citus, to the coordinator and then its workers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(psycopg.connect(uri, autocommit=True)) for uri in (superuser_uri, *WORKERS)]


def join_nodes(superuser_uri: str, name: str) -> None:
    """Make the databases of this name on all nodes one distributed database."""
    for uri in (superuser_uri, *WORKERS):
        with psycopg.connect(make_conninfo(uri, dbname=name), autocommit=True) as connection:
            connection.execute("create extension citus")
    with psycopg.connect(make_conninfo(superuser_uri, dbname=name), autocommit=True) as connection:
        for function, uri in (
            ("citus_set_coordinator_host", superuser_uri),
            *(("citus_add_node", uri) for uri in WORKERS),
        ):
            node = conninfo_to_dict(uri)
            called = sql.SQL("select {}(%s, %s)").format(sql.Identifier(function))
            connection.execute(called, [node["host"], int(str(node["port"]))])
