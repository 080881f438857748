"""One read-only snapshot of the trace database, and the traces that are selected in it."""

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import aiosql
import psycopg
import pyarrow
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import namedtuple_row

from promscale.database import reader_conninfo
from transfer.errors import TransferError

STATEMENTS = aiosql.from_path(Path(__file__).with_name("transfer.sql"), "psycopg")

# Bytes of rows in one batch of Arrow.
BATCH_BYTES = 8 * 2**20
# The labels that a service puts on spans on which a fault took effect; the second is the name of an event.
LABEL_PREFIX, LABEL_EVENT = "demo.fault.", "feature_flag.evaluation"

_AGO = re.compile(r"(?:now\s*)?-(.+)")  # -1h; also Grafana's now-1h
_TIMES = "write 2026-01-31 12:00, 2026-01-31T12:00:00Z, now, -15m or -1h"


class Snapshot:
    """A snapshot (isolation level repeatable read) of the database at `uri`, and the selected traces in it.

    Selected are the traces with a span that starts from `time_from` on, before `time_to`, and fulfils the SQL condition
    `where` on the columns of ps_trace.span. Times are datetimes, or texts that PostgreSQL reads as timestamptz, or such
    as "-1h". `labels`: whether spans keep the labels of faults.

    Use it as a context manager. All methods raise TransferError.
    """

    def __init__(
        self, uri: str, time_from: datetime | str, time_to: datetime | str, where: str = "", labels: bool = True
    ) -> None:
        self._where = where.strip()
        with contextlib.ExitStack() as opened:
            self._uri = uri
            self._connection = opened.enter_context(_connect(uri))
            opened.enter_context(self._connection.transaction())
            self._id = self._value(sql.SQL("select pg_export_snapshot()"))
            self.time_from, self.time_to = self.time(time_from, "--from"), self.time(time_to, "--to")
            if self.time_from >= self.time_to:
                raise TransferError(f"--from ({self.time_from}) is not before --to ({self.time_to})")
            self._labels = labels
            self.spans = self._count()
            self._opened = opened.pop_all()

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def time(self, time: datetime | str, name: str) -> datetime:
        """A time in UTC. `name` says in an error message what it is."""
        if isinstance(time, datetime):
            return time.astimezone(UTC)
        ago = _AGO.fullmatch(time.strip())
        statement = STATEMENTS.database_time_ago if ago else STATEMENTS.database_time
        try:
            with self._connection.transaction():
                found = self._value(sql.SQL(statement.sql).format(time=ago[1] if ago else time))
        except psycopg.DataError:
            raise TransferError(f"{name}: {time!r} is not a time; {_TIMES}") from None
        return found.astimezone(UTC)

    def statement(self, name: str, **values: object) -> sql.Composed:
        """The statement of transfer.sql, on the selected traces.

        `first_from` and `first_to` among the values limit these to traces whose first selected span starts in between.
        """
        all_values = {
            "from": self.time_from,
            "to": self.time_to,
            "first_from": "-infinity",
            "first_to": "infinity",
            "labels": self._labels,
            "label_prefix": LABEL_PREFIX,
            "other_events": f'strict $[*] ? (@[1] != "{LABEL_EVENT}")',
            **values,
        }
        condition = sql.SQL(self._where or "true")
        traces = sql.SQL(STATEMENTS.selected_traces.sql).format(condition=condition, **all_values)
        return sql.SQL(getattr(STATEMENTS, name).sql).format(traces=traces, **all_values)

    def rows(self, name: str) -> list[Any]:
        with _one_line(self._where):
            return self._connection.cursor(row_factory=namedtuple_row).execute(self.statement(name)).fetchall()

    def copy(self, statement: sql.Composed, options: str) -> Iterator[bytes | bytearray | memoryview]:
        """What COPY sends of the statement's result, with options such as "format csv"."""
        with _one_line(self._where), self._connection.cursor().copy(_copy(statement, options)) as copy:
            yield from copy

    def values(self, statement: sql.Composed) -> Iterator[bytes]:
        """The result of a statement with one column of type bytea."""
        with _one_line(self._where), self._connection.cursor().copy(_copy(statement, "format binary")) as copy:
            copy.set_types(["bytea"])
            for (value,) in copy.rows():
                yield value

    @contextlib.contextmanager
    def arrow(self, statement: sql.Composed) -> Iterator[pyarrow.RecordBatchReader]:
        """The statement's result in batches of about BATCH_BYTES, which the driver reads by COPY."""
        options = {"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)}
        try:
            with adbc.connect(_as_uri(_conninfo(self._uri))) as connection, connection.cursor() as settings:
                settings.execute("set transaction isolation level repeatable read read only")
                settings.execute(f"set transaction snapshot '{self._id}'")
                with connection.cursor(adbc_stmt_kwargs=options) as cursor:
                    cursor.execute(statement.as_string(self._connection))
                    yield cursor.fetch_record_batch()
        except (adbc_driver_manager.Error, pyarrow.ArrowException) as error:
            raise TransferError(f"PostgreSQL refused the export: {' '.join(str(error).split())}") from error

    def _count(self) -> int:
        """The number of spans of the selected traces."""
        statement = self.statement("count_spans")
        # binary=True makes psycopg use the extended query protocol, which accepts one statement at a time.
        with _one_line(self._where):
            [(spans,)] = self._connection.execute(statement, binary=True).fetchall()
        if not spans:
            also = f" that fulfils {self._where!r}" if self._where else ""
            raise TransferError(f"no span{also} started between {self.time_from} and {self.time_to}")
        return int(spans)

    def _value(self, statement: sql.SQL | sql.Composed) -> Any:
        [(value,)] = self._connection.execute(statement).fetchall()
        return value


def connect(uri: str) -> psycopg.Connection:
    """A connection that only reads; each statement is a transaction. Raises TransferError."""
    try:
        connection = psycopg.connect(_conninfo(uri), autocommit=True)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise TransferError(f"no trace database answers: {reason}; start the demo with ./run.sh") from None
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


@contextlib.contextmanager
def _connect(uri: str) -> Iterator[psycopg.Connection]:
    connection = connect(uri)
    try:
        yield connection
    finally:
        connection.close()


def _conninfo(uri: str) -> str:
    # The role's own timeout is for pages, and PostgreSQL's just-in-time compilation takes longer than it saves.
    return reader_conninfo(uri, "transfer", statement_timeout="0", jit="off")


def _as_uri(conninfo: str) -> str:
    """ADBC's driver takes URIs only: https://arrow.apache.org/adbc/current/driver/postgresql.html"""
    return "postgresql:///?" + urlencode(
        {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}, quote_via=quote
    )


def _copy(statement: sql.Composed, options: str) -> sql.Composed:
    return sql.SQL("copy ({}) to stdout ({})").format(statement, sql.SQL(options))


@contextlib.contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Turns PostgreSQL's errors into a TransferError, which names the user's condition."""
    try:
        yield
    except errors.UndefinedTable as error:
        raise TransferError(f"this is no trace database: {error.diag.message_primary}") from error
    except psycopg.Error as error:
        reason = ". ".join(filter(None, [error.diag.message_primary or str(error), error.diag.message_hint]))
        condition = f"--where {where!r}: " if where else ""
        raise TransferError(f"{condition}PostgreSQL says: {' '.join(reason.split())}") from error
