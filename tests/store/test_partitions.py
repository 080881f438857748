"""Spans are in the partition of their time, and they are found wherever they are."""

from datetime import UTC, datetime

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.store.otlp_messages import child, request
from tests.store.test_ingest import count
from tests.store.test_jaeger import found, spans, traces_request
from tests.store.whole_store import HOUR, SECOND, at, check_summaries, hours_ago, shown

YEAR_2017, YEAR_2200 = (int(datetime(year, 5, 5, 5, 5, tzinfo=UTC).timestamp()) * SECOND for year in (2017, 2200))


def tables(database) -> dict[str, str]:
    """The table that each span is in, by its name, and of a partition's only its time."""
    rows = database.execute(
        """
        select o.span_name, substr(c.relname, length('span_') + 1)
        from _promscale.span as s
        join _promscale.origin as o on o.id = s.origin_id
        join pg_class as c on c.oid = s.tableoid
        """
    )
    return dict(rows.fetchall())


def partition_of(start: int) -> str:
    return datetime.fromtimestamp(start // HOUR * 3600, UTC).strftime("%Y%m%dT%H%M%S")


def create_partition(database, start: int) -> None:
    """The one of this time's hour, as when the time has come."""
    database.execute(
        "select _promscale.create_partition(t, t + interval '1 hour') from to_timestamp(%s) as t",
        [start // HOUR * 3600],
    )


def ages() -> dict[str, int]:
    """Spans of now, late ones, and those of any other age."""
    return {
        "now": hours_ago(0),
        "late": hours_ago(3),
        "six days late": hours_ago(6 * 24),
        "older than the retention period": hours_ago(8 * 24),
        "of 2017": YEAR_2017,
        "of the future": hours_ago(-3),
        "of 2200": YEAR_2200,
    }


def test_spans_of_any_time_within_the_retention_period_have_their_hours_partition(native, promscale, database):
    starts = ages()
    promscale.export(request(*(at(start, name) for name, start in starts.items())))
    partitioned = {name: partition_of(starts[name]) for name in ("now", "late", "six days late")}
    assert tables(database) == dict.fromkeys(starts, "default") | partitioned


def test_spans_of_any_age_are_found(promscale, upkeep, database):
    sent = []
    for name, start in ages().items():
        events, links = [Span.Event(name=name, time_unix_nano=start)], [Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8)]
        root = at(start, name, events=events, links=links)
        sent += [root, child(root, f"child {name}")]
    promscale.export(request(*sent))
    for _ in range(2):
        rows = shown(promscale, database)
        assert {view: len(found) for view, found in rows.items()} == {
            "span": 14, "event": 7, "link": 7, "operation": 14, "bytes": 14
        }  # fmt: skip
        for root in sent[::2]:
            wanted = {"operation_name": root.name.encode(), "start_time_min": root.start_time_unix_nano}
            assert found(promscale, **wanted, start_time_max=root.start_time_unix_nano) == [root.trace_id]
        assert database.execute("select sum(calls) from ps_trace.operation_minute").fetchone() == (14,)
        assert database.execute("select sum(calls) from ps_trace.call_minute").fetchone() == (7,)
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)


