"""Settings of connections to the trace database, to write and to read, and a deadline for work on a connection."""

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# These override settings of the role or the database: somebody's `alter role ... set` must not stop promscale.
_WRITER = {
    "search_path": "public",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
_READER = {"search_path": "public,ps_trace", "default_transaction_read_only": "on"}


def conninfo(uri: str, application_name: str) -> str:
    """A libpq connection string for this URI, or other connection string, with promscale's own settings.

    Raises psycopg.ProgrammingError if `uri` is malformed.
    """
    return _conninfo(uri, application_name, _WRITER)


def reader_conninfo(uri: str, application_name: str, **settings: str) -> str:
    """The same for a connection that only reads ps_trace, with further settings, such as `statement_timeout="5min"`."""
    return _conninfo(uri, application_name, _READER | settings)


def _conninfo(uri: str, application_name: str, settings: Mapping[str, str]) -> str:
    given = conninfo_to_dict(uri).get("options") or ""
    options = " ".join([str(given), *(f"-c {name}={value}" for name, value in settings.items())]).lstrip()
    return make_conninfo(uri, options=options, application_name=application_name, connect_timeout=5)


@contextmanager
def deadline(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Limit the time that the body may take with the connection: after `seconds` the connection is cut.

    Raises TimeoutError then.
    """
    expired = threading.Event()
    # A duplicate of the file descriptor stays valid, and no other socket's, after psycopg has closed its own.
    duplicate = socket.socket(fileno=os.dup(connection.fileno()))

    def cut() -> None:
        expired.set()
        duplicate.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.OperationalError as error:
        if expired.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        timer.join()
        duplicate.close()
