"""The views of minutes always equal what is computed from the spans, during concurrent writes, upkeep and deletion."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale.store import StoreUnavailable
from promscale.upkeep import Upkeep
from tests.store import citus
from tests.store.interruptions import kill_upkeep, kill_upkeep_at_lock
from tests.store.otlp_messages import HOUR, MINUTE, SECOND, add_service, child, request
from tests.store.running import Promscale, span_count, value_of
from tests.store.store_contents import check_summaries, close_all, hours_ago, span_at
from tests.waiting import wait_until

SERVICES = ("load", "generator", "digit")
NAMES = ("GET /", "work")


def random_trace(choose: random.Random, start: int, minutes: int) -> list[Span]:
    """A trace of up to eight spans over some minutes. A parent is an earlier span, an unknown one, none, or itself."""
    trace_id = choose.randbytes(16)
    spans: list[Span] = []
    for number in range(choose.randint(1, 8)):
        begins = start + choose.randrange(minutes * MINUTE)
        fields = {
            "span_id": choose.randbytes(8),
            "kind": choose.choice((Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)),
            "status": {"code": choose.choice((0, 2))},
            "end_time_unix_nano": begins + choose.choice((-1, 0, 1, 10**4, 10**7, 3 * MINUTE)),
        }
        span = span_at(begins, choose.choice(NAMES), trace_id=trace_id, **fields)
        if spans and choose.random() < 0.8:
            span.parent_span_id = choose.choice(spans).span_id
        elif number and choose.random() < 0.8:
            span.parent_span_id = choose.choice((choose.randbytes(8), span.span_id))
        spans.append(span)
    return spans


def exports(choose: random.Random, spans: list[Span]) -> Iterator[ExportTraceServiceRequest]:
    """Requests with all of the spans in random order, some of them twice."""
    spans = spans + choose.sample(spans, len(spans) // 5)
    choose.shuffle(spans)
    while spans:
        message = request()
        for _ in range(choose.randint(1, 4)):
            size = choose.randint(1, 4)
            part, spans = spans[:size], spans[size:]
            # The id determines the service: a retried span has the same one.
            for span in part:
                add_service(message, span, service=SERVICES[span.span_id[0] % 3])
        yield message


@contextlib.contextmanager
def two_of_each(dsn: str) -> Iterator[tuple[list[Promscale], list[Upkeep]]]:
    promscales, upkeeps = [Promscale(dsn), Promscale(dsn)], [Upkeep(dsn), Upkeep(dsn)]
    try:
        yield promscales, upkeeps
    finally:
        for promscale in promscales:
            promscale.close()
        for upkeep in upkeeps:
            upkeep.close()


def summarise(upkeep: Upkeep) -> None:
    with contextlib.suppress(StoreUnavailable):  # its session was killed
        upkeep.summarise(quiet_seconds=0)


# Locks that a summary waits for: at its beginning, and before each of its parts.
SUMMARY_LOCKS = [
    f"lock table _promscale.{table} in {mode} mode"
    for table, mode in (
        ("touched_minute", "access exclusive"),
        ("minute", "share"),
        ("operation_minute", "share"),
        ("call_minute", "share"),
    )
]


@pytest.mark.parametrize("seed", range(4))
def test_summaries_are_exact_after_every_step(dsn, upkeep, database, seed):
    choose = random.Random(seed)
    start = hours_ago(30)
    killed = 0
    with two_of_each(dsn) as (promscales, upkeeps):
        spans = [span for _ in range(20) for span in random_trace(choose, start, minutes=6)]
        for message in exports(choose, spans):
            choose.choice(promscales).export(message)
            check_summaries(database)
            summarising = choose.choice(upkeeps)
            match choose.randrange(4):
                case 0 | 1:
                    summarise(summarising)
                case 2:
                    work = partial(summarising.summarise, quiet_seconds=0)
                    killed += kill_upkeep_at_lock(dsn, choose.choice(SUMMARY_LOCKS), work)
            check_summaries(database)
        close_all(upkeep, database)
        check_summaries(database)
    assert killed
    assert span_count(database) == len(spans)


def pending_minutes(database) -> int:
    return value_of(database, "select count(distinct minute) from _promscale.touched_minute")


def test_the_kept_traces_of_a_busy_minute_are_the_first_ones(promscale, upkeep, database):
    start = hours_ago(1)
    often = [span_at(start + number) for number in range(5_000)]
    promscale.export(request(*often, *(span_at(start, "sometimes") for _ in range(100)), span_at(start, "once")))
    upkeep.summarise(quiet_seconds=0)
    check_summaries(database)
    kept = database.execute("select array_length(trace_ids, 1) from _promscale.operation_trace order by 1")
    assert kept.fetchall() == [(1,), (20,), (20,)]


def test_the_call_of_a_late_parent_is_counted(promscale, upkeep, database):
    """Even if the child's minute is summarised already, and whatever minute the parent is of."""
    start = hours_ago(30)
    for distance in (0, SECOND, 30 * MINUTE, -30 * MINUTE, 3 * HOUR, -3 * HOUR):
        parent = span_at(start + distance)
        promscale.export(request(child(parent, "child", start_time_unix_nano=start), service="back"))
        upkeep.summarise(quiet_seconds=0)
        assert pending_minutes(database) == 0
        promscale.export(request(parent, service="front"))
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)
        assert pending_minutes(database) == 0
        check_summaries(database)
    assert database.execute("select sum(calls) from ps_trace.call_minute").fetchone() == (6,)


