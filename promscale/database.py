"""How promscale connects to its database, and how it, or the explorer, does not wait for one that does not answer."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Whatever is set for its role or database: a `set` of somebody's that outlasts sessions must not stop promscale.
_SETTINGS = {
    "search_path": "public",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


def conninfo(uri: str, application_name: str) -> str:
    """libpq's connection string for this URI, or other connection string, with promscale's own settings.

    Raises psycopg.ProgrammingError where it is none.
    """
    given = conninfo_to_dict(uri).get("options") or ""
    settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    options = f"{given} {settings}".lstrip()
    return make_conninfo(uri, options=options, application_name=application_name, connect_timeout=5)


@contextmanager
def deadline(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Raises TimeoutError where what is done with the connection takes longer; it is closed then."""
    late = threading.Event()
    # A copy of the socket, which is the same one also when psycopg has closed its own.
    wire = socket.socket(fileno=os.dup(connection.fileno()))

    def cut() -> None:
        late.set()
        wire.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.OperationalError as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        timer.join()
        wire.close()
