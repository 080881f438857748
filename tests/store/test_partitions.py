"""Each span is stored in the partition of its start time, and found wherever it is."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.store.interruptions import is_waiting_for_lock
from tests.store.otlp_messages import HOUR, SECOND, child, request
from tests.store.running import span_count, value_of
from tests.store.searching import found_trace_ids, traces_request
from tests.store.store_contents import check_summaries, contents, hours_ago, span_at
from tests.waiting import wait_until

YEAR_2017, YEAR_2200 = (int(datetime(year, 5, 5, 5, 5, tzinfo=UTC).timestamp()) * SECOND for year in (2017, 2200))


def partitions_of_spans(database) -> dict[str, str]:
    """The name of each span's partition, by the span's name."""
    rows = database.execute(
        """
        select o.span_name, substring(s.tableoid::regclass::text from 'span_([0-9T]+|default)')
        from _promscale.span as s
        join _promscale.origin as o on o.id = s.origin_id
        """
    )
    return dict(rows.fetchall())


def partition_of(start: int) -> str:
    """The name of the partition of that hour."""
    return partition_from(start // HOUR * HOUR)


def partition_from(start: int) -> str:
    """The name of the partition that begins at `start`."""
    return datetime.fromtimestamp(start // SECOND, UTC).strftime("%Y%m%dT%H%M%S")


def create_partition(database, start: int) -> None:
    """Create the partition of that hour, as the upkeep does when the hour approaches."""
    database.execute(
        "select _promscale.create_partition(t, t + interval '1 hour') from to_timestamp(%s) as t",
        [start // HOUR * 3600],
    )


def ages() -> dict[str, int]:
    """Starts of spans: of now, late ones, and of times without a partition."""
    return {
        "now": hours_ago(0),
        "late": hours_ago(3),
        "six days late": hours_ago(6 * 24),
        "older than the retention period": hours_ago(8 * 24),
        "of 2017": YEAR_2017,
        "of the future": hours_ago(-3),
        "of 2200": YEAR_2200,
    }


def test_spans_within_the_retention_period_are_in_the_partition_of_their_hour(native, promscale, database):
    starts = ages()
    promscale.export(request(*(span_at(start, name) for name, start in starts.items())))
    partitioned = {name: partition_of(starts[name]) for name in ("now", "late", "six days late")}
    assert partitions_of_spans(database) == dict.fromkeys(starts, "default") | partitioned


def test_spans_of_any_age_are_found(promscale, upkeep, database):
    sent = []
    for name, start in ages().items():
        events, links = [Span.Event(name=name, time_unix_nano=start)], [Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8)]
        root = span_at(start, name, events=events, links=links)
        sent += [root, child(root, f"child {name}")]
    promscale.export(request(*sent))
    for _ in range(2):
        rows = contents(promscale, database)
        counts = {view: len(view_rows) for view, view_rows in rows.items()}
        assert counts == {"span": 14, "event": 7, "link": 7, "operation": 14, "lossless": 14}
        for root in sent[::2]:
            search = {"operation_name": root.name.encode(), "start_time_min": root.start_time_unix_nano}
            assert found_trace_ids(promscale, **search, start_time_max=root.start_time_unix_nano) == [root.trace_id]
        assert database.execute("select sum(calls) from ps_trace.operation_minute").fetchone() == (14,)
        assert database.execute("select sum(calls) from ps_trace.call_minute").fetchone() == (7,)
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)


def test_partitions_are_created_ahead_of_time(native, promscale, upkeep, database):
    upkeep.create_partitions()
    upkeep.create_partitions()
    ahead = database.execute(
        """
        select min(starts_at) <= now() and max(ends_at) > now() + interval '58 minutes', max(ends_at - starts_at)::text
        from _promscale.partition
        """
    )
    assert ahead.fetchone() == (True, "01:00:00")
    # A span dated a minute ahead (clock skew) is not in the default partition.
    promscale.export(request(span_at(hours_ago(0) // HOUR * HOUR + HOUR - SECOND, "ahead")))
    assert partitions_of_spans(database)["ahead"] != "default"


def test_spans_of_the_future_move_when_their_partition_is_created(promscale, database):
    soon, later = (span_at(hours_ago(-hours), f"in {hours} hours") for hours in (3, 4))
    promscale.export(request(soon, child(soon, "child"), later))
    before = contents(promscale, database)
    create_partition(database, soon.start_time_unix_nano)
    assert contents(promscale, database) == before
    in_default = value_of(database, "select count(*) from _promscale.traces_data_default")
    assert in_default == value_of(database, "select count(*) from _promscale.traces_data") - in_default == 1
    promscale.export(request(soon, later, span_at(soon.start_time_unix_nano, "new")))
    assert span_count(database) == 4


def test_moved_spans_are_in_the_partition_of_their_hour(native, promscale, database):
    start = hours_ago(-3)
    promscale.export(request(span_at(start, "soon"), span_at(start + HOUR, "later")))
    create_partition(database, start)
    assert partitions_of_spans(database) == {"soon": partition_of(start), "later": "default"}


def test_the_number_of_partitions_is_bounded(native, promscale, upkeep, database):
    """Each statement locks every partition, and PostgreSQL's lock table is limited."""
    database.execute("select ps_trace.set_trace_retention_period('10 years')")
    # A thousand partitions from a time with another retention period. The test needs no tables for them.
    database.execute(
        """
        insert into _promscale.partition (starts_at, ends_at, name)
        select h, h + interval '1 hour', 'old ' || h
        from generate_series(timestamptz '2020-01-01', timestamptz '2020-02-12', interval '1 hour') as h
        """
    )
    for span in (span_at(hours_ago(2000), "late"), span_at(hours_ago(0), "now")):
        promscale.export(request(span))
    assert value_of(database, "select count(*) from _promscale.partition where name not like 'old%'") == 1
    in_default = {name: partition == "default" for name, partition in partitions_of_spans(database).items()}
    assert in_default == {"late": True, "now": False}


