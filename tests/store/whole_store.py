"""All that a store shows, to be compared before and after what must not change it."""

import time
from datetime import datetime

import pytest

from tests.store.otlp_messages import span
from tests.store.test_jaeger import spans, traces_request
from tests.store.test_lossless import flat

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

# Spans' own minutes and calls, as anybody would ask for them: what the summaries must always equal.
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
# Summarised minutes' traces, of which samples are made; the first twenty of each operation.
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
    """The middle of an hour, in nanoseconds since 1970."""
    return (time.time_ns() // HOUR - hours) * HOUR + HOUR // 2


def at(start: int, name: str = "work", **fields):
    """A span of a new trace that starts then."""
    return span(name, start_time_unix_nano=start, **fields)


def shown(promscale, database) -> dict:
    """Every row of every view, as text, and every span as Jaeger gets it."""
    rows = {
        view: [row for (row,) in database.execute(f"select v::text from ps_trace.{view} as v order by 1")]
        for view in ("span", "event", "link", "operation")
    }
    trace_ids = [id.bytes for (id,) in database.execute("select distinct trace_id from _promscale.span")]
    chunks = [
        chunk
        for start in range(0, len(trace_ids), 1000)
        for chunk in promscale.read("GetTraces", traces_request(*trace_ids[start : start + 1000]))
    ]
    as_they_came: dict = {}
    for chunk in chunks:
        as_they_came |= flat(chunk)
    assert len(spans(*chunks)) == len(as_they_came) == len(rows["span"]), "a span's bytes are missing, or there twice"
    return rows | {"bytes": as_they_came}


def check_summaries(connection) -> None:
    """The views of minutes, and the traces kept of each, equal what is computed from the spans."""
    for view, plain in ((OPERATION_MINUTE, OPERATIONS), (CALL_MINUTE, CALLS)):
        _check_equal(connection.execute(view).fetchall(), connection.execute(plain).fetchall())
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        kept, first = (sorted(connection.execute(statement)) for statement in (KEPT_TRACES, FIRST_TRACES))
    assert kept == first


def _check_equal(found: list[tuple], wanted: list[tuple]) -> None:
    """Equal but for the order, and for how floating-point sums, the last column, are rounded."""
    ordered = [sorted(rows, key=lambda row: str(row[:-1])) for rows in (found, wanted)]
    assert [row[:-1] for row in ordered[0]] == [row[:-1] for row in ordered[1]]
    assert [row[-1] for row in ordered[0]] == pytest.approx([row[-1] for row in ordered[1]])


def close_all(upkeep, database) -> None:
    """Close every partition that is over."""
    due = "select count(*) from _promscale.partition where closed_at is null and ends_at < now()"
    while database.execute(due).fetchone()[0]:
        assert upkeep.close_partition(minutes=0)


def hour_starts(nanos: int) -> datetime:
    return datetime.fromtimestamp(nanos // HOUR * 3600).astimezone()
