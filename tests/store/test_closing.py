"""Closing a partition makes it smaller, and changes nothing that users see."""

import random
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import zstandard
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from benchmarks.recording import Replay
from promscale import closing
from promscale.upkeep import Upkeep
from tests.store.interruptions import is_waiting_for_lock, kill_upkeep_at_lock
from tests.store.otlp_messages import HOSTILE_TEXT, HOUR, MINUTE, child, request
from tests.store.running import Promscale, span_count, value_of
from tests.store.searching import found_trace_ids, spans_of, traces_request
from tests.store.store_contents import check_summaries, close_all, contents, hours_ago, odd_spans, span_at
from tests.waiting import wait_until

recorded = Replay(2_000)
# Enough traces to train a dictionary.
recorded_much = Replay(7_000)


SEARCHES: list[dict] = [
    {},
    {"service_name": b"digit"},
    {"service_name": b"generator", "operation_name": b"generator.generate"},
    {"attributes": {"char": "7"}},
    {"attributes": {"text": "red", "whole": "1"}},
    {"attributes": {"text": "blue"}},
    {"attributes": {"map": "nothing"}},
    {"attributes": {"list": [1, 2]}},
    {"attributes": {"why": HOSTILE_TEXT}},
    {"attributes": {"error": "true"}},
    {"duration_min": 300 * 10**6},
]


def search_results(promscale: Promscale) -> list[set[bytes]]:
    return [set(found_trace_ids(promscale, **search | {"search_depth": 10_000})) for search in SEARCHES]


def partition_name(database) -> str:
    """The name of the only partition."""
    return value_of(database, "select name from _promscale.partition")


