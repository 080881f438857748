"""Read-only access to the trace database, with a timeout for every statement and a size limit for every result."""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import aiosql
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout
from werkzeug.exceptions import ServiceUnavailable

import queries
from explorer.results import QueryResult, TextResult
from promscale.database import deadline, reader_conninfo
from telemetry.services import POSTGRES_PORT

DATABASE_URI = os.environ.get("EXPLORER_DB_URI") or f"postgresql://explorer@localhost:{POSTGRES_PORT}/postgres"
STATEMENT_SECONDS = 10
CONNECT_SECONDS = 3
# The client's own timeout is statement_timeout plus this: a stopped or unreachable PostgreSQL cancels no statement.
GRACE_SECONDS = 3
CONNECTIONS = 6
# The limit of concurrent statements from the SQL page, so that connections remain for the dashboards.
USER_STATEMENTS = 2
USER_STATEMENT_WAIT_SECONDS = 3
MAX_RESULT_BYTES = 16 * 2**20

_DECLARE_CURSOR = "declare page no scroll cursor for "
# White space and comments before a statement. Nested comments are not recognised, and their statements refused.
_LEADING_COMMENTS = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
_FIRST_WORD = re.compile(r"\(|[a-z]+", re.IGNORECASE)
_CURSOR_WORDS = ("select", "with", "values", "table", "(")
_OTHER_WORDS = ("show", "explain")
_TYPE_MODIFIER = re.compile(r"\(.*\)")

_STATEMENTS = aiosql.from_path(queries.FOLDER, "psycopg", kwargs_only=True)
_queries = aiosql.from_path(Path(__file__).with_name("database.sql"), "psycopg")


class RefusedStatement(Exception):
    """PostgreSQL or this module refused or cancelled a statement.

    `message` says why; `position` is the index of the error in the statement, if it is known.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class Database:
    """The database at `uri`, whose user must be a member of prom_reader and no more.

    Every method raises ServiceUnavailable if PostgreSQL does not answer.
    """

    def __init__(self, uri: str) -> None:
        address = conninfo_to_dict(uri)
        self._address = f"{address.get('host', 'localhost')}:{address.get('port', 5432)}"
        self._user_statements = threading.BoundedSemaphore(USER_STATEMENTS)
        self._pool = ConnectionPool(
            reader_conninfo(uri, "explorer", statement_timeout=f"{STATEMENT_SECONDS}s"),
            kwargs={
                "autocommit": True,
                "connect_timeout": CONNECT_SECONDS,
                # No prepared statements: a generic plan would serve one minute and 24 h alike.
                "prepare_threshold": None,
            },
            check=_check,
            reset=_reset,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=CONNECT_SECONDS,
            open=True,
        )

    @cached_property
    def is_distributed(self) -> bool:
        """Whether the spans are on the nodes of Citus. Raises psycopg.Error."""
        with self._connection() as connection:
            return bool(_queries.is_distributed(connection))

    def query(self, statement: str, values: Mapping[str, object]) -> QueryResult:
        """The result of the statement of queries/ with this name. Raises psycopg.Error."""
        return self.run(getattr(_STATEMENTS, statement).sql, values)

    def run(self, statement: str, values: Mapping[str, object]) -> QueryResult:
        """The result of a statement of this project, with parameters as `%(name)s`. Raises psycopg.Error."""
        with self._connection() as connection:
            cursor = connection.execute(statement, values)
            return QueryResult([column.name for column in _columns(cursor)], cursor.fetchall())

    def names(self, statement: str, **values: str) -> list[str]:
        """The result of a statement of queries/ that has one column of texts. Raises psycopg.Error."""
        return [name for (name,) in self.query(statement, values).rows]

    def colours(self, services: Iterable[str]) -> dict[str, int]:
        """The colours of these services, as indexes in COLOURS: the same on all pages. Raises psycopg.Error."""
        shown = set(services)
        # The colours of the demo's services are fixed; those of others depend on which services there are.
        stored = [] if shown <= set(queries.SERVICES) else self.names("services")
        return queries.colour_numbers([*stored, *sorted(shown)])

    def run_user_statement(self, text: str, max_rows: int) -> TextResult:
        """The first `max_rows` rows of a user's statement, which may only read. Raises RefusedStatement."""
        with self.user_statements(1) as run:
            return run(text, max_rows)

    @contextmanager
    def user_statements(self, number: int) -> Iterator[Callable[[str, int], TextResult]]:
        """A function that does the same for up to `number` statements, which see the same spans and the same now().

        After a statement that was refused, it refuses all others.
        """
        if not self._user_statements.acquire(timeout=USER_STATEMENT_WAIT_SECONDS):
            raise ServiceUnavailable(f"{USER_STATEMENTS} statements are running already. Try again when one has ended.")
        try:
            with self._connection(number) as connection, connection.transaction():
                _queries.one_snapshot(connection)
                _queries.limit_time(connection, milliseconds=str(STATEMENT_SECONDS * 1000))
                yield partial(_run_user_statement, connection)
        except psycopg.Error as error:
            raise RefusedStatement(message(error)) from error
        finally:
            self._user_statements.release()

    @contextmanager
    def _connection(self, statements: int = 1) -> Iterator[psycopg.Connection]:
        """A connection for so many statements."""
        try:
            with (
                self._pool.connection() as connection,
                deadline(connection, statements * STATEMENT_SECONDS + GRACE_SECONDS),
            ):
                yield connection
        except (PoolTimeout, TimeoutError):
            raise ServiceUnavailable(
                f"PostgreSQL at {self._address} does not answer. ./run.sh status shows what is running."
            ) from None


