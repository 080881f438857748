"""Copies the spans of the first schema into the second, an hour of them in each transaction.

A promscale that is killed meanwhile goes on where it was. The first schema's tables are dropped at the end, so that the
copy needs about as much free space on disk as they take.
"""

from collections.abc import Iterator
from importlib import resources

import aiosql
import psycopg

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "upgrade.sql").read_text(), "psycopg")


def upgrade(connection: psycopg.Connection) -> Iterator[tuple[int, int]]:
    """Copy what is left to copy, on a connection in autocommit mode; after each hour, yield how many spans are copied,
    and of how many. Raises psycopg.Error.
    """
    if not _queries.is_needed(connection):
        return
    with connection.transaction():
        _queries.lock(connection)
        _queries.prepare(connection)
    while progress := _copy_hour(connection):
        yield progress


def _copy_hour(connection: psycopg.Connection) -> tuple[int, int] | None:
    with connection.transaction():
        # Several promscales may start at once on one database.
        _queries.lock(connection)
        if not _queries.is_needed(connection):
            return None
        hour = _queries.next_hour(connection)
        if hour is None:
            _queries.finish(connection)
            return None
        _queries.create_partition(connection, hour=hour)
        spans = _queries.copy_spans(connection, hour=hour)
        _queries.copy_traces_data(connection, hour=hour)
        _queries.touch_minutes(connection, hour=hour)
        return _queries.record_progress(connection, hour=hour, spans=spans)
