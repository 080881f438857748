"""Closing a partition: what no longer grows is rewritten densely.

Spans move attributes that many of them share into tag sets, and lose the index of identities. The OTLP bytes become one
row a trace, compressed with a dictionary. Both are written beside the partition, and then put in its place in one
transaction. Whenever that is interrupted, the partition is as it was before.
"""

from collections.abc import Iterator
from importlib import resources
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import aiosql
import psycopg
import zstandard
from psycopg import sql

from promscale import otlp
from promscale import wire_pb2 as wire
from promscale.frames import Dictionary

FETCH_ROWS = 500
COPY_BYTES = 4 * 2**20
# A trace of more bytes than this is repacked in several rows.
MAX_ROW_BYTES = 4 * 2**20
SAMPLE_ROWS = 2_000
SAMPLE_TRACES = 200
# A new dictionary is worth its bytes where it makes the sample smaller than this part of what the newest one makes.
WORTHWHILE = 0.95

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "closing.sql").read_text(), "psycopg")


class _Trace(NamedTuple):
    """OTLP TracesData of one trace, or of a part of a large one; the time is PostgreSQL's microseconds."""

    trace_id: bytes
    last_start_time: int
    data: bytes


def close_partition(connection: psycopg.Connection, name: str) -> bool:
    """Close a partition. Returns False, and leaves it as it was, where spans have come into it meanwhile.

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
        return _queries.finish_closing(
            connection, name=name, spans=spans, traces_data=rows, dictionary_id=dictionary and dictionary.id
        )


def _choose_dictionary(connection: psycopg.Connection, source: sql.Identifier) -> Dictionary | None:
    """The newest dictionary, or one made for this partition where that is clearly better."""
    sample = sql.SQL("select * from {} order by trace_id limit {}").format(source, sql.Literal(SAMPLE_ROWS))
    traces = [trace.data for trace in _whole_traces(_rows(connection, sql.SQL("({}) as sample").format(sample)))]
    half = len(traces) // 2
    newest = _queries.newest_dictionary(connection)
    newest, trained = newest and Dictionary(newest), Dictionary.trained(traces[:half][:SAMPLE_TRACES])
    if not (newest and trained):
        return newest or trained

    def size(dictionary: Dictionary) -> int:
        # Of other traces than those that one of them was made for.
        compressor = dictionary.compressor()
        return sum(len(compressor.compress(data)) for data in traces[half:][:SAMPLE_TRACES])

    return trained if size(trained) < WORTHWHILE * size(newest) else newest


def _repack(
    connection: psycopg.Connection, source: sql.Identifier, target: sql.Identifier, dictionary: Dictionary | None
) -> int:
    """Write the rows of `source` into `target`, one a trace; returns how many there were."""
    compressor = dictionary.compressor() if dictionary else zstandard.ZstdCompressor()
    read = 0

    def counted() -> Iterator[tuple]:
        nonlocal read
        for row in _rows(connection, source):
            read += 1
            yield row

    batch, size = [], 0
    for trace in _whole_traces(counted()):
        batch.append(otlp.traces_data_row(trace.trace_id, trace.last_start_time, compressor.compress(trace.data)))
        size += len(batch[-1])
        if size > COPY_BYTES:
            _copy(connection, target, batch)
            batch, size = [], 0
    _copy(connection, target, batch)
    return read


def _copy(connection: psycopg.Connection, target: sql.Identifier, rows: list[bytes]) -> None:
    statement = sql.SQL("copy {} (trace_id, last_start_time, data) from stdin (format binary)").format(target)
    with connection.cursor().copy(statement) as copy:
        copy.write(b"".join((otlp.COPY_HEADER, *rows, otlp.COPY_TRAILER)))


def _rows(connection: psycopg.Connection, source: sql.Composable) -> Iterator[tuple]:
    """Trace id, last start time and frame of each row, traces in one piece, a trace's rows as they came."""
    with connection.cursor(name="traces_data", binary=True) as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(sql.SQL(_queries.traces_data.sql).format(source=source))
        yield from cursor


def _whole_traces(rows: Iterator[tuple]) -> Iterator[_Trace]:
    for trace_id, parts in groupby(rows, key=itemgetter(0)):
        sources: dict[otlp.Source, list[bytes]] = {}
        size, last = 0, -(2**63)
        for _, last_start_time, frame in parts:
            data = zstandard.decompress(frame)
            if sources and size + len(data) > MAX_ROW_BYTES:
                yield _Trace(trace_id.bytes, last, otlp.traces_data(sources))
                sources, size, last = {}, 0, -(2**63)
            size, last = size + len(data), max(last, last_start_time)
            for source, spans in otlp.sources(wire.TracesData.FromString(data)):
                sources.setdefault(source, []).extend(spans)
        yield _Trace(trace_id.bytes, last, otlp.traces_data(sources))