def test_an_export_of_a_thousand_hours_is_stored(promscale, upkeep, database):
    database.execute("select ps_trace.set_trace_retention_period('100 days')")
    sent = [span_at(hours_ago(hours), f"hour {hours % 7}") for hours in range(1100)]
    promscale.export(request(*sent))
    assert span_count(database) == len(sent)
    assert database.execute("select count(*) between 50 and 200 from _promscale.partition").fetchone() == (True,)
    database.execute("select ps_trace.delete_all_traces()")
    promscale.export(request(*sent[:30]))
    assert span_count(database) == 30


@pytest.mark.parametrize("splits", [1, 3])
def test_a_split_partition_keeps_its_spans_and_takes_new_ones_on_both_sides(native, promscale, database, splits):
    start = hours_ago(2)
    minutes = [start + minute * 60 * SECOND for minute in range(-20, 20, 4)]
    sent = [span_at(minute, f"minute {number}") for number, minute in enumerate(minutes)]
    promscale.export(request(*sent))
    before = contents(promscale, database)
    cuts = [start + number * 300 * SECOND for number in range(splits)]
    begins = [start // HOUR * HOUR, *cuts]
    for begin, cut in zip(begins, cuts, strict=False):
        database.execute(
            "select _promscale.split_partition(%s, to_timestamp(%s))", [partition_from(begin), cut // SECOND]
        )
        assert contents(promscale, database) == before
    promscale.export(request(*sent, *(span_at(minute + 1, f"later {number}") for number, minute in enumerate(minutes))))
    partitions = partitions_of_spans(database)
    assert len(partitions) == span_count(database) == 20
    for number, minute in enumerate(minutes):
        expected = partition_from(max(begin for begin in begins if begin <= minute))
        assert partitions[f"minute {number}"] == partitions[f"later {number}"] == expected
    check_summaries(database)


def test_a_cut_outside_of_a_partition_splits_nothing(native, promscale, database):
    start = hours_ago(2)
    promscale.export(request(span_at(start)))
    for cut in (start // HOUR * HOUR, start // HOUR * HOUR + HOUR, start + HOUR):
        database.execute(
            "select _promscale.split_partition(%s, to_timestamp(%s))", [partition_of(start), cut // SECOND]
        )
    assert database.execute("select count(*) from _promscale.partition").fetchone() == (1,)


def test_spans_do_not_wait_for_a_transaction_that_reads_all_tables(native, promscale, database, dsn, monkeypatch):
    """Such as that of a backup. The partition is created afterwards, and takes the spans over."""
    monkeypatch.setattr("promscale.store.PARTITION_RETRY_SECONDS", 0)
    start = hours_ago(3)
    with psycopg.connect(dsn) as backup:
        backup.execute("select count(*) from _promscale.span union all select count(*) from _promscale.traces_data")
        promscale.export(request(span_at(start, "meanwhile")))
        assert partitions_of_spans(database) == {"meanwhile": "default"}
    promscale.export(request(span_at(hours_ago(0), "afterwards")))
    assert partitions_of_spans(database)["meanwhile"] == partition_of(start)
    check_summaries(database)


def a_span_comes_in(database, dsn, start: int, application: str, work: Callable[[], object]) -> None:
    """Run `work` while another transaction puts a span that starts then into the default partition. It commits when the
    application waits for a lock: to create the partition of that hour, for which it has found no spans before.
    """
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as other:
        other.execute("update _promscale.span_default set start_time = to_timestamp(%s)", [start // SECOND])
        assert other.execute("select count(*) from _promscale.span_default").fetchone() == (1,)
        running = pool.submit(work)
        wait_until(lambda: is_waiting_for_lock(database, application), "the wait for the lock")
        other.commit()
        running.result()


def test_partitions_are_created_later_if_spans_come_in_between(native, promscale, upkeep, database, dsn):
    promscale.export(request(span_at(YEAR_2200, "came in between")))
    start = time.time_ns() + 59 * 60 * SECOND  # of the first partition that the upkeep creates
    a_span_comes_in(database, dsn, start, "promscale-upkeep", upkeep.create_partitions)
    assert partitions_of_spans(database) == {"came in between": "default"}
    upkeep.create_partitions()
    assert partitions_of_spans(database) == {"came in between": partition_of(start)}


def test_spans_are_stored_though_others_come_in_before_their_partition(native, promscale, database, dsn):
    promscale.export(request(span_at(YEAR_2200, "came in between")))
    start = hours_ago(0)
    meanwhile = request(span_at(start, "meanwhile"))
    a_span_comes_in(database, dsn, start, "promscale", lambda: promscale.export(meanwhile))
    assert partitions_of_spans(database) == {"came in between": "default", "meanwhile": "default"}
    promscale.export(request(span_at(start, "afterwards")))
    assert {*partitions_of_spans(database).values()} == {partition_of(start)}


def drop_partitions(database, condition: str = "true") -> None:
    database.execute(f"select _promscale.drop_partition(starts_at) from _promscale.partition where {condition}")


def test_dropping_a_partition_removes_only_its_spans(promscale, upkeep, database):
    old, new, odd = (span_at(start, "work") for start in (hours_ago(3), hours_ago(2), YEAR_2017))
    promscale.export(request(old, new, odd))
    upkeep.summarise(quiet_seconds=0)
    database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
    assert set(found_trace_ids(promscale)) == {new.trace_id, odd.trace_id}
    assert promscale.read("GetTraces", traces_request(old.trace_id)) == []
    check_summaries(database)


def test_late_spans_of_a_dropped_hour_get_a_partition_again(native, promscale, database):
    """In the default partition, the disk budget could not drop them."""
    start = hours_ago(3)
    promscale.export(request(span_at(start, "first")))
    drop_partitions(database)
    promscale.export(request(span_at(hours_ago(0), "now")))
    promscale.export(request(span_at(start, "late")))
    assert partitions_of_spans(database)["late"] == partition_of(start)


def test_late_spans_of_a_dropped_part_of_an_hour_get_a_partition_again(native, promscale, database):
    start = hours_ago(3)
    promscale.export(request(span_at(start - SECOND, "earlier"), span_at(start, "later")))
    database.execute("select _promscale.split_partition(%s, to_timestamp(%s))", [partition_of(start), start // SECOND])
    drop_partitions(database, f"name = '{partition_of(start)}'")
    assert list(partitions_of_spans(database)) == ["later"]
    promscale.export(request(span_at(hours_ago(0), "now")))
    promscale.export(request(span_at(start - SECOND, "late"), span_at(start, "later still")))
    by_name = partitions_of_spans(database)
    assert by_name["late"] == partition_of(start)
    assert by_name["later still"] == by_name["later"] not in ("default", partition_of(start))
