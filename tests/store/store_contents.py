"""Everything that users see of a store, for comparison before and after work that must not change it."""

import os
import time
from collections.abc import Sequence

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from promscale.upkeep import Upkeep
from tests.store.otlp_messages import HOSTILE_TEXT, HOUR, MINUTE, attributes, child, span
from tests.store.running import Promscale, value_of
from tests.store.searching import spans_of, traces_request

# Minutes of operations and calls, computed from the spans: what the summaries must always equal.
OPERATIONS = """
    select minute, service_name, span_name, span_kind::text, sum(n)::bigint, sum(errors)::bigint, max(max_ms),
        jsonb_object_agg(bucket, n), sum(total_ms)
    from (
        select
            date_bin('1 minute', start_time, 'epoch') as minute, service_name, span_name, span_kind,
            floor(10 * log(greatest(duration_ms, 0.001)))::int as bucket, count(*) as n,
            count(*) filter (where status_code = 'error') as errors,
            max(duration_ms) as max_ms, sum(duration_ms) as total_ms
        from ps_trace.span
        group by 1, 2, 3, 4, 5
    ) as by_bucket
    group by 1, 2, 3, 4
"""
OPERATION_MINUTE = """
    select minute, service_name, span_name, span_kind::text, calls, errors, max_ms,
        (select jsonb_object_agg(b, n) from unnest(duration_buckets, duration_counts) as u (b, n)), total_ms
    from ps_trace.operation_minute
"""
CALLS = """
    select
        date_bin('1 minute', callee.start_time, 'epoch'),
        caller.service_name, caller.span_name, caller.span_kind::text,
        callee.service_name, callee.span_name, callee.span_kind::text,
        count(*), count(*) filter (where callee.status_code = 'error'), sum(callee.duration_ms)
    from ps_trace.span as callee
    join ps_trace.span as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
    group by 1, 2, 3, 4, 5, 6, 7
"""
CALL_MINUTE = """
    select minute, caller_service_name, caller_span_name, caller_span_kind::text,
        callee_service_name, callee_span_name, callee_span_kind::text, calls, errors, total_ms
    from ps_trace.call_minute
"""
# The traces that summarised minutes keep for samples: the first twenty of each operation, in the order of a hash.
KEPT_TRACES = """
    select minute, operation_id, trace_ids
    from _promscale.operation_trace
    where minute not in (select minute from _promscale.touched_minute)
"""
FIRST_TRACES = """
    select minute, operation_id, (array_agg(trace_id order by uuid_hash_extended(trace_id, 0), trace_id))[:20]
    from (
        select distinct date_bin('1 minute', s.start_time, 'epoch') as minute, o.operation_id, s.trace_id
        from _promscale.span as s
        join _promscale.origin as o on o.id = s.origin_id
    ) as traces
    where minute not in (select minute from _promscale.touched_minute)
    group by minute, operation_id
"""


