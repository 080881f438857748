"""What keeps the store bounded: the retention period, the disk budget, and the removal of what no span uses."""

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
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from benchmarks.recording import Replay
from promscale.__main__ import settings
from promscale.store import Store, StoreUnavailable
from promscale.upkeep import Upkeep
from tests.store.otlp_messages import child, request
from tests.store.running import Promscale
from tests.store.test_ingest import count, eventually, unavailable
from tests.store.test_jaeger import found
from tests.store.whole_store import HOUR, SECOND, at, check_summaries, close_all, hours_ago, shown

WITHOUT_ORIGIN = """
    select count(*) from _promscale.span as s
    left join _promscale.origin as o on o.id = s.origin_id
    left join _promscale.operation as p on p.id = o.operation_id
    left join _promscale.resource as r on r.id = o.resource_id
    left join _promscale.scope as c on c.id = o.scope_id
    where p.id is null or r.id is null or c.id is null
"""


def names(database) -> set[str]:
    return {name for (name,) in database.execute("select span_name from ps_trace.span")}


# The retention period ----------------------------------------------------------------------------------------------


def test_old_partitions_are_dropped_whole(native, promscale, upkeep, database):
    for hours in (50, 30, 20, 1):
        promscale.export(request(at(hours_ago(hours), f"{hours} hours")))
    database.execute("select ps_trace.set_trace_retention_period('1 day')")
    # Of a partition that is dropped, no row is deleted.
    database.execute(
        """
        create function refuse() returns trigger language plpgsql as $$ begin raise 'a row is deleted'; end $$;
        create trigger refuse before delete on _promscale.span for each row execute function refuse();
        """
    )
    upkeep.keep_limits()
    assert names(database) == {"20 hours", "1 hours"}
    assert database.execute("select count(*) from _promscale.partition").fetchone() == (2,)
    assert len(shown(promscale, database)["span"]) == 2


def test_old_spans_without_a_partition_are_deleted(promscale, upkeep, database):
    ages = {"of 1970": 1, "9 days": hours_ago(9 * 24), "6 days": hours_ago(6 * 24), "future": hours_ago(-30)}
    promscale.export(request(*(at(start, name) for name, start in ages.items())))
    upkeep.summarise(quiet_seconds=0)
    upkeep.keep_limits()
    assert names(database) == {"6 days", "future"}
    assert len(shown(promscale, database)["span"]) == 2
    check_summaries(database)
    assert {name for (name,) in database.execute("select span_name from ps_trace.operation")} == {"6 days", "future"}


# What no span uses -------------------------------------------------------------------------------------------------


def shared(database) -> dict[str, int]:
    tables = ("origin", "operation", "resource", "scope", "tag_set")
    return {t: database.execute(f"select count(*) from _promscale.{t}").fetchone()[0] for t in tables}


def alike(hours: int, tags: dict, service: str):
    """An export of spans that share attributes, and a service that is in no other export."""
    return request(*(at(hours_ago(hours) + n, f"at {service}", tags=tags) for n in range(20)), service=service)


def test_what_no_span_uses_is_removed(promscale, upkeep, database):
    for hours, service in ((5, "old"), (4, "middle"), (3, "new")):
        message = alike(hours, {"text": f"of {service}"}, service)
        message.MergeFrom(alike(hours, {"text": f"always, but {hours}"}, "always"))
        promscale.export(message)
    promscale.export(request(at(1, "odd"), at(hours_ago(0), "now"), service="other"))
    for summarised in (False, True):
        if summarised:
            upkeep.summarise(quiet_seconds=0)
        close_all(upkeep, database)
        upkeep.keep_limits()  # which deletes the odd one
        before = shown(promscale, database)
        # Nothing that is used is gone.
        database.execute("select _promscale.delete_unused_origins()")
        assert shown(promscale, database) == before
    expected = {"origin": 5, "operation": 5, "resource": 5, "scope": 1}
    tag_sets = 0 if database.execute("select _promscale.is_timescaledb()").fetchone()[0] else 2
    assert shared(database) == expected | {"tag_set": 3 * tag_sets}
    for left in (2, 1, 0):
        database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
        database.execute("select _promscale.delete_unused_origins()")
        assert shared(database) == {
            "origin": 1 + left + (left > 0),
            "operation": 1 + left + (left > 0),
            "resource": 1 + left + (left > 0),
            "scope": 1,
            "tag_set": tag_sets * left,
        }
        shown(promscale, database)
    assert database.execute(WITHOUT_ORIGIN).fetchone() == (0,)
    promscale.export(alike(0, {}, "old"))
    assert database.execute(WITHOUT_ORIGIN).fetchone() == (0,)


