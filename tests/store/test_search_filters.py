"""Searches return the same before and after minutes are summarised and partitions closed, and skip other minutes."""

import itertools
import random
from datetime import datetime, timedelta

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale.upkeep import attribute_filter
from tests.store.otlp_messages import MINUTE, SECOND, any_value, attributes, request
from tests.store.running import value_of
from tests.store.searching import found_trace_ids, search_request
from tests.store.store_contents import close_all, hours_ago, span_at

KIND = Span.SPAN_KIND_SERVER


def export(promscale, start: int, places: dict[str, dict], service: str = "shop", **fields) -> bytes:
    """Store a span with these attributes, given by their place (PLACES); returns its trace id."""
    stored = span_at(
        start,
        fields.pop("name", "work"),
        tags=places.get("span"),
        events=[Span.Event(name="first"), Span.Event(name="event", attributes=attributes(places.get("event", {})))],
        links=[Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8, attributes=attributes(places.get("link", {})))],
        **fields,
    )
    message = request(stored, service=service)
    resource_spans = message.resource_spans[0]
    resource_spans.resource.attributes.extend(attributes(places.get("resource", {})))
    scope = InstrumentationScope(name="library", version="1.2", attributes=attributes(places.get("scope", {})))
    resource_spans.scope_spans[0].scope.CopyFrom(scope)
    promscale.export(message)
    return stored.trace_id


PLACES = ("span", "resource", "scope", "event", "link")
MATCHING_SEARCHES: list[dict] = [
    {},
    {"service_name": b"shop"},
    {"service_name": b"till"},
    {"service_name": b"till", "operation_name": b"pay"},
    {"operation_name": b"work"},
    *({"attributes": {f"{place}.key": place}} for place in PLACES),
    {"attributes": {f"{place}.key": place for place in PLACES}},
    {"service_name": b"till", "attributes": {"resource.key": "resource"}},
    {"attributes": {"number": "7"}},
    {"attributes": {"number": 7}},
    {"attributes": {"number": 7.0}},
    {"attributes": {"number": "7.5"}},
    {"attributes": {"typed": "7"}},
    {"attributes": {"truth": "true"}},
    {"attributes": {"error": "true"}},
    {"attributes": {"span.kind": "server"}},
    {"attributes": {"otel.scope.name": "library"}},
    {"attributes": {"otel.status_description": "no money"}},
    {"duration_min": 2 * MINUTE},
    {"duration_min": 2 * SECOND, "duration_max": 3 * SECOND},
    {"duration_max": 2 * 10**6},
    {"duration_min": 2 * SECOND, "service_name": b"shop"},
    {"duration_min": 2 * SECOND, "attributes": {"span.key": "span"}},
]
EMPTY_SEARCHES: list[dict] = [
    {"service_name": b"absent"},
    {"service_name": b"shop", "operation_name": b"pay"},
    {"attributes": {"absent": "absent"}},
    {"attributes": {"span.key": "absent"}},
    {"attributes": {"typed": 7}},  # which is text
    {"attributes": {"span.key": "span", "absent": "absent"}},
    {"duration_min": 100 * MINUTE},
]


