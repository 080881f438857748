"""Read-only access to the trace database, with a timeout for every statement and a size limit for every result."""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import aiosql
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout
from werkzeug.exceptions import ServiceUnavailable

import queries
from promscale.database import deadline

STATEMENT_SECONDS = 10
CONNECT_SECONDS = 3
# A PostgreSQL that is stopped, or cut off, ends no statement by itself.
PATIENCE_SECONDS = 3
CONNECTIONS = 6
# Statements of anybody's at a time, so that the dashboards have the other connections.
STATEMENTS = 2
STATEMENT_WAIT_SECONDS = 3
MAX_RESULT_BYTES = 16 * 2**20

_SETTINGS = {
    "search_path": "public,ps_trace",
    "default_transaction_read_only": "on",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
}
_FOR_A_CURSOR = "declare page no scroll cursor for "
_LEADING_COMMENTS = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
_FIRST_WORD = re.compile(r"\(|[a-z]+", re.IGNORECASE)
_FOR_A_CURSOR_WORDS = ("select", "with", "values", "table", "(")
_OTHER_WORDS = ("show", "explain")
_NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric", "oid"}

_STATEMENTS = aiosql.from_path(queries.FOLDER, "psycopg", kwargs_only=True)
_queries = aiosql.from_path(Path(__file__).with_name("database.sql"), "psycopg")


class RefusedStatement(Exception):
    """PostgreSQL refuses or ends the statement: `message` says why, `position` where in it, from 0, if that is known."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class Result(NamedTuple):
    """The rows of a statement, each value as text or None, and which of the columns are of numbers."""

    columns: list[str]
    numbers: list[bool]
    rows: list[list[str | None]]


class Database:
    """The database at `uri`, where its user is a member of prom_reader and no more.

    Every method raises ServiceUnavailable where PostgreSQL does not answer.
    """

    def __init__(self, uri: str) -> None:
        where = conninfo_to_dict(uri)
        self._address = f"{where.get('host', 'localhost')}:{where.get('port', 5432)}"
        self._statements = threading.BoundedSemaphore(STATEMENTS)
        self._pool = ConnectionPool(
            uri,
            kwargs={
                "autocommit": True,
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "explorer",
                "prepare_threshold": None,  # a generic plan would serve one minute and 24 h alike
                "options": " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items()),
            },
            check=_check,
            reset=_reset,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=CONNECT_SECONDS,
            open=True,
        )

    def rows(self, statement: str, values: Mapping[str, object]) -> tuple[list[str], list[tuple]]:
        """Columns and rows of a statement of queries/, by its name. Raises psycopg.Error."""
        with self._connection() as connection:
            cursor = connection.execute(getattr(_STATEMENTS, statement).sql, values)
            return [column.name for column in cursor.description], cursor.fetchall()

    def answer(self, text: str, max_rows: int) -> Result:
        """At most so many rows of anybody's statement, which may only read. Raises RefusedStatement.

        PostgreSQL's own parser decides what only reads: as a cursor, it takes but one query, without anything in it that
        changes data. Only the statements that no cursor takes, show and explain, are known by their first word.
        """
        begins = _LEADING_COMMENTS.match(text).end()
        statement, words = text[begins:], _FIRST_WORD.match(text, begins)
        word = words[0].lower() if words else ""
        if word not in _FOR_A_CURSOR_WORDS + _OTHER_WORDS:
            raise RefusedStatement(
                "Only statements that read run here: select, with, values, table, show and explain.", begins
            )
        prefix = _FOR_A_CURSOR if word in _FOR_A_CURSOR_WORDS else ""
        if not self._statements.acquire(timeout=STATEMENT_WAIT_SECONDS):
            raise ServiceUnavailable(f"{STATEMENTS} statements run already. Try again when one of them has ended.")
        try:
            with self._connection() as connection, connection.transaction():
                _queries.begin_reading(connection, milliseconds=str(STATEMENT_SECONDS * 1000))
                # Binary is what makes psycopg use the extended protocol, which takes one statement at a time.
                cursor = connection.execute(prefix + statement, binary=True)
                return _page(connection, max_rows) if prefix else _all(cursor, max_rows)
        except psycopg.Error as error:
            position = error.diag.statement_position
            raise RefusedStatement(
                message(error), int(position) - 1 - len(prefix) + begins if position else None
            ) from error
        finally:
            self._statements.release()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        try:
            with self._pool.connection() as connection, deadline(connection, STATEMENT_SECONDS + PATIENCE_SECONDS):
                yield connection
        except (PoolTimeout, TimeoutError):
            raise ServiceUnavailable(
                f"PostgreSQL at {self._address} does not answer. ./run.sh status shows what runs."
            ) from None


def message(error: psycopg.Error) -> str:
    """What PostgreSQL says of it, in sentences."""
    diagnosis = error.diag
    parts = (diagnosis.message_primary or str(error), diagnosis.message_detail, diagnosis.message_hint)
    return ". ".join(part.strip().removesuffix(".") for part in parts if part) + "."


def _page(connection: psycopg.Connection, max_rows: int) -> Result:
    columns = connection.execute(_queries.columns.sql).description
    rows = [row for (row,) in _queries.page(connection, max_rows=max_rows, max_bytes=MAX_RESULT_BYTES)]
    return Result([column.name for column in columns], [column.type_display in _NUMBERS for column in columns], rows)


def _all(cursor: psycopg.Cursor, max_rows: int) -> Result:
    """Of show and explain, whose columns are texts."""
    columns = cursor.description
    rows = [list(map(str, row)) for row in cursor.fetchmany(max_rows)]
    return Result([column.name for column in columns], [False] * len(columns), rows)


def _check(connection: psycopg.Connection) -> None:
    with deadline(connection, CONNECT_SECONDS / 2):
        ConnectionPool.check_connection(connection)


def _reset(connection: psycopg.Connection) -> None:
    """Undo whatever somebody's statement has set."""
    with deadline(connection, CONNECT_SECONDS):
        connection.execute("discard all")