def test_no_span_is_ever_without_its_origin(dsn, database):
    """Origins come and go with their spans, while two promscales write spans of the same origins again."""
    stop = threading.Event()
    both = [Promscale(dsn), Promscale(dsn)]
    upkeep = Upkeep(dsn)

    def write(number: int) -> None:
        choose = random.Random(number)
        while not stop.is_set():
            start = hours_ago(choose.randrange(1, 4)) + choose.randrange(SECOND)
            message = request(*(at(start, choose.choice("abc")) for _ in range(3)), service=choose.choice("xyz"))
            # A partition may go from under an export: then it is to be sent again.
            eventually(lambda: not unavailable(both[number % 2], message))

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            for number in range(40):
                database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
                # The upkeep's own time-out is not for this test.
                with contextlib.suppress(StoreUnavailable):
                    upkeep.summarise(quiet_seconds=0)
                database.execute("select _promscale.delete_unused_origins()")
                assert database.execute(WITHOUT_ORIGIN).fetchone() == (0,)
        finally:
            stop.set()
        for each in writers:
            each.result()
    for each in (*both, upkeep):
        each.close()
    assert database.execute(WITHOUT_ORIGIN).fetchone() == (0,)
    check_summaries(database)


def test_all_traces_can_be_deleted_while_dashboards_are_looked_at(dsn, promscale, upkeep, database):
    """Neither those who look nor the one who deletes is told of a deadlock."""
    stop = threading.Event()
    statements = (
        "select service_name, count(*), min(resource_tags::text) from ps_trace.span group by 1",
        "select * from ps_trace.operation_minute",
        "select * from ps_trace.call_minute",
        "select * from ps_trace.operation_calls('-infinity', now())",
        "select * from ps_trace.operation natural join ps_trace.span",
        "select * from ps_trace.disk_usage",
    )

    def look(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                with connection.transaction():
                    for statement in random.sample(statements, 2):
                        connection.execute(statement)

    def summarise() -> None:
        while not stop.is_set():
            upkeep.summarise(quiet_seconds=0)

    with ThreadPoolExecutor(5) as pool:
        others = [pool.submit(look, number) for number in range(4)] + [pool.submit(summarise)]
        try:
            for _ in range(15):
                root = at(hours_ago(1))
                eventually(lambda root=root: not unavailable(promscale, request(root, child(root), at(1))))
                database.execute("select ps_trace.delete_all_traces()")
        finally:
            stop.set()
        for each in others:
            each.result()


def test_a_week_of_partitions_leaves_room_for_many_readers_at_once(own_uri):
    """Each statement locks every partition and its indexes."""
    promscale = Promscale(own_uri)
    promscale.export(request(*(at(hours_ago(hours)) for hours in range(168))))
    readers = threading.Barrier(40)

    def read(_) -> int:
        with psycopg.connect(own_uri) as connection:
            [(spans,)] = connection.execute("select count(*) from ps_trace.span where service_name = 'shop'").fetchall()
            readers.wait(60)
            return spans

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(read, range(40))) == [168] * 40
    promscale.export(request(at(hours_ago(200))))
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
def test_a_budget_is_written_with_a_unit(text, budget):
    assert settings([], {"PROMSCALE_DISK_BUDGET": text}).disk_budget == budget
    assert settings(["--disk-budget", text], {"PROMSCALE_DISK_BUDGET": "1GB"}).disk_budget == budget


def test_without_a_setting_the_budget_is_2_gb(dsn, database):
    assert settings([], {}).disk_budget == 2 * 10**9
    assert database.execute("select ps_trace.get_trace_disk_budget()").fetchone() == (2 * 10**9,)