def export_some(promscale, start: int, seed: int = 1) -> None:
    """Store random spans. With seed 1, each search of MATCHING_SEARCHES finds some."""
    choose = random.Random(seed)
    for number in range(30):
        begins = start + choose.randrange(5 * MINUTE)
        duration = choose.choice((SECOND // 1000, 2 * SECOND, 3 * MINUTE))
        places: dict[str, dict] = {
            place: {f"{place}.key": choose.choice((place, "other"))} for place in PLACES if choose.random() < 0.5
        }
        places.setdefault("span", {})["number"] = choose.choice((7, "7", 7.5, 8))
        places["span"]["typed"] = choose.choice(("7", "8"))
        places["span"]["truth"] = choose.choice((True, "true", False))
        fields = {"kind": choose.choice((KIND, 1)), "status": {"code": 2, "message": "no money"}} if number % 3 else {}
        service, name = choose.choice((("shop", "work"), ("till", "work"), ("till", "pay")))
        export(promscale, begins, places, service, name=name, end_time_unix_nano=begins + duration, **fields)
    # One span with all of the attributes.
    export(
        promscale, start, {place: {f"{place}.key": place} for place in PLACES}, end_time_unix_nano=start + 2 * SECOND
    )


def results(promscale, start: int) -> list[list[bytes]]:
    """The trace ids of each search: over all times, over a range of time, and over both with a limit."""
    during = {"start_time_min": start + MINUTE + 7, "start_time_max": start + 3 * MINUTE + 7}

    def trace_ids(**fields) -> list[bytes]:
        (answer,) = promscale.read("FindTraceIDs", search_request(**fields))
        return [trace.trace_id for trace in answer.trace_ids]

    return [
        trace_ids(search_depth=limit, **search, **times)
        for search in MATCHING_SEARCHES + EMPTY_SEARCHES
        for times, limit in (({}, 1000), (during, 1000), ({}, 5))
    ]


def test_searches_return_the_same_after_summaries_and_closing(promscale, upkeep, database):
    start = hours_ago(3)
    export_some(promscale, start)
    before = results(promscale, start)
    over_all_times = before[::3]
    assert all(over_all_times[: len(MATCHING_SEARCHES)])
    assert not any(over_all_times[len(MATCHING_SEARCHES) :])
    upkeep.summarise(quiet_seconds=0)
    assert results(promscale, start) == before
    close_all(upkeep, database)
    assert results(promscale, start) == before
    export_some(promscale, start + 3 * MINUTE, seed=2)
    after = results(promscale, start)
    assert all(len(new) >= len(old) for old, new in zip(before, after, strict=True))
    assert len(after[0]) == 2 * len(before[0])
    upkeep.summarise(quiet_seconds=0)
    assert results(promscale, start) == after


def times_to_search(database, origin_ids=None, duration_min=None, attributes: dict | None = None) -> list[tuple]:
    """The time ranges that a search must read."""
    keys_and_values = orjson.dumps([[key, [value]] for key, value in (attributes or {}).items()]).decode()
    times = "select * from ps_trace.jaeger_times('-infinity', 'infinity', %s::bigint[], %s, %s)"
    return database.execute(times, [origin_ids, duration_min, keys_and_values]).fetchall()


def test_a_search_for_absent_attributes_reads_no_spans(promscale, upkeep, database):
    export_some(promscale, hours_ago(3))
    present, absent = {"span.key": "span"}, {"span.key": "absent"}
    assert times_to_search(database, attributes=absent), "without a summary, the minute may have the attribute"
    upkeep.summarise(quiet_seconds=0)
    assert times_to_search(database, attributes=present)
    assert times_to_search(database, attributes=absent) == []
    assert times_to_search(database, attributes=present | absent) == []
    assert times_to_search(database, origin_ids=[]) == []
    assert times_to_search(database, duration_min=100.0 * 60_000) == []


def test_a_search_for_the_longest_spans_reads_only_their_start_times(promscale, upkeep, database):
    start = hours_ago(3) // MINUTE * MINUTE
    sent = [span_at(start + n * 1000, "short", end_time_unix_nano=start + n * 1000 + 1) for n in range(100)]
    long = [span_at(start + n * SECOND, "long", end_time_unix_nano=start + n * SECOND + MINUTE) for n in (3, 5)]
    promscale.export(request(*sent, *long))
    upkeep.summarise(quiet_seconds=0)
    times = [
        (starts - datetime.fromtimestamp(start // SECOND, starts.tzinfo))
        for starts, _ in times_to_search(database, duration_min=1.0)
    ]
    assert times == [timedelta(seconds=5), timedelta(seconds=3)]
    assert found_trace_ids(promscale, duration_min=10**6) == [long[1].trace_id, long[0].trace_id]
    assert len(found_trace_ids(promscale, duration_max=10**6, search_depth=1000)) == 100


# Bloom filters -----------------------------------------------------------------------------------------------------

values = st.recursive(
    st.one_of(st.text(max_size=20), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
several_places = st.dictionaries(
    st.sampled_from(PLACES), st.dictionaries(st.text(max_size=20), values, min_size=1, max_size=3), min_size=1
)


minutes = itertools.count()


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several_places)
def test_filters_have_no_false_negatives(promscale, upkeep, places):
    trace_id = export(promscale, hours_ago(30) + next(minutes) * MINUTE, places)
    upkeep.summarise(quiet_seconds=0)
    for place, tags in places.items():
        for key, value in tags.items():
            # A search for an attribute without a value is not defined.
            if any_value(value).WhichOneof("value"):
                assert trace_id in found_trace_ids(promscale, attributes={key: value}, search_depth=1000), place


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 100, 1000, 5000])
def test_python_and_sql_agree_on_a_filter(database, size):
    choose = random.Random(size)
    hashes, others = ([choose.getrandbits(64) - 2**63 for _ in range(count)] for count in (size, 1000))
    hashes[: size // 3] = [0, -1, 2**63 - 1, -(2**63)][: size // 3]
    matches = "select count(*) from unnest(%s::bigint[]) as hash where _promscale.may_have_attribute(%s, hash)"
    bloom_filter = attribute_filter(hashes)
    assert value_of(database, matches, [hashes, bloom_filter]) == len(hashes)
    # With at least 12 bits per attribute and 6 probes, false positives are fewer than one in 250.
    assert value_of(database, matches, [others, bloom_filter]) < 30


def test_too_many_attributes_make_no_filter(database):
    assert attribute_filter([0] * 500_001) is None
    assert value_of(database, "select _promscale.may_have_attribute(null::bytea, 1)") is True


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("100", "1e2"), ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}')])
def test_equal_values_have_equal_hashes(database, one, other):
    hashes = "select _promscale.attribute_hash('k', %s::jsonb) = _promscale.attribute_hash('k', %s::jsonb)"
    assert value_of(database, hashes, [one, other]) is True
