"""COPY into the tables of spans and of OTLP bytes: their columns, and their rows in COPY's binary format.

A row is its number of columns in 2 bytes, then for each column the length of its value in 4 bytes (-1: NULL) and the
value. All numbers are big-endian, times are microseconds since 2000-01-01. Source: PostgreSQL's documentation of COPY
(https://www.postgresql.org/docs/current/sql-copy.html), "Binary Format", and the types' receive functions.
"""

import struct
from collections.abc import Iterable
from itertools import chain

import psycopg
from psycopg import sql

# PostgreSQL counts from 2000-01-01, OTLP from 1970-01-01.
POSTGRES_EPOCH_MICROS = 946_684_800_000_000
INT4_MAX = 2**31 - 1

# The columns that have a value of the same length in every row, and struct's format of that value.
_SPAN_HEAD_COLUMNS = {"trace_id": "16s", "span_id": "8s", "start_time": "q", "duration_ms": "d"}
SPAN_COLUMNS = (
    *_SPAN_HEAD_COLUMNS,
    "parent_span_id",
    "origin_id",
    "status_code",
    "start_ns",
    "dropped_tags_count",
    "dropped_events_count",
    "dropped_link_count",
    "trace_state",
    "status_message",
    "tag_set_id",
    "span_tags",
    "events",
    "links",
)
TRACES_DATA_COLUMNS = ("trace_id", "last_start_time", "data")

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_JSONB_VERSION = b"\x01"

_LENGTH = struct.Struct(">i")
_INT2 = struct.Struct(">ih")
_INT4 = struct.Struct(">ii")
_INT8 = struct.Struct(">iq")
_SPAN_HEAD = struct.Struct(">h" + "".join(f"i{value}" for value in _SPAN_HEAD_COLUMNS.values()))
_TRACES_DATA_HEAD = struct.Struct(">h i16s iq i")

NULL = _LENGTH.pack(-1)


def span_head(trace_id: bytes, span_id: bytes, start_time: int, duration_ms: float) -> bytes:
    """The beginning of a row of SPAN_COLUMNS; `start_time` is PostgreSQL's. The other columns' fields follow."""
    return _SPAN_HEAD.pack(len(SPAN_COLUMNS), 16, trace_id, 8, span_id, 8, start_time, 8, duration_ms)


def traces_data_row(trace_id: bytes, last_start_time: int, data: bytes) -> bytes:
    """A row of TRACES_DATA_COLUMNS; `last_start_time` is PostgreSQL's."""
    return _TRACES_DATA_HEAD.pack(len(TRACES_DATA_COLUMNS), 16, trace_id, 8, last_start_time, len(data)) + data


def field(value: bytes) -> bytes:
    """A field of type text, of an enum type or of type bytea."""
    return _LENGTH.pack(len(value)) + value


def jsonb_field(json: bytes) -> bytes:
    return field(_JSONB_VERSION + json)


def int2_field(number: int) -> bytes:
    return _INT2.pack(2, number)


def int4_field(number: int) -> bytes:
    return _INT4.pack(4, number)


def int8_field(number: int) -> bytes:
    return _INT8.pack(8, number)


def copy_statement(table: sql.Identifier, columns: tuple[str, ...]) -> bytes:
    """The COPY of rows with these columns into the table."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("copy {} ({}) from stdin (format binary)").format(table, names).as_bytes()


# Composed once: this is a twentieth of the time that Python takes for an export of 600 spans.
COPY_SPANS = copy_statement(sql.Identifier("_promscale", "span"), SPAN_COLUMNS)
COPY_TRACES_DATA = copy_statement(sql.Identifier("_promscale", "traces_data"), TRACES_DATA_COLUMNS)


def copy_rows(connection: psycopg.Connection, statement: bytes, rows: Iterable[bytes | memoryview]) -> None:
    """Send encoded rows with a statement of `copy_statement`. Raises psycopg.Error."""
    with connection.cursor().copy(statement) as copy:
        for data in chain([_HEADER], rows, [_TRAILER]):
            copy.write(data)
