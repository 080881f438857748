"""The limits of the store: retention period, disk budget, and the deletion of rows that no span refers to."""

import contextlib
import random
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from benchmarks.recording import Replay
from promscale.__main__ import settings
from promscale.store import Store, StoreUnavailable
from promscale.upkeep import Upkeep
from tests.store import citus
from tests.store.otlp_messages import HOUR, SECOND, child, request
from tests.store.running import Promscale, span_count, value_of
from tests.store.searching import found_trace_ids
from tests.store.store_contents import check_summaries, close_all, contents, hours_ago, span_at

INCOMPLETE_SPANS = """
    select count(*) from _promscale.span as s
    left join _promscale.origin as o on o.id = s.origin_id
    left join _promscale.operation as p on p.id = o.operation_id
    left join _promscale.resource as r on r.id = o.resource_id
    left join _promscale.scope as c on c.id = o.scope_id
    left join _promscale.tag_set as t on t.id = s.tag_set_id
    where p.id is null or r.id is null or c.id is null or s.tag_set_id is not null and t.id is null
"""


def span_names(database) -> set[str]:
    return {name for (name,) in database.execute("select span_name from ps_trace.span")}


# The retention period ----------------------------------------------------------------------------------------------


@citus.not_with_citus("tables cannot have triggers")
def test_old_partitions_are_dropped_as_tables(native, promscale, upkeep, database):
    for hours in (50, 30, 20, 1):
        promscale.export(request(span_at(hours_ago(hours), f"{hours} hours")))
    database.execute("select ps_trace.set_trace_retention_period('1 day')")
    # Dropping a partition deletes no single rows.
    database.execute(
        """
        create function refuse() returns trigger language plpgsql as $$ begin raise 'a row is deleted'; end $$;
        create trigger refuse before delete on _promscale.span for each row execute function refuse();
        """
    )
    upkeep.keep_limits()
    assert span_names(database) == {"20 hours", "1 hours"}
    assert database.execute("select count(*) from _promscale.partition").fetchone() == (2,)
    assert len(contents(promscale, database)["span"]) == 2


def test_old_spans_without_a_partition_are_deleted(promscale, upkeep, database):
    ages = {"of 1970": 1, "9 days": hours_ago(9 * 24), "6 days": hours_ago(6 * 24), "future": hours_ago(-30)}
    promscale.export(request(*(span_at(start, name) for name, start in ages.items())))
    upkeep.summarise(quiet_seconds=0)
    upkeep.keep_limits()
    assert span_names(database) == {"6 days", "future"}
    assert len(contents(promscale, database)["span"]) == 2
    check_summaries(database)
    assert {name for (name,) in database.execute("select span_name from ps_trace.operation")} == {"6 days", "future"}


# Unused rows -------------------------------------------------------------------------------------------------------


def shared_row_counts(database) -> dict[str, int]:
    tables = ("origin", "operation", "resource", "scope", "tag_set")
    return {table: value_of(database, f"select count(*) from _promscale.{table}") for table in tables}


def similar_spans(hours: int, tags: dict, service: str) -> ExportTraceServiceRequest:
    """An export of spans of one hour that share their attributes, operation and service."""
    return request(*(span_at(hours_ago(hours) + n, f"at {service}", tags=tags) for n in range(20)), service=service)


