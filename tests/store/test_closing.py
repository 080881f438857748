"""Closing a partition makes it smaller, and changes nothing that anybody can see."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.recording import Replay
from promscale import closing
from promscale.store import StoreUnavailable
from promscale.upkeep import Upkeep
from tests.store.otlp_messages import attributes, child, request
from tests.store.running import Promscale
from tests.store.test_bad_input import NASTY
from tests.store.test_ingest import count, eventually
from tests.store.test_jaeger import found, spans, traces_request
from tests.store.whole_store import HOUR, MINUTE, at, check_summaries, close_all, hours_ago, shown

recorded = Replay(2_000)
# One that has enough traces for a dictionary.
recorded_much = Replay(7_000)


def odd_spans(start: int) -> list[Span]:
    """Among many spans of an origin that share attributes, some that do so nearly; and spans with all there may be."""
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
    same_id = {"trace_id": os.urandom(16), "span_id": os.urandom(8)}
    full = at(
        start,
        NASTY,
        tags={NASTY: NASTY, "nan": float("nan"), "infinite": float("inf"), "bytes": b"\xff\0", "big": "x" * 5000},
        trace_state="a=b",
        end_time_unix_nano=start - MINUTE,
        parent_span_id=os.urandom(8),
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=2**32 - 1,
        status={"code": 2, "message": NASTY},
        events=[
            Span.Event(
                time_unix_nano=start + 1, name=NASTY, attributes=attributes({"n": 1}), dropped_attributes_count=3
            ),
            Span.Event(time_unix_nano=0, dropped_attributes_count=4),
            Span.Event(),
        ],
        links=[
            Span.Link(**same_id, attributes=attributes({"why": NASTY}), dropped_attributes_count=5),
            Span.Link(trace_id=b"short"),
        ],
    )
    twins = [at(start + nanos, "twin", links=full.links, **same_id) for nanos in (0, 1)]
    return [*(at(start + number, "alike", tags=each) for number, each in enumerate(tags)), full, child(full), *twins]


SEARCHES = [
    {},
    {"service_name": b"digit"},
    {"service_name": b"generator", "operation_name": b"generator.generate"},
    {"attributes": {"char": "7"}},
    {"attributes": {"text": "red", "whole": "1"}},
    {"attributes": {"text": "blue"}},
    {"attributes": {"map": "nothing"}},
    {"attributes": {"list": [1, 2]}},
    {"attributes": {"why": NASTY}},
    {"attributes": {"error": "true"}},
    {"duration_min": 300 * 10**6},
]


def searched(promscale) -> list[set]:
    return [set(found(promscale, search_depth=10_000, **search)) for search in SEARCHES]


def name_of(database) -> str:
    """Of the one partition."""
    [(name,)] = database.execute("select name from _promscale.partition").fetchall()
    return name


def test_nothing_that_is_seen_changes(promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(recorded_much.request(start))
    promscale.export(recorded.request(start + 2 * MINUTE))
    odd = odd_spans(start)
    promscale.export(request(*odd[::2]))
    promscale.export(request(*odd[1::2]))
    upkeep.summarise(quiet_seconds=0)
    before, found_before = shown(promscale, database), searched(promscale)
    assert [len(ids) > 0 for ids in found_before] == [
        search != {"attributes": {"map": "nothing"}} for search in SEARCHES
    ]
    close_all(upkeep, database)
    assert shown(promscale, database) == before
    assert searched(promscale) == found_before
    check_summaries(database)


LEFTOVERS = "select relname from pg_class where relkind = 'r' and relname like 'closing%'"
SIZE = "select row_bytes + index_bytes, lossless_bytes, closed_at is not null from ps_trace.disk_usage where spans > 0"


def test_a_closed_partition_is_dense(native, promscale, upkeep, database):
    for number in range(4):
        # Exports divide traces.
        data = recorded.request(hours_ago(3) + number * MINUTE)
        promscale.export(data)
        promscale.export(request(*(child(each, "late") for each in list(spans(parse(data)))[::50])))
    [(rows_before, bytes_before, closed)] = database.execute(SIZE).fetchall()
    assert not closed
    close_all(upkeep, database)
    [(rows, lossless, closed)] = database.execute(SIZE).fetchall()
    assert closed and rows < rows_before and lossless < bytes_before
    traces_data, traces = database.execute(
        "select (select count(*) from _promscale.traces_data), count(distinct trace_id) from _promscale.span"
    ).fetchone()
    assert traces_data == traces
    moved = database.execute("select count(*) filter (where tag_set_id is not null), count(*) from _promscale.span")
    with_tag_set, total = moved.fetchone()
    assert with_tag_set > total / 4
    unique = "select indexdef from pg_indexes where tablename = %s and indexdef ilike '%%unique%%'"
    assert database.execute(unique, [f"span_{name_of(database)}"]).fetchall() == []
    assert database.execute(LEFTOVERS).fetchall() == []


def parse(data: bytes):
    return type(request()).FromString(data)


def test_what_is_sent_again_is_stored_once(promscale, upkeep, database):
    start = hours_ago(3)
    data, odd = recorded.request(start), request(*odd_spans(start)).SerializeToString()
    promscale.export(data)
    promscale.export(odd)
    stored = count(database)
    close_all(upkeep, database)
    before = shown(promscale, database)
    for again in (data, odd, data + odd):
        promscale.export(again)
    assert shown(promscale, database) == before
    new = [at(hours_ago(0), "of now"), at(start + HOUR, "of another hour"), at(start + 1, "of the closed hour")]
    promscale.export(data + request(*new, new[0]).SerializeToString())
    assert count(database) == stored + 3
    shown(promscale, database)


def test_late_spans_that_come_twice_at_once_are_stored_once(promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(recorded.request(start))
    stored = count(database)
    close_all(upkeep, database)
    # Those of the first hour are looked for; those of the second, which is open, too.
    late = [request(*(at(start + HOUR * (n % 2) + n, f"late {n}") for n in range(20))) for _ in range(20)]
    other = Promscale(promscale.dsn)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: (promscale, other)[n % 2].export(late[n // 4]), range(80)))
    finally:
        other.close()
    assert count(database) == stored + 400
    shown(promscale, database)


def test_late_spans_are_found(promscale, upkeep, database):
    root = at(hours_ago(3), "root", tags={"early": True})
    promscale.export(request(root))
    promscale.export(request(*odd_spans(root.start_time_unix_nano)))
    upkeep.summarise(quiet_seconds=0)
    close_all(upkeep, database)
    late = child(root, "late", tags={"late": True})
    promscale.export(request(late, service="till"))
    assert sorted(each.name for each in spans(*promscale.read("GetTraces", traces_request(root.trace_id)))) == [
        "late", "root"
    ]  # fmt: skip
    for _ in range(2):
        for wanted in ({"attributes": {"late": "true"}}, {"attributes": {"early": "true"}}, {"service_name": b"till"}):
            assert found(promscale, **wanted) == [root.trace_id]
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)


def test_a_span_that_comes_while_a_partition_is_written_anew_is_kept(promscale, upkeep, database, monkeypatch):
    promscale.export(recorded.request(hours_ago(3)))
    name = name_of(database)
    late = iter([at(hours_ago(3), "late"), at(hours_ago(3), "later")])
    finish = closing._queries.finish_closing

    def finish_after_another_span(*arguments, **parameters):
        if span := next(late, None):
            promscale.export(request(span))
        return finish(*arguments, **parameters)

    monkeypatch.setattr(closing._queries, "finish_closing", finish_after_another_span)
    for _ in range(2):
        assert not upkeep.close_partition(minutes=0)
        before = shown(promscale, database)
    assert upkeep.close_partition(minutes=0)
    assert database.execute("select name from _promscale.partition where closed_at is not null").fetchone() == (name,)
    assert shown(promscale, database) == before
    assert {"late", "later"} < {row for (row,) in database.execute("select span_name from ps_trace.span")}


def test_a_closing_that_is_killed_loses_and_doubles_nothing(promscale, upkeep, database):
    start = hours_ago(8)
    for hour in range(6):
        promscale.export(recorded.request(start + hour * HOUR))
        promscale.export(request(*odd_spans(start + hour * HOUR)))
    before = shown(promscale, database)
    began = time.monotonic()
    upkeep.close_partition(minutes=0)
    duration = time.monotonic() - began
    upkeep.close()
    killed = 0

    def close() -> None:
        nonlocal killed
        other = Upkeep(promscale.dsn)
        try:
            other.close_partition(minutes=0)
        except StoreUnavailable:
            killed += 1
        other.close()

    for _ in range(12):
        closer = threading.Thread(target=close)
        closer.start()
        time.sleep(random.random() * duration)
        database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'promscale-upkeep' and datname = current_database()"
        )
        closer.join()
    assert killed
    assert shown(promscale, database) == before
    close_all(upkeep, database)
    assert shown(promscale, database) == before
    assert database.execute(LEFTOVERS).fetchall() == []


def test_two_promscales_close_no_partition_twice(dsn, promscale, database):
    """Of several, one does the upkeep; the next when that one is gone."""
    promscale.export(recorded.request(hours_ago(3)))
    first, second = Upkeep(dsn), Upkeep(dsn)
    first.create_partitions()
    first.turn()
    closed = "select closed_at from _promscale.partition where closed_at is not null"
    [(when,)] = database.execute(closed).fetchall()
    promscale.export(recorded.request(hours_ago(5)))
    second.turn()
    assert database.execute(closed).fetchall() == [(when,)]
    first.close()
    # PostgreSQL may take a moment to notice.
    eventually(lambda: second.turn() or len(database.execute(closed).fetchall()) == 2)
    second.close()


def test_dictionaries_are_shared_and_go_with_their_partitions(promscale, upkeep, database):
    text = [os.urandom(1000).hex() for _ in range(3)]
    start = hours_ago(5)
    for hour in range(2):
        promscale.export(recorded_much.request(start + hour * HOUR))
    # Nothing like the demo's.
    other = [
        request(at(start + 2 * HOUR + n, tags={"text": text[n % 3] + text[n % 2]}), service="other") for n in range(200)
    ]
    for each in other:
        promscale.export(each)
    close_all(upkeep, database)
    used = "select dictionary_id from _promscale.partition order by starts_at"
    first, second, third = (id for (id,) in database.execute(used))
    assert first == second != third
    stored = "select id from _promscale.dictionary order by trained_at"
    assert database.execute(stored).fetchall() == [(first,), (third,)]
    shown(promscale, database)
    for left in ([(first,), (third,)], [(third,)], []):
        database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
        assert database.execute(stored).fetchall() == left
        shown(promscale, database)


def test_a_few_spans_need_no_dictionary(promscale, upkeep, database):
    promscale.export(request(at(hours_ago(3)), at(hours_ago(3))))
    close_all(upkeep, database)
    assert len(shown(promscale, database)["span"]) == 2
    assert database.execute("select count(*) from _promscale.dictionary").fetchone() == (0,)


def test_an_empty_partition_is_closed(promscale, upkeep, database):
    database.execute("select _promscale.create_partition(t, t + interval '1 hour') from to_timestamp(0) as t")
    close_all(upkeep, database)
    promscale.export(request(at(1)))
    assert len(shown(promscale, database)["span"]) == 1


def test_a_large_trace_is_repacked_in_several_rows(promscale, upkeep, database):
    root = at(hours_ago(3), "root")
    for part in range(5):
        promscale.export(
            request(
                *(child(root, f"{part}", tags={"text": os.urandom(50_000).hex()}) for _ in range(20)), service=str(part)
            )
        )
    before = shown(promscale, database)
    close_all(upkeep, database)
    frames = [data for (data,) in database.execute("select data from _promscale.traces_data")]
    assert 1 < len(frames) < 5
    assert max(len(zstandard.decompress(frame)) for frame in frames) < closing.MAX_ROW_BYTES + 2**16
    assert shown(promscale, database) == before


@pytest.mark.parametrize("days", [1, 400])
def test_partitions_of_other_lengths_are_closed(promscale, upkeep, database, days):
    database.execute("select ps_trace.set_trace_retention_period(%s * interval '1 day')", [days])
    promscale.export(request(*(at(hours_ago(hours), "work") for hours in range(23))))
    before = shown(promscale, database)
    close_all(upkeep, database)
    assert shown(promscale, database) == before
