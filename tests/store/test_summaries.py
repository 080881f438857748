"""The summaries of minutes always equal what is computed from the spans, whoever writes, summarises and deletes."""

import contextlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale.store import StoreUnavailable
from promscale.upkeep import Upkeep
from tests.store.otlp_messages import add_service, child, request
from tests.store.running import Promscale
from tests.store.test_ingest import eventually
from tests.store.whole_store import HOUR, MINUTE, SECOND, at, check_summaries, close_all, hours_ago

SERVICES = ("load", "generator", "digit")
NAMES = ("GET /", "work")


def random_trace(choose: random.Random, start: int, minutes: int) -> list[Span]:
    """Spans over some minutes, each of which has another as its parent, or one that never comes, or none, or itself."""
    made: list[Span] = []
    for number in range(choose.randint(1, 8)):
        begins = start + choose.randrange(minutes * MINUTE)
        fields = {
            "kind": choose.choice((Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)),
            "status": {"code": choose.choice((0, 2))},
            "start_time_unix_nano": begins,
            "end_time_unix_nano": begins + choose.choice((-1, 0, 1, 10**4, 10**7, 3 * MINUTE)),
        }
        if made and choose.random() < 0.8:
            made.append(child(choose.choice(made), choose.choice(NAMES), **fields))
        else:
            made.append(at(fields.pop("start_time_unix_nano"), choose.choice(NAMES), **fields))
            made[-1].trace_id = made[0].trace_id
            if number and choose.random() < 0.8:
                made[-1].parent_span_id = choose.choice((choose.randbytes(8), made[-1].span_id))
    return made


def exports(choose: random.Random, sent: list[Span]):
    """Requests with all of the spans, in any order, some of them twice."""
    sent = sent + choose.sample(sent, len(sent) // 5)
    choose.shuffle(sent)
    while sent:
        message = request()
        for _ in range(choose.randint(1, 4)):
            size = choose.randint(1, 4)
            part, sent = sent[:size], sent[size:]
            # A span that is sent again must be the same, also its service.
            for each in part:
                add_service(message, each, service=SERVICES[each.span_id[0] % 3])
        yield message


@contextlib.contextmanager
def two_of_each(dsn: str):
    promscales, upkeeps = [Promscale(dsn), Promscale(dsn)], [Upkeep(dsn), Upkeep(dsn)]
    try:
        yield promscales, upkeeps
    finally:
        for each in promscales + upkeeps:
            each.close()


def kill_upkeep(connection: psycopg.Connection) -> None:
    connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'promscale-upkeep' and datname = current_database()"
    )


def summarise(upkeep: Upkeep) -> None:
    with contextlib.suppress(StoreUnavailable):  # its connection was killed
        upkeep.summarise(quiet_seconds=0)


def summarise_and_be_killed(upkeep: Upkeep, database: psycopg.Connection, seconds: float) -> None:
    summariser = threading.Thread(target=summarise, args=(upkeep,))
    summariser.start()
    time.sleep(seconds)
    kill_upkeep(database)
    summariser.join()


@pytest.mark.parametrize("seed", range(4))
def test_they_are_exact_after_every_step(dsn, upkeep, database, seed):
    choose = random.Random(seed)
    start = hours_ago(30)
    with two_of_each(dsn) as (promscales, upkeeps):
        sent = [each for _ in range(20) for each in random_trace(choose, start, minutes=6)]
        for message in exports(choose, sent):
            choose.choice(promscales).export(message)
            check_summaries(database)
            match choose.randrange(4):
                case 0 | 1:
                    summarise(choose.choice(upkeeps))
                case 2:
                    summarise_and_be_killed(choose.choice(upkeeps), database, choose.random() / 20)
            check_summaries(database)
        close_all(upkeep, database)
        check_summaries(database)
    assert database.execute("select count(*) from ps_trace.span").fetchone() == (len(sent),)


def minutes_to_do(database) -> int:
    return database.execute("select count(distinct minute) from _promscale.touched_minute").fetchone()[0]


def test_a_parent_that_comes_late_is_counted(promscale, upkeep, database):
    """Also in a minute that has been summarised, and from whichever minute the parent is."""
    start = hours_ago(30)
    for distance in (0, SECOND, 30 * MINUTE, -30 * MINUTE, 3 * HOUR, -3 * HOUR):
        parent = at(start + distance)
        promscale.export(request(child(parent, "child", start_time_unix_nano=start), service="back"))
        upkeep.summarise(quiet_seconds=0)
        assert minutes_to_do(database) == 0
        promscale.export(request(parent, service="front"))
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)
        assert minutes_to_do(database) == 0
        check_summaries(database)
    assert database.execute("select sum(calls) from ps_trace.call_minute").fetchone() == (6,)