@pytest.mark.parametrize("text", ["much", "-1GB", "1.5GB", "1 gigabyte", "GB", "99999999999TB"])
def test_a_budget_that_is_none_ends_with_one_clear_line(text):
    command = [sys.executable, "-m", "promscale", f"--disk-budget={text}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert f"disk-budget: {text!r}" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_budget_that_was_set_comes_before_the_settings(dsn, database):
    def budget() -> int:
        return database.execute("select ps_trace.get_trace_disk_budget()").fetchone()[0]

    Store(dsn, disk_budget=10**9).migrate()
    assert budget() == 10**9
    database.execute("select ps_trace.set_trace_disk_budget(5)")
    Store(dsn, disk_budget=3 * 10**9).migrate()
    assert budget() == 5
    database.execute("select ps_trace.set_trace_disk_budget(null)")
    assert budget() == 3 * 10**9
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("select ps_trace.set_trace_disk_budget(-1)")


@pytest.mark.parametrize(("budget", "left"), [(0, 3), (1, 1)])
def test_without_a_budget_nothing_is_dropped_and_the_present_never(promscale, upkeep, database, budget, left):
    promscale.export(request(at(hours_ago(3), "older"), at(hours_ago(2), "old"), at(time.time_ns(), "now")))
    database.execute("select ps_trace.set_trace_disk_budget(%s)", [budget])
    upkeep.keep_limits()
    assert count(database) == left
    assert "now" in names(database)


def usage(database) -> list[tuple]:
    return database.execute(
        """
        select starts_at is null, spans, row_bytes > 0, index_bytes > 0, lossless_bytes > 0,
            total_bytes = row_bytes + index_bytes + lossless_bytes
        from ps_trace.disk_usage
        where spans > 0
        """
    ).fetchall()


def test_disk_usage_adds_up(promscale, upkeep, database):
    assert sum(spans for _, spans, *_ in usage(database)) == 0
    start = hours_ago(3)
    # At first there are only spans that have no partition.
    for spans in ([at(1), at(2)], [at(start, "a"), at(start + HOUR, "b"), child(at(start), "c")], [at(hours_ago(-5))]):
        promscale.export(request(*spans))
        for _ in range(2):
            found = usage(database)
            assert sum(spans for _, spans, *_ in found) == count(database)
            assert all(all(row[2:]) for row in found)
            upkeep.summarise(quiet_seconds=0)
    assert [(odd, spans) for odd, spans, *_ in found] == [(False, 2), (False, 1), (True, 3)]
    close_all(upkeep, database)
    assert sum(spans for _, spans, *_ in usage(database)) == count(database)
    assert database.execute("select ps_trace.disk_used() > sum(total_bytes) from ps_trace.disk_usage").fetchone() == (
        True,
    )


def test_the_log_is_not_counted_for_an_owner_who_may_not_see_it(dsn, superuser_uri):
    """As with many hosted databases. Otherwise no limit would be kept."""
    owner = sql.Identifier(f"owner_{uuid.uuid4().hex[:12]}")
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(superuser_uri, dbname=name, autocommit=True) as connection:
        with_log = connection.execute("select ps_trace.disk_used()").fetchone()[0]
        connection.execute(sql.SQL("create role {}").format(owner))
        try:
            connection.execute(sql.SQL("alter function ps_trace.disk_used owner to {}").format(owner))
            size, used = connection.execute(
                "select pg_database_size(current_database()), ps_trace.disk_used()"
            ).fetchone()
            assert size <= used < with_log
        finally:
            connection.execute(sql.SQL("reassign owned by {} to current_user").format(owner))
            connection.execute(sql.SQL("drop role {}").format(owner))


def test_disk_usage_adds_up_when_partitions_are_split(native, promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(request(*(at(start + n * 7 * SECOND) for n in range(-20, 20))))
    database.execute(
        "select _promscale.split_partition(name, to_timestamp(%s)) from _promscale.partition", [start // SECOND]
    )
    for _ in range(2):
        assert sum(spans for _, spans, *_ in usage(database)) == 40
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)


def test_a_disk_budget_is_kept(own_uri):
    """Filled thrice, it is never exceeded by more than one partition. All spans are of now: partitions are split."""
    room = 60 * 10**6
    Store(own_uri).migrate()
    promscale, upkeep, stop = Promscale(own_uri), Upkeep(own_uri), threading.Event()

    def keep() -> None:
        while not stop.wait(1):
            upkeep.turn()

    recorded, written, exceeded = Replay(4_000), 0, []
    with psycopg.connect(own_uri, autocommit=True) as database:
        budget = "select pg_database_size(current_database()) + pg_size_bytes('64MB') + %s"
        [(budget,)] = database.execute(budget, [room]).fetchall()
        database.execute("select ps_trace.set_trace_disk_budget(%s)", [budget])
        keeper = threading.Thread(target=keep)
        keeper.start()
        try:
            promscale.export(request(at(time.time_ns(), "the first")))
            sizes = "select ps_trace.disk_used(), max(total_bytes)::bigint, sum(total_bytes)::bigint from ps_trace.disk_usage"
            _, largest, stored = database.execute(sizes).fetchone()
            while written < 3 * room:
                promscale.export(recorded.request(time.time_ns()))
                before = stored
                used, largest_now, stored = database.execute(sizes).fetchone()
                # The largest may be dropped after what is used is asked for, and before the partitions are.
                largest = max(largest, largest_now)
                written += max(stored - before, 0)
                if used > budget + largest:
                    exceeded.append((used, budget, largest))
            last = at(time.time_ns(), "the last")
            promscale.export(request(last))
        finally:
            stop.set()
            keeper.join()
        assert exceeded == []
        assert found(promscale, operation_name=b"the last") == [last.trace_id]
        assert found(promscale, operation_name=b"the first") == []
        assert database.execute("select count(*) > 1 from _promscale.partition").fetchone() == (True,)
        check_summaries(database)
        promscale.close()
        upkeep.close()