def test_summaries_are_exact_in_every_snapshot(dsn, database):
    """During writes, summaries, and kills of the latter."""
    start, stop, traces = hours_ago(30), threading.Event(), threading.Semaphore(0)
    with two_of_each(dsn) as (promscales, upkeeps):

        def write(number: int) -> None:
            choose = random.Random(number)
            while traces.acquire() and not stop.is_set():
                for message in exports(choose, random_trace(choose, start + choose.randrange(30) * MINUTE, minutes=3)):
                    promscales[number % 2].export(message)

        def keep_summarising() -> None:
            while not stop.is_set():
                summarise(upkeeps[0])

        summarised = "select count(*) from _promscale.minute as m where not exists ({})".format(
            "select from _promscale.touched_minute as t where t.minute = m.minute"
        )
        summarised_minutes = []
        with ThreadPoolExecutor(4) as pool, psycopg.connect(dsn) as reader:
            others = [pool.submit(write, number) for number in range(3)] + [pool.submit(keep_summarising)]
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            try:
                # At least 40 snapshots, and more where the upkeep is slow compared with the writers.
                while len(summarised_minutes) < 40 or (not any(summarised_minutes) and len(summarised_minutes) < 400):
                    traces.release(10)
                    with reader.transaction():
                        if citus.WORKERS:  # no snapshot is the same on all nodes
                            time.sleep(0.2)
                        else:
                            check_summaries(reader)
                        summarised_minutes.append(value_of(reader, summarised))
                    if len(summarised_minutes) % 10 == 0:
                        kill_upkeep(database)
            finally:
                stop.set()
                traces.release(3)
            for running in others:
                running.result()
        assert any(summarised_minutes)
        check_summaries(database)

        def all_summarised() -> bool:
            upkeeps[1].summarise(quiet_seconds=0)
            return not pending_minutes(database)

        wait_until(all_summarised, "the summaries of all minutes")
        check_summaries(database)