def test_they_are_exact_in_every_snapshot(dsn, database):
    """While spans come, are summarised, and summaries are killed."""
    start, stop = hours_ago(30), threading.Event()
    with two_of_each(dsn) as (promscales, upkeeps):

        def write(number: int) -> None:
            choose = random.Random(number)
            while not stop.is_set():
                for message in exports(choose, random_trace(choose, start + choose.randrange(30) * MINUTE, minutes=3)):
                    promscales[number % 2].export(message)

        def summarise_again_and_again() -> None:
            while not stop.is_set():
                summarise(upkeeps[0])

        summarised = "select count(*) from _promscale.minute as m where not exists ({})".format(
            "select from _promscale.touched_minute as t where t.minute = m.minute"
        )
        seen = []
        with ThreadPoolExecutor(4) as pool, psycopg.connect(dsn) as reader:
            others = [pool.submit(write, number) for number in range(3)] + [pool.submit(summarise_again_and_again)]
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            try:
                for number in range(40):
                    with reader.transaction():
                        check_summaries(reader)
                        seen.append(reader.execute(summarised).fetchone()[0])
                    if number % 10 == 9:
                        kill_upkeep(database)
            finally:
                stop.set()
            for each in others:
                each.result()
        assert any(seen)
        check_summaries(database)
        eventually(lambda: upkeeps[1].summarise(quiet_seconds=0) or not minutes_to_do(database))
        check_summaries(database)


def test_they_are_exact_after_partitions_are_dropped(promscale, upkeep, database):
    """Also of later minutes, whose spans had their parents in what is dropped."""
    start = hours_ago(4) // HOUR * HOUR
    for offset in (-90 * MINUTE, -20 * MINUTE, -30 * SECOND, 10 * MINUTE):
        parent = at(start + offset)
        # The children start in the hour before, at the hour, soon after it, and an hour later.
        for begins in (-MINUTE, 0, 5 * MINUTE, 65 * MINUTE):
            promscale.export(request(parent, child(parent, "child", start_time_unix_nano=start + begins)))
    upkeep.summarise(quiet_seconds=0)
    while database.execute("select count(*) from _promscale.partition").fetchone()[0]:
        database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
        for _ in range(2):
            check_summaries(database)
            upkeep.summarise(quiet_seconds=0)
    assert database.execute("select count(*) from ps_trace.operation_minute").fetchone() == (0,)


def test_they_are_exact_after_old_spans_are_deleted(promscale, upkeep, database):
    old, recent = at(hours_ago(30 * 24)), at(hours_ago(1))
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


def test_they_are_exact_after_all_traces_are_deleted(promscale, upkeep, database):
    for summarised in (False, True):
        root = at(hours_ago(1))
        promscale.export(request(root, child(root), at(0), at(hours_ago(-2))))
        if summarised:
            upkeep.summarise(quiet_seconds=0)
        database.execute("select ps_trace.delete_all_traces()")
        for view in ("operation_minute", "call_minute", "operation"):
            assert database.execute(f"select * from ps_trace.{view}").fetchall() == []
    promscale.export(request(root, child(root)))
    check_summaries(database)
    upkeep.summarise(quiet_seconds=0)
    check_summaries(database)


def test_calls_of_any_time(promscale, upkeep, database):
    choose = random.Random(1)
    start = hours_ago(30) // MINUTE * MINUTE
    sent = [each for _ in range(40) for each in random_trace(choose, start, minutes=4)]
    for message in exports(choose, sent):
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
    ends = [zero, zero + timedelta(minutes=1), zero + timedelta(minutes=2), *starts, "infinity", "-infinity"]
    whole = database.execute(self_join, ["-infinity", "infinity"]).fetchall()
    assert sum(calls for *_, calls in whole) > 50
    for _ in range(2):
        assert database.execute(calls, ["-infinity", "infinity"]).fetchall() == whole
        for begins in ends:
            for time_to in ends:
                during = [begins, time_to]
                assert database.execute(calls, during).fetchall() == database.execute(self_join, during).fetchall()
        upkeep.summarise(quiet_seconds=0)
    assert minutes_to_do(database) == 0
