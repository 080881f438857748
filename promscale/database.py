"""Settings of connections to the trace database, to write and to read, and a deadline for work on a connection."""

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# A connection whose other end is gone without a word, because its machine or the network is, is given up within about
# half a minute by both ends. Until then, locks of the lost session would hold up other promscales; by the defaults of
# operating systems that would be two hours.
_KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}
_USER_TIMEOUT_MS = "25000"  # the same, while sent data is not acknowledged
# The same at the server. A statement ends, and frees its locks, when its client is gone, for instance killed.
_SERVER = {
    **{f"tcp_{name}": value for name, value in _KEEPALIVES.items()},
    "tcp_user_timeout": _USER_TIMEOUT_MS,
    "client_connection_check_interval": "2s",
}
# These override settings of the role or the database: somebody's `alter role ... set` must not stop promscale.
_WRITER = _SERVER | {
    "search_path": "public",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
_READER = _SERVER | {"search_path": "public,ps_trace", "default_transaction_read_only": "on"}


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
    return make_conninfo(
        uri,
        options=options,
        application_name=application_name,
        connect_timeout=5,
        tcp_user_timeout=_USER_TIMEOUT_MS,
        **_KEEPALIVES,
    )


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