def test_summaries_are_exact_after_partitions_are_dropped(promscale, upkeep, database):
    """Those of later minutes, too, with spans whose parents were in the dropped partition."""
    start = hours_ago(4) // HOUR * HOUR
    for offset in (-90 * MINUTE, -20 * MINUTE, -30 * SECOND, 10 * MINUTE):
        parent = span_at(start + offset)
        # The children start before the hour, at the hour, soon after it, and an hour later.
        for begins in (-MINUTE, 0, 5 * MINUTE, 65 * MINUTE):
            promscale.export(request(parent, child(parent, "child", start_time_unix_nano=start + begins)))
    upkeep.summarise(quiet_seconds=0)
    while value_of(database, "select count(*) from _promscale.partition"):
        database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
        for _ in range(2):
            check_summaries(database)
            upkeep.summarise(quiet_seconds=0)
    assert database.execute("select count(*) from ps_trace.operation_minute").fetchone() == (0,)


def test_summaries_are_exact_after_old_spans_are_deleted(promscale, upkeep, database):
    old, recent = span_at(hours_ago(30 * 24)), span_at(hours_ago(1))
    promscale.export(request(old, recent, child(old, "of old", start_time_unix_nano=hours_ago(2)), child(recent)))
    database.execute("select ps_trace.set_trace_retention_period('40 days')")
    upkeep.summarise(quiet_seconds=0)
    database.execute("select ps_trace.set_trace_retention_period('1 day')")
    upkeep.keep_limits()
    for _ in range(2):
        check_summaries(database)
        assert database.execute("select sum(calls) from ps_trace.operation_minute").fetchone() == (3,)
        assert database.execute("select sum(calls) from ps_trace.call_minute").fetchone() == (1,)
        upkeep.summarise(quiet_seconds=0)


def test_summaries_are_exact_after_all_traces_are_deleted(promscale, upkeep, database):
    for summarised in (False, True):
        root = span_at(hours_ago(1))
        promscale.export(request(root, child(root), span_at(0), span_at(hours_ago(-2))))
        if summarised:
            upkeep.summarise(quiet_seconds=0)
        database.execute("select ps_trace.delete_all_traces()")
        for view in ("operation_minute", "call_minute", "operation"):
            assert database.execute(f"select * from ps_trace.{view}").fetchall() == []
    promscale.export(request(root, child(root)))
    check_summaries(database)
    upkeep.summarise(quiet_seconds=0)
    check_summaries(database)


def test_operation_calls_equal_a_self_join_for_any_time(promscale, upkeep, database):
    choose = random.Random(1)
    start = hours_ago(30) // MINUTE * MINUTE
    spans = [span for _ in range(40) for span in random_trace(choose, start, minutes=4)]
    for message in exports(choose, spans):
        promscale.export(message)
    self_join = """
        select parent.id, child.id, count(*)
        from ps_trace.span as c
        join ps_trace.span as p on p.trace_id = c.trace_id and p.span_id = c.parent_span_id
        join ps_trace.operation as parent on (parent.service_name, parent.span_name, parent.span_kind) =
            (p.service_name, p.span_name, p.span_kind)
        join ps_trace.operation as child on (child.service_name, child.span_name, child.span_kind) =
            (c.service_name, c.span_name, c.span_kind)
        where c.start_time >= %s and c.start_time < %s
        group by 1, 2 order by 1, 2
    """
    calls = "select * from ps_trace.operation_calls(%s, %s) order by 1, 2"
    zero = datetime.fromtimestamp(start // SECOND, UTC)
    starts = [zero + timedelta(microseconds=choose.randrange(240 * 10**6)) for _ in range(12)]
    ends: list = [zero, zero + timedelta(minutes=1), zero + timedelta(minutes=2), *starts, "infinity", "-infinity"]
    all_calls = database.execute(self_join, ["-infinity", "infinity"]).fetchall()
    assert sum(count for *_, count in all_calls) > 50
    for _ in range(2):
        assert database.execute(calls, ["-infinity", "infinity"]).fetchall() == all_calls
        for time_from in ends:
            for time_to in ends:
                during = [time_from, time_to]
                assert database.execute(calls, during).fetchall() == database.execute(self_join, during).fetchall()
        upkeep.summarise(quiet_seconds=0)
    assert pending_minutes(database) == 0