def message(error: psycopg.Error) -> str:
    """PostgreSQL's error message, detail and hint, as sentences."""
    diagnosis = error.diag
    parts = (diagnosis.message_primary or str(error), diagnosis.message_detail, diagnosis.message_hint)
    return ". ".join(part.strip().removesuffix(".") for part in parts if part) + "."


def error_line(position: int | None, text: str) -> tuple[int, str, str] | None:
    """The line of a statement with an error: its number, its text before the position, and its text from there."""
    if position is None:
        return None
    begin = text.rfind("\n", 0, position) + 1
    return text.count("\n", 0, position) + 1, text[begin:position], text[position:].partition("\n")[0]


def _run_user_statement(connection: psycopg.Connection, text: str, max_rows: int) -> TextResult:
    """Raises RefusedStatement.

    PostgreSQL's own parser decides what only reads: as a cursor it accepts one query, without subqueries that change
    data. Only show and explain, which cannot be cursors, are recognised by their first word.
    https://www.postgresql.org/docs/current/sql-declare.html
    """
    comments = _LEADING_COMMENTS.match(text)
    begin = comments.end() if comments else 0
    first_word = _FIRST_WORD.match(text, begin)
    word = first_word[0].lower() if first_word else ""
    if word not in _CURSOR_WORDS + _OTHER_WORDS:
        raise RefusedStatement(
            "Only statements that read can run here: select, with, values, table, show and explain.", begin
        )
    prefix = _DECLARE_CURSOR if word in _CURSOR_WORDS else ""
    try:
        # binary=True makes psycopg use the extended query protocol, which accepts one statement at a time.
        cursor = connection.execute(prefix + text[begin:], binary=True)
        return _fetch_page(connection, max_rows) if prefix else _fetch_texts(cursor, max_rows)
    except psycopg.Error as error:
        position = error.diag.statement_position
        index = int(position) - 1 - len(prefix) + begin if position else None
        raise RefusedStatement(message(error), index) from error


def _columns(cursor: psycopg.Cursor[Any]) -> list[psycopg.Column]:
    """The columns of a statement that returns rows."""
    if cursor.description is None:
        raise TypeError("the statement returns no rows")
    return cursor.description


def _fetch_page(connection: psycopg.Connection, max_rows: int) -> TextResult:
    columns = _columns(connection.execute(_queries.columns.sql))
    rows = [row for (row,) in _queries.page(connection, max_rows=max_rows, max_bytes=MAX_RESULT_BYTES)]
    _queries.close_page(connection)
    return _text_result(columns, rows)


def _fetch_texts(cursor: psycopg.Cursor[Any], max_rows: int) -> TextResult:
    """The result of show or explain, whose columns are texts, XML or JSON: the same bytes in the binary format."""
    columns, result = _columns(cursor), cursor.pgresult
    assert result is not None  # which has the columns
    rows = [
        [_decoded(result.get_value(row, column)) for column in range(result.nfields)]
        for row in range(min(result.ntuples, max_rows))
    ]
    return _text_result(columns, rows)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _text_result(columns: list[psycopg.Column], rows: list[list[str | None]]) -> TextResult:
    """Without the modifiers of types, as in numeric(10, 2)."""
    types = [_TYPE_MODIFIER.sub("", column.type_display) for column in columns]
    return TextResult([column.name for column in columns], types, rows)


def _check(connection: psycopg.Connection) -> None:
    with deadline(connection, CONNECT_SECONDS / 2):
        ConnectionPool.check_connection(connection)


def _reset(connection: psycopg.Connection) -> None:
    """Undo all settings that a user's statement has changed."""
    with deadline(connection, CONNECT_SECONDS):
        connection.execute("discard all")