def test_views_and_searches_show_the_same(promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(recorded_much.request(start))
    promscale.export(recorded.request(start + 2 * MINUTE))
    odd = odd_spans(start)
    promscale.export(request(*odd[::2]))
    promscale.export(request(*odd[1::2]))
    upkeep.summarise(quiet_seconds=0)
    before, results_before = contents(promscale, database), search_results(promscale)
    assert [len(trace_ids) > 0 for trace_ids in results_before] == [
        search != {"attributes": {"map": "nothing"}} for search in SEARCHES
    ]
    close_all(upkeep, database)
    assert contents(promscale, database) == before
    assert search_results(promscale) == results_before
    check_summaries(database)


LEFTOVERS = "select relname from pg_class where relkind = 'r' and relname like 'closing%'"
SIZE = "select row_bytes + index_bytes, lossless_bytes, closed_at is not null from ps_trace.disk_usage where spans > 0"


def test_a_closed_partition_is_smaller(native, promscale, upkeep, database):
    start = hours_ago(3)
    for number in range(4):
        # The spans of some traces are in two exports.
        data = recorded.request(start + number * MINUTE)
        promscale.export(data)
        parents = spans_of(TracesData.FromString(data))[::50]
        promscale.export(request(*(child(parent, "late") for parent in parents)))
    [(rows_before, bytes_before, closed)] = database.execute(SIZE).fetchall()
    assert not closed
    close_all(upkeep, database)
    [(rows, lossless, closed)] = database.execute(SIZE).fetchall()
    assert closed and rows < rows_before and lossless < bytes_before
    traces = value_of(database, "select count(distinct trace_id) from _promscale.span")
    assert value_of(database, "select count(*) from _promscale.traces_data") == traces
    moved = database.execute("select count(*) filter (where tag_set_id is not null), count(*) from _promscale.span")
    with_tag_set, total = moved.fetchone()
    assert with_tag_set > total / 4
    unique = "select indexdef from pg_indexes where tablename = %s and indexdef ilike '%%unique%%'"
    assert database.execute(unique, [f"span_{partition_name(database)}"]).fetchall() == []
    assert database.execute(LEFTOVERS).fetchall() == []


def test_retried_spans_are_stored_once(promscale, upkeep, database):
    start = hours_ago(3)
    data, odd = recorded.request(start), request(*odd_spans(start)).SerializeToString()
    promscale.export(data)
    promscale.export(odd)
    stored = span_count(database)
    close_all(upkeep, database)
    before = contents(promscale, database)
    for retried in (data, odd, data + odd):
        promscale.export(retried)
    assert contents(promscale, database) == before
    new = [
        span_at(hours_ago(0), "of now"),
        span_at(start + HOUR, "of another hour"),
        span_at(start + 1, "of the closed hour"),
    ]
    promscale.export(data + request(*new, new[0]).SerializeToString())
    assert span_count(database) == stored + 3
    contents(promscale, database)


def test_late_spans_in_concurrent_exports_are_stored_once(promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(recorded.request(start))
    stored = span_count(database)
    close_all(upkeep, database)
    # Half of the late spans are in the closed hour, the others in an hour that is still open.
    late = [request(*(span_at(start + HOUR * (n % 2) + n, f"late {n}") for n in range(20))) for _ in range(20)]
    other = Promscale(promscale.dsn)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: (promscale, other)[n % 2].export(late[n // 4]), range(80)))
    finally:
        other.close()
    assert span_count(database) == stored + 400
    contents(promscale, database)


def test_late_spans_are_found(promscale, upkeep, database):
    root = span_at(hours_ago(3), "root", tags={"early": True})
    promscale.export(request(root))
    promscale.export(request(*odd_spans(root.start_time_unix_nano)))
    upkeep.summarise(quiet_seconds=0)
    close_all(upkeep, database)
    late = child(root, "late", tags={"late": True})
    promscale.export(request(late, service="till"))
    trace = spans_of(*promscale.read("GetTraces", traces_request(root.trace_id)))
    assert sorted(span.name for span in trace) == ["late", "root"]
    searches: list[dict] = [
        {"attributes": {"late": "true"}},
        {"attributes": {"early": "true"}},
        {"service_name": b"till"},
    ]
    for _ in range(2):
        for search in searches:
            assert found_trace_ids(promscale, **search) == [root.trace_id]
        check_summaries(database)
        upkeep.summarise(quiet_seconds=0)


# The advisory lock under which partitions are created, replaced and dropped.
PARTITIONS_LOCK = "select pg_advisory_xact_lock(hashtext('_promscale.partition'))"


def test_a_span_that_arrives_while_a_partition_is_rewritten_is_kept(promscale, upkeep, database):
    start = hours_ago(3)
    promscale.export(recorded.request(start))
    name = partition_name(database)
    for late in ("late", "later"):
        with ThreadPoolExecutor(1) as pool, psycopg.connect(promscale.dsn) as holder:
            # The rewritten partition would replace the old one after this lock.
            holder.execute(PARTITIONS_LOCK)
            closed = pool.submit(upkeep.close_partition, minutes=0)
            wait_until(lambda: is_waiting_for_lock(database, "promscale-upkeep"), "the rewritten partition")
            promscale.export(request(span_at(start, late)))
            holder.rollback()
            assert not closed.result()
        before = contents(promscale, database)
    assert upkeep.close_partition(minutes=0)
    assert value_of(database, "select name from _promscale.partition where closed_at is not null") == name
    assert contents(promscale, database) == before
    assert {"late", "later"} < {row for (row,) in database.execute("select span_name from ps_trace.span")}


@pytest.mark.parametrize(
    "lock",
    [
        "lock table _promscale.partition in access exclusive mode",  # before closing begins
        "lock table _promscale.dictionary in access exclusive mode",  # after the spans are rewritten
        PARTITIONS_LOCK,  # after the OTLP bytes are rewritten
        "lock table _promscale.span in access share mode",  # before the new tables replace the old ones
    ],
)
def test_a_closing_that_is_killed_changes_nothing(promscale, upkeep, database, lock):
    start = hours_ago(4)
    for hour in range(2):
        promscale.export(recorded.request(start + hour * HOUR))
        promscale.export(request(*odd_spans(start + hour * HOUR)))
    before = contents(promscale, database)
    wait_until(lambda: kill_upkeep_at_lock(promscale.dsn, lock, lambda: upkeep.close_partition(minutes=0)), "a kill")
    assert contents(promscale, database) == before
    close_all(upkeep, database)
    assert contents(promscale, database) == before
    assert database.execute(LEFTOVERS).fetchall() == []


def test_one_of_two_promscales_does_the_upkeep(dsn, promscale, database):
    """The other one takes over when the first stops."""
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

    def taken_over() -> bool:
        # PostgreSQL releases the first one's lock when its session has ended, a moment after `close`.
        second.turn()
        return len(database.execute(closed).fetchall()) == 2

    wait_until(taken_over, "the second one's upkeep")
    second.close()


def test_partitions_share_dictionaries_and_unused_ones_are_deleted(promscale, upkeep, database):
    choose = random.Random(1)
    text = [choose.randbytes(1000).hex() for _ in range(3)]
    start = hours_ago(5)
    for hour in range(2):
        promscale.export(recorded_much.request(start + hour * HOUR))
    # Spans that have nothing in common with the demo's.
    other = [
        request(span_at(start + 2 * HOUR + n, tags={"text": text[n % 3] + text[n % 2]}), service="other")
        for n in range(200)
    ]
    for message in other:
        promscale.export(message)
    close_all(upkeep, database)
    used = "select dictionary_id from _promscale.partition order by starts_at"
    first, second, third = (dictionary_id for (dictionary_id,) in database.execute(used))
    assert first == second != third
    stored = "select id from _promscale.dictionary order by trained_at"
    assert database.execute(stored).fetchall() == [(first,), (third,)]
    contents(promscale, database)
    remaining: list[tuple]
    for remaining in ([(first,), (third,)], [(third,)], []):
        database.execute("select _promscale.drop_partition(min(starts_at)) from _promscale.partition")
        assert database.execute(stored).fetchall() == remaining
        contents(promscale, database)


def test_a_small_partition_is_closed_without_a_dictionary(promscale, upkeep, database):
    promscale.export(request(span_at(hours_ago(3)), span_at(hours_ago(3))))
    close_all(upkeep, database)
    assert len(contents(promscale, database)["span"]) == 2
    assert database.execute("select count(*) from _promscale.dictionary").fetchone() == (0,)


def test_an_empty_partition_is_closed(promscale, upkeep, database):
    database.execute("select _promscale.create_partition(t, t + interval '1 hour') from to_timestamp(0) as t")
    close_all(upkeep, database)
    promscale.export(request(span_at(1)))
    assert len(contents(promscale, database)["span"]) == 1


def test_a_large_trace_is_repacked_in_several_rows(promscale, upkeep, database):
    choose = random.Random(1)
    root = span_at(hours_ago(3), "root")
    for part in range(5):
        children = [child(root, f"{part}", tags={"text": choose.randbytes(50_000).hex()}) for _ in range(20)]
        promscale.export(request(*children, service=str(part)))
    before = contents(promscale, database)
    close_all(upkeep, database)
    frames = [data for (data,) in database.execute("select data from _promscale.traces_data")]
    assert 1 < len(frames) < 5
    assert max(len(zstandard.decompress(frame)) for frame in frames) < closing.MAX_ROW_BYTES + 2**16
    assert contents(promscale, database) == before


@pytest.mark.parametrize("days", [1, 400])
def test_partitions_of_other_lengths_are_closed(promscale, upkeep, database, days):
    database.execute("select ps_trace.set_trace_retention_period(%s * interval '1 day')", [days])
    promscale.export(request(*(span_at(hours_ago(hours), "work") for hours in range(23))))
    before = contents(promscale, database)
    close_all(upkeep, database)
    assert contents(promscale, database) == before