def test_unused_rows_are_deleted(promscale, upkeep, database):
    for hours, service in ((5, "old"), (4, "middle"), (3, "new")):
        message = similar_spans(hours, {"text": f"of {service}"}, service)
        message.MergeFrom(similar_spans(hours, {"text": f"always, but {hours}"}, "always"))
        promscale.export(message)
    promscale.export(request(span_at(1, "odd"), span_at(hours_ago(0), "now"), service="other"))
    for summarised in (False, True):
        if summarised:
            upkeep.summarise(quiet_seconds=0)
        close_all(upkeep, database)
        upkeep.keep_limits()  # deletes the span of 1970
        before = contents(promscale, database)
        # Rows in use stay.
        database.execute("select _promscale.delete_unused_origins()")
        assert contents(promscale, database) == before
    expected = {"origin": 5, "operation": 5, "resource": 5, "scope": 1}
    tag_sets = 0 if value_of(database, "select _promscale.is_timescaledb()") else 2
    assert shared_row_counts(database) == expected | {"tag_set": 3 * tag_sets}
    for hours_left in (2, 1, 0):
        database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
        database.execute("select _promscale.delete_unused_origins()")
        assert shared_row_counts(database) == {
            "origin": 1 + hours_left + (hours_left > 0),
            "operation": 1 + hours_left + (hours_left > 0),
            "resource": 1 + hours_left + (hours_left > 0),
            "scope": 1,
            "tag_set": tag_sets * hours_left,
        }
        contents(promscale, database)
    assert value_of(database, INCOMPLETE_SPANS) == 0
    promscale.export(similar_spans(0, {}, "old"))
    assert value_of(database, INCOMPLETE_SPANS) == 0


def test_no_span_is_ever_without_its_origin_or_tag_set(dsn, database):
    """Even while these are deleted with their last span and two promscales write spans of the same origins."""
    stop = threading.Event()
    with_tag_sets = turn = 0
    promscales = [Promscale(dsn), Promscale(dsn)]
    upkeep = Upkeep(dsn)

    def write(number: int) -> None:
        choose = random.Random(number)
        while not stop.is_set():
            hours = choose.randrange(4)
            start = hours_ago(hours) + choose.randrange(SECOND) if hours else time.time_ns() - 5 * SECOND
            tags = {"turn": turn // 5}
            spans = (span_at(start, choose.choice("abc"), tags=tags) for _ in range(3))
            message = request(*spans, service=choose.choice("xyz"))
            # With retries, because a partition may be dropped during an export.
            promscales[number % 2].export_with_retries(message)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            for turn in range(1000):
                # As a rule, some of the spans in forty turns have a tag set.
                if turn >= 40 and with_tag_sets:
                    break
                with_tag_sets += value_of(database, "select count(tag_set_id) from _promscale.span")
                which = "min" if turn % 3 else "max"
                database.execute(f"select _promscale.drop_partition({which}(starts_at)) from _promscale.partition")
                # An error of the upkeep, such as a deadlock, is not what this test is about.
                with contextlib.suppress(StoreUnavailable):
                    upkeep.summarise(quiet_seconds=0)
                    upkeep.choose_tag_sets()
                database.execute("select _promscale.delete_unused_origins()")
                assert value_of(database, INCOMPLETE_SPANS) == 0
        finally:
            stop.set()
        for writer in writers:
            writer.result()
    assert with_tag_sets
    for running in (*promscales, upkeep):
        running.close()
    assert value_of(database, INCOMPLETE_SPANS) == 0
    check_summaries(database)


def test_deleting_all_traces_while_dashboards_are_read_causes_no_deadlock(dsn, promscale, upkeep, database):
    stop = threading.Event()
    statements = (
        "select service_name, count(*), min(resource_tags::text) from ps_trace.span group by 1",
        "select * from ps_trace.operation_minute",
        "select * from ps_trace.call_minute",
        "select * from ps_trace.operation_calls('-infinity', now())",
        "select * from ps_trace.operation natural join ps_trace.span",
        "select * from ps_trace.disk_usage",
    )

    def read(seed: int) -> None:
        choose = random.Random(seed)
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                with contextlib.suppress(*citus.LOCKED), connection.transaction():
                    for statement in choose.sample(statements, 2):
                        connection.execute(statement)

    def summarise() -> None:
        while not stop.is_set():
            upkeep.summarise(quiet_seconds=0)

    with ThreadPoolExecutor(5) as pool:
        others = [pool.submit(read, seed) for seed in range(4)] + [pool.submit(summarise)]
        try:
            for _ in range(15):
                root = span_at(hours_ago(1))
                promscale.export_with_retries(request(root, child(root), span_at(1)))
                database.execute("select ps_trace.delete_all_traces()")
        finally:
            stop.set()
        for running in others:
            running.result()


def test_forty_sessions_can_read_a_week_of_partitions_at_once(own_uri):
    """PostgreSQL's lock table is limited, and each statement locks every partition and its indexes."""
    promscale = Promscale(own_uri)
    promscale.export(request(*(span_at(hours_ago(hours)) for hours in range(168))))
    readers = threading.Barrier(40)

    def read(_) -> int:
        with psycopg.connect(own_uri) as connection:
            [(spans,)] = connection.execute("select count(*) from ps_trace.span where service_name = 'shop'").fetchall()
            readers.wait(60)
            return spans

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(read, range(40))) == [168] * 40
    promscale.export(request(span_at(hours_ago(200))))
    promscale.close()


