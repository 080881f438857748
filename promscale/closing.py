"""Closing a partition: a partition that no longer grows is rewritten in a compact form.

Attributes that many spans share move into tag sets, and the spans lose their identity index. The OTLP bytes become one
row per trace, compressed with a zstd dictionary. Both are written to new tables, which replace the partition's in one
transaction, so that an interruption at any time leaves the partition unchanged.
"""

from collections.abc import Iterator
from importlib import resources
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

import aiosql
import psycopg
import zstandard
from psycopg import sql

from promscale import otlp
from promscale import wire_pb2 as wire
from promscale.copying import TRACES_DATA_COLUMNS, copy_rows, copy_statement, traces_data_row
from promscale.frames import Dictionary

FETCH_ROWS = 500
COPY_BYTES = 4 * 2**20
# A trace with more bytes becomes several rows.
MAX_ROW_BYTES = 4 * 2**20
SAMPLE_ROWS = 2_000
SAMPLE_TRACES = 200
# A new dictionary is stored only if it compresses the sample to less than this share of what the newest one achieves.
WORTHWHILE = 0.95

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "closing.sql").read_text(), "psycopg")

# A row of traces_data: trace id, last start time in PostgreSQL's microseconds, zstd frame.
_Row = tuple[UUID, int, bytes]


class _Trace(NamedTuple):
    """OTLP TracesData of a trace, or of a part of a large one; the time is in PostgreSQL's microseconds."""

    trace_id: bytes
    last_start_time: int
    data: bytes


def close_partition(connection: psycopg.Connection, name: str) -> bool:
    """Close a partition. Returns False, and leaves the partition unchanged, if spans arrived in the meantime.

    Raises psycopg.Error.
    """
    with connection.transaction():
        _queries.begin_closing(connection, name=name)
        spans = _queries.copy_spans_densely(connection, name=name)
        source, target = (
            sql.Identifier("_promscale", f"{kind}_{name}") for kind in ("traces_data", "closing_traces_data")
        )
        dictionary = _choose_dictionary(connection, source)
        rows = _repack(connection, source, target, dictionary)
    with connection.transaction():
        if dictionary:
            _queries.insert_dictionary(connection, id=dictionary.id, data=dictionary.data)
        closed: bool = _queries.finish_closing(
            connection, name=name, spans=spans, traces_data=rows, dictionary_id=dictionary and dictionary.id
        )
        return closed


def _choose_dictionary(connection: psycopg.Connection, source: sql.Identifier) -> Dictionary | None:
    """The newest dictionary, or a new one trained on this partition if that is clearly better."""
    sample = sql.SQL("select * from {} order by trace_id limit {}").format(source, sql.Literal(SAMPLE_ROWS))
    traces = [trace.data for trace in _traces(_rows(connection, sql.SQL("({}) as sample").format(sample)))]
    half = len(traces) // 2
    newest_data = _queries.newest_dictionary(connection)
    newest = Dictionary(newest_data) if newest_data else None
    trained = Dictionary.trained(traces[:half][:SAMPLE_TRACES])
    if not (newest and trained):
        return newest or trained

    def size(dictionary: Dictionary) -> int:
        # Measured on other traces than the new dictionary was trained on.
        compressor = dictionary.compressor()
        return sum(len(compressor.compress(data)) for data in traces[half:][:SAMPLE_TRACES])

    return trained if size(trained) < WORTHWHILE * size(newest) else newest


def _repack(
    connection: psycopg.Connection, source: sql.Identifier, target: sql.Identifier, dictionary: Dictionary | None
) -> int:
    """Write the rows of `source` into `target`, one per trace; returns the number of rows read."""
    compressor = dictionary.compressor() if dictionary else zstandard.ZstdCompressor()
    read = 0

    def counted() -> Iterator[_Row]:
        nonlocal read
        for row in _rows(connection, source):
            read += 1
            yield row

    statement = copy_statement(target, TRACES_DATA_COLUMNS)
    batch: list[bytes] = []
    size = 0
    for trace in _traces(counted()):
        batch.append(traces_data_row(trace.trace_id, trace.last_start_time, compressor.compress(trace.data)))
        size += len(batch[-1])
        if size > COPY_BYTES:
            copy_rows(connection, statement, batch)
            batch, size = [], 0
    copy_rows(connection, statement, batch)
    return read


def _rows(connection: psycopg.Connection, source: sql.Composable) -> Iterator[_Row]:
    """The rows of `source`, grouped by trace; the rows of a trace in the order of their arrival."""
    with connection.cursor(name="traces_data", binary=True) as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(sql.SQL(_queries.traces_data.sql).format(source=source))
        yield from cursor


def _traces(rows: Iterator[_Row]) -> Iterator[_Trace]:
    """The traces of the rows, those above MAX_ROW_BYTES in several parts."""
    for trace_id, trace_rows in groupby(rows, key=itemgetter(0)):
        spans: dict[otlp.Source, list[bytes]] = {}
        size, last = 0, -(2**63)
        for _, last_start_time, frame in trace_rows:
            data = zstandard.decompress(frame)
            if spans and size + len(data) > MAX_ROW_BYTES:
                yield _Trace(trace_id.bytes, last, otlp.traces_data(spans))
                spans, size, last = {}, 0, -(2**63)
            size, last = size + len(data), max(last, last_start_time)
            for source, raw_spans in otlp.sources(wire.TracesData.FromString(data)):
                spans.setdefault(source, []).extend(raw_spans)
        yield _Trace(trace_id.bytes, last, otlp.traces_data(spans))