def test_the_present_has_its_partition_ahead_of_time(native, promscale, upkeep, database):
    upkeep.create_partitions()
    upkeep.create_partitions()
    ahead = database.execute(
        """
        select min(starts_at) <= now() and max(ends_at) > now() + interval '58 minutes', max(ends_at - starts_at)::text
        from _promscale.partition
        """
    )
    assert ahead.fetchone() == (True, "01:00:00")
    # Spans that are a minute ahead, because of a clock, are in no default partition.
    promscale.export(request(at(hours_ago(0) // HOUR * HOUR + HOUR - SECOND, "ahead")))
    assert tables(database)["ahead"] != "default"


def test_spans_move_when_their_time_comes(promscale, database):
    soon, later = (at(hours_ago(-hours), f"in {hours} hours") for hours in (3, 4))
    promscale.export(request(soon, child(soon, "child"), later))
    before = shown(promscale, database)
    create_partition(database, soon.start_time_unix_nano)
    assert shown(promscale, database) == before
    raw = "select count(*) from _promscale.traces_data where tableoid {} '_promscale.traces_data_default'::regclass"
    assert database.execute(raw.format("<>")).fetchone() == database.execute(raw.format("=")).fetchone() == (1,)
    promscale.export(request(soon, later, at(soon.start_time_unix_nano, "new")))
    assert count(database) == 4


def test_moved_spans_are_in_their_hours_partition(native, promscale, database):
    start = hours_ago(-3)
    promscale.export(request(at(start, "soon"), at(start + HOUR, "later")))
    create_partition(database, start)
    assert tables(database) == {"soon": partition_of(start), "later": "default"}


def test_many_hours_make_few_partitions(native, promscale, upkeep, database):
    """Each statement locks every partition: too many of them, and PostgreSQL has no more room for locks."""
    database.execute("select ps_trace.set_trace_retention_period('10 years')")
    # A thousand partitions that were made when the retention period was another. Their tables do not matter here.
    database.execute(
        """
        insert into _promscale.partition (starts_at, ends_at, name)
        select h, h + interval '1 hour', 'old ' || h
        from generate_series(timestamptz '2020-01-01', timestamptz '2020-02-12', interval '1 hour') as h
        """
    )
    made = "select count(*) from _promscale.partition where name not like 'old%'"
    for each in (at(hours_ago(2000), "late"), at(hours_ago(0), "now")):
        promscale.export(request(each))
    assert database.execute(made).fetchone() == (1,)
    assert {name: table == "default" for name, table in tables(database).items()} == {"late": True, "now": False}


def test_an_export_of_a_thousand_hours_is_stored(promscale, upkeep, database):
    database.execute("select ps_trace.set_trace_retention_period('100 days')")
    sent = [at(hours_ago(hours), f"hour {hours % 7}") for hours in range(1100)]
    promscale.export(request(*sent))
    assert count(database) == len(sent)
    assert database.execute("select count(*) between 50 and 200 from _promscale.partition").fetchone() == (True,)
    database.execute("select ps_trace.delete_all_traces()")
    promscale.export(request(*sent[:30]))
    assert count(database) == 30


@pytest.mark.parametrize("repeat", [1, 3])
def test_a_split_partition_keeps_its_spans_and_takes_new_ones_on_both_sides(native, promscale, database, repeat):
    start = hours_ago(2)
    minutes = [start + minute * 60 * SECOND for minute in range(-20, 20, 4)]
    sent = [at(minute, f"minute {number}") for number, minute in enumerate(minutes)]
    promscale.export(request(*sent))
    before, whole = shown(promscale, database), partition_of(start)
    cuts = [start + number * 300 * SECOND for number in range(repeat)]
    for number, cut in enumerate(cuts):
        name = (
            whole if number == 0 else datetime.fromtimestamp(cuts[number - 1] // SECOND, UTC).strftime("%Y%m%dT%H%M%S")
        )
        database.execute("select _promscale.split_partition(%s, to_timestamp(%s))", [name, cut // SECOND])
        assert shown(promscale, database) == before
    promscale.export(request(*sent, *(at(minute + 1, f"later {number}") for number, minute in enumerate(minutes))))
    found = tables(database)
    assert len(found) == count(database) == 20
    for number, minute in enumerate(minutes):
        begins = max((cut for cut in cuts if cut <= minute), default=start // HOUR * HOUR)
        table = datetime.fromtimestamp(begins // SECOND, UTC).strftime("%Y%m%dT%H%M%S")
        assert found[f"minute {number}"] == found[f"later {number}"] == table
    check_summaries(database)


def test_a_cut_outside_of_a_partition_splits_nothing(native, promscale, database):
    start = hours_ago(2)
    promscale.export(request(at(start)))
    for cut in (start // HOUR * HOUR, start // HOUR * HOUR + HOUR, start + HOUR):
        database.execute(
            "select _promscale.split_partition(%s, to_timestamp(%s))", [partition_of(start), cut // SECOND]
        )
    assert database.execute("select count(*) from _promscale.partition").fetchone() == (1,)


def drop_partitions(database, condition: str = "true") -> None:
    database.execute(f"select _promscale.drop_partition(starts_at) from _promscale.partition where {condition}")


def test_a_dropped_partition_takes_its_spans_and_nothing_else(promscale, upkeep, database):
    old, new, odd = (at(start, "work") for start in (hours_ago(3), hours_ago(2), YEAR_2017))
    promscale.export(request(old, new, odd))
    upkeep.summarise(quiet_seconds=0)
    database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
    assert set(found(promscale)) == {new.trace_id, odd.trace_id}
    assert spans(*promscale.read("GetTraces", traces_request(old.trace_id))) == []
    check_summaries(database)


def test_late_spans_of_a_dropped_hour_get_a_partition_again(native, promscale, database):
    """Else nothing would drop them before they are too old, also when the disk budget is used up."""
    start = hours_ago(3)
    promscale.export(request(at(start, "first")))
    drop_partitions(database)
    promscale.export(request(at(hours_ago(0), "now")))
    promscale.export(request(at(start, "late")))
    assert tables(database)["late"] == partition_of(start)


def test_so_do_those_of_a_part_of_an_hour(native, promscale, database):
    start = hours_ago(3)
    promscale.export(request(at(start - SECOND, "earlier"), at(start, "later")))
    database.execute("select _promscale.split_partition(%s, to_timestamp(%s))", [partition_of(start), start // SECOND])
    drop_partitions(database, f"name = '{partition_of(start)}'")
    assert list(tables(database)) == ["later"]
    promscale.export(request(at(hours_ago(0), "now")))
    promscale.export(request(at(start - SECOND, "late"), at(start, "later still")))
    by_name = tables(database)
    assert by_name["late"] == partition_of(start)
    assert by_name["later still"] == by_name["later"] not in ("default", partition_of(start))
