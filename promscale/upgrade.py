"""Copies the spans of the first schema into today's tables, one hour per transaction.

After an interruption the copy continues with the next hour. The first schema's tables are dropped at the end, so the
copy needs about as much free disk space as they take.
"""

from collections.abc import Iterator
from importlib import resources

import aiosql
import psycopg

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "upgrade.sql").read_text(), "psycopg")


def upgrade(connection: psycopg.Connection) -> Iterator[tuple[int, int]]:
    """Copy the spans that are not copied yet, on a connection in autocommit mode. After each hour, yields the number of
    copied spans and of all spans. Raises psycopg.Error.
    """
    with connection.transaction():
        # Several promscales may start on one database at the same time.
        _queries.lock(connection)
        if not _queries.is_needed(connection):
            return
        _queries.prepare(connection)
    while progress := _copy_hour(connection):
        yield progress


def _copy_hour(connection: psycopg.Connection) -> tuple[int, int] | None:
    with connection.transaction():
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
        progress: tuple[int, int] = _queries.record_progress(connection, hour=hour, spans=spans)
        return progress