# The disk budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500MB", 500 * 10**6),
        ("2 GB", 2 * 10**9),
        ("0", 0),
        ("12345", 12345),
        ("7B", 7),
        ("1kB", 1000),
        ("1TB", 10**12),
    ],
)
def test_a_disk_budget_may_have_a_unit(text, budget):
    assert settings([], {"PROMSCALE_DISK_BUDGET": text}).disk_budget == budget
    assert settings(["--disk-budget", text], {"PROMSCALE_DISK_BUDGET": "1GB"}).disk_budget == budget


def test_the_default_disk_budget_is_2_gb(dsn, database):
    assert settings([], {}).disk_budget == 2 * 10**9
    assert database.execute("select ps_trace.get_trace_disk_budget()").fetchone() == (2 * 10**9,)


@pytest.mark.parametrize("text", ["much", "-1GB", "1.5GB", "1 gigabyte", "GB", "99999999999TB"])
def test_an_invalid_disk_budget_ends_promscale_with_one_clear_line(text):
    command = [sys.executable, "-m", "promscale", f"--disk-budget={text}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert f"disk-budget: {text!r}" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_a_disk_budget_set_by_sql_overrides_the_settings(dsn, database):
    def budget() -> int:
        return value_of(database, "select ps_trace.get_trace_disk_budget()")

    Store(dsn, disk_budget=10**9).migrate()
    assert budget() == 10**9
    database.execute("select ps_trace.set_trace_disk_budget(5)")
    Store(dsn, disk_budget=3 * 10**9).migrate()
    assert budget() == 5
    database.execute("select ps_trace.set_trace_disk_budget(null)")
    assert budget() == 3 * 10**9
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("select ps_trace.set_trace_disk_budget(-1)")


@pytest.mark.parametrize(("budget", "remaining_spans"), [(0, 3), (1, 1)])
def test_a_budget_of_0_drops_nothing_and_a_tiny_one_keeps_the_current_partition(
    promscale, upkeep, database, budget, remaining_spans
):
    promscale.export(
        request(span_at(hours_ago(3), "older"), span_at(hours_ago(2), "old"), span_at(time.time_ns(), "now"))
    )
    database.execute("select ps_trace.set_trace_disk_budget(%s)", [budget])
    upkeep.keep_limits()
    assert span_count(database) == remaining_spans
    assert "now" in span_names(database)


def disk_usage(database) -> list[tuple]:
    """For each partition with spans: whether it is the default one, spans, and whether its sizes make sense."""
    return database.execute(
        """
        select starts_at is null, spans, row_bytes > 0, index_bytes > 0, lossless_bytes > 0,
            total_bytes = row_bytes + index_bytes + lossless_bytes
        from ps_trace.disk_usage
        where spans > 0
        """
    ).fetchall()


def test_disk_usage_adds_up(promscale, upkeep, database):
    assert sum(spans for _, spans, *_ in disk_usage(database)) == 0
    start = hours_ago(3)
    # The first spans are in the default partition.
    for spans in (
        [span_at(1), span_at(2)],
        [span_at(start, "a"), span_at(start + HOUR, "b"), child(span_at(start), "c")],
        [span_at(hours_ago(-5))],
    ):
        promscale.export(request(*spans))
        for _ in range(2):
            rows = disk_usage(database)
            assert sum(spans for _, spans, *_ in rows) == span_count(database)
            assert all(all(row[2:]) for row in rows)
            upkeep.summarise(quiet_seconds=0)
    assert [(is_default, spans) for is_default, spans, *_ in disk_usage(database)] == [
        (False, 2),
        (False, 1),
        (True, 3),
    ]
    close_all(upkeep, database)
    assert sum(spans for _, spans, *_ in disk_usage(database)) == span_count(database)
    assert database.execute("select ps_trace.disk_used() > sum(total_bytes) from ps_trace.disk_usage").fetchone() == (
        True,
    )


@citus.not_with_citus("REASSIGN OWNED ends the server by a segmentation fault (14.0.1)")
def test_disk_used_leaves_out_the_write_ahead_log_if_its_owner_may_not_see_it(dsn, superuser_uri):
    """As with many hosted databases. An error would disable all limits."""
    owner = sql.Identifier(f"owner_{uuid.uuid4().hex[:12]}")
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(superuser_uri, dbname=name, autocommit=True) as connection:
        with_log = value_of(connection, "select ps_trace.disk_used()")
        connection.execute(sql.SQL("create role {} in role prom_writer").format(owner))
        try:
            connection.execute(sql.SQL("alter function ps_trace.disk_used owner to {}").format(owner))
            sizes = connection.execute("select pg_database_size(current_database()), ps_trace.disk_used()")
            [(size, used)] = sizes.fetchall()
            assert size <= used < with_log
        finally:
            connection.execute(sql.SQL("reassign owned by {} to current_user").format(owner))
            connection.execute(sql.SQL("drop role {}").format(owner))


def test_disk_usage_adds_up_when_partitions_are_split(native, promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(request(*(span_at(start + n * 7 * SECOND) for n in range(-20, 20))))
    database.execute(
        "select _promscale.split_partition(name, to_timestamp(%s)) from _promscale.partition", [start // SECOND]
    )
    for _ in range(2):
        assert sum(spans for _, spans, *_ in disk_usage(database)) == 40
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)


@pytest.mark.slow
def test_a_disk_budget_is_kept(own_uri):
    """Spans of three times the budget never exceed it by more than one partition. All spans are of one hour, so
    partitions must be split.
    """
    room = 60 * 10**6
    Store(own_uri).migrate()
    promscale, upkeep, stop = Promscale(own_uri), Upkeep(own_uri), threading.Event()

    def keep() -> None:
        while not stop.wait(1):
            with contextlib.suppress(StoreUnavailable):  # as promscale's own loop, which logs it
                upkeep.turn()

    recorded, written, exceeded = Replay(4_000), 0, []
    with psycopg.connect(own_uri, autocommit=True) as database:
        budget = "select pg_database_size(current_database()) + pg_size_bytes('64MB') + %s"
        [(budget,)] = database.execute(budget, [room]).fetchall()
        database.execute("select ps_trace.set_trace_disk_budget(%s)", [budget])
        keeper = threading.Thread(target=keep)
        keeper.start()
        try:
            promscale.export(request(span_at(time.time_ns(), "the first")))
            sizes = """
                select ps_trace.disk_used(), max(total_bytes)::bigint, sum(total_bytes)::bigint from ps_trace.disk_usage
            """
            [(_, largest, stored)] = database.execute(sizes).fetchall()
            while written < 3 * room:
                promscale.export(recorded.request(time.time_ns()))
                before = stored
                [(used, current_largest, stored)] = database.execute(sizes).fetchall()
                # The largest partition may be dropped between the two measurements of the statement.
                largest = max(largest, current_largest)
                written += max(stored - before, 0)
                if used > budget + largest:
                    exceeded.append((used, budget, largest))
            last = span_at(time.time_ns(), "the last")
            promscale.export(request(last))
        finally:
            stop.set()
            keeper.join()
        assert exceeded == []
        assert found_trace_ids(promscale, operation_name=b"the last") == [last.trace_id]
        assert found_trace_ids(promscale, operation_name=b"the first") == []
        assert database.execute("select count(*) > 1 from _promscale.partition").fetchone() == (True,)
        check_summaries(database)
        promscale.close()
        upkeep.close()