def hours_ago(hours: int) -> int:
    """The middle of the hour `hours` ago, in nanoseconds since 1970."""
    return (time.time_ns() // HOUR - hours) * HOUR + HOUR // 2


def span_at(start: int, name: str = "work", **fields) -> Span:
    """A span of a new trace that starts at `start`, in nanoseconds since 1970."""
    return span(name, start_time_unix_nano=start, **fields)


def odd_spans(start: int) -> list[Span]:
    """Many spans of one origin that share attributes, some that share nearly all, and spans with every OTLP field."""
    shared = {"text": "red", "list": [1], "map": {"a": 1}, "whole": 1, "part": 0.5, "no": False, "null": None}
    nearly = [
        shared | {"list": [1, 2]},
        shared | {"list": [1, 1]},
        shared | {"map": {"a": 1, "b": 2}},
        shared | {"text": "blue"},
        shared | {"null": "null"},
        {"whole": "1"},
        {},
    ]
    tags = [shared | {"number": number} for number in range(120)] + nearly
    same_id: dict = {"trace_id": os.urandom(16), "span_id": os.urandom(8)}
    full = span_at(
        start,
        HOSTILE_TEXT,
        tags={
            HOSTILE_TEXT: HOSTILE_TEXT,
            "nan": float("nan"),
            "infinite": float("inf"),
            "bytes": b"\xff\0",
            "big": "x" * 5000,
        },
        trace_state="a=b",
        end_time_unix_nano=start - MINUTE,
        parent_span_id=os.urandom(8),
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=2**32 - 1,
        status={"code": 2, "message": HOSTILE_TEXT},
        events=[
            Span.Event(
                time_unix_nano=start + 1, name=HOSTILE_TEXT, attributes=attributes({"n": 1}), dropped_attributes_count=3
            ),
            Span.Event(time_unix_nano=0, dropped_attributes_count=4),
            Span.Event(),
        ],
        links=[
            Span.Link(**same_id, attributes=attributes({"why": HOSTILE_TEXT}), dropped_attributes_count=5),
            Span.Link(trace_id=b"short"),
        ],
    )
    twins = [span_at(start + nanos, "twin", links=[*full.links], **same_id) for nanos in (0, 1)]
    similar = [span_at(start + number, "similar", tags=span_tags) for number, span_tags in enumerate(tags)]
    return [*similar, full, child(full), *twins]


def spans_by_identity(resource_spans: Sequence[ResourceSpans]) -> dict[tuple, tuple]:
    """Each span with its resource and scope, by its identity; as bytes, in which NaN equals NaN.

    False stands for a missing resource or scope, which differs from an empty one.
    """
    return {
        (span.trace_id, span.span_id, span.start_time_unix_nano): (
            span.SerializeToString(deterministic=True),
            by_resource.HasField("resource") and by_resource.resource.SerializeToString(deterministic=True),
            by_resource.schema_url,
            by_scope.HasField("scope") and by_scope.scope.SerializeToString(deterministic=True),
            by_scope.schema_url,
        )
        for by_resource in resource_spans
        for by_scope in by_resource.scope_spans
        for span in by_scope.spans
    }


def contents(promscale: Promscale, database: psycopg.Connection) -> dict:
    """Every row of the views, as text, and every span as Jaeger reads it."""
    rows: dict = {
        view: [row for (row,) in database.execute(f"select v::text from ps_trace.{view} as v order by 1")]
        for view in ("span", "event", "link", "operation")
    }
    trace_ids = [trace_id.bytes for (trace_id,) in database.execute("select distinct trace_id from _promscale.span")]
    chunks = [
        chunk
        for start in range(0, len(trace_ids), 1000)
        for chunk in promscale.read("GetTraces", traces_request(*trace_ids[start : start + 1000]))
    ]
    lossless: dict = {}
    for chunk in chunks:
        lossless |= spans_by_identity(chunk.resource_spans)
    assert len(spans_of(*chunks)) == len(lossless) == len(rows["span"]), "the OTLP bytes lack spans, or double some"
    return rows | {"lossless": lossless}


def check_summaries(connection: psycopg.Connection) -> None:
    """Asserts that the views of minutes, and the traces kept of each, equal what is computed from the spans."""
    for view, computed in ((OPERATION_MINUTE, OPERATIONS), (CALL_MINUTE, CALLS)):
        _check_equal(connection.execute(view).fetchall(), connection.execute(computed).fetchall())
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        kept, first = (sorted(connection.execute(statement)) for statement in (KEPT_TRACES, FIRST_TRACES))
    assert kept == first


def _check_equal(actual: list[tuple], expected: list[tuple]) -> None:
    """Compares rows in any order; the last column is a floating-point sum, which depends on the order of its terms."""
    ordered = [sorted(rows, key=lambda row: str(row[:-1])) for rows in (actual, expected)]
    assert [row[:-1] for row in ordered[0]] == [row[:-1] for row in ordered[1]]
    assert [row[-1] for row in ordered[0]] == pytest.approx([row[-1] for row in ordered[1]])


def close_all(upkeep: Upkeep, database: psycopg.Connection) -> None:
    """Close every partition whose time is over."""
    while value_of(database, "select count(*) from _promscale.partition where closed_at is null and ends_at < now()"):
        assert upkeep.close_partition(minutes=0)
