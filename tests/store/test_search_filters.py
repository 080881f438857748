"""A search finds the same before and after minutes are summarised and partitions are closed, and looks nowhere in vain."""

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
from tests.store.otlp_messages import any_value, attributes, request
from tests.store.test_jaeger import found, query
from tests.store.whole_store import MINUTE, SECOND, at, close_all, hours_ago

KIND = Span.SPAN_KIND_SERVER


def export(promscale, start: int, places: dict[str, dict], service: str = "shop", **fields) -> bytes:
    """A span with these attributes in the places that have some; returns its trace id."""
    stored = at(
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
FINDING = [
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
EMPTY = [
    {"service_name": b"absent"},
    {"service_name": b"shop", "operation_name": b"pay"},
    {"attributes": {"absent": "absent"}},
    {"attributes": {"span.key": "absent"}},
    {"attributes": {"typed": 7}},  # which is text
    {"attributes": {"span.key": "span", "absent": "absent"}},
    {"duration_min": 100 * MINUTE},
]


def export_some(promscale, start: int, seed: int = 1) -> None:
    """Each search of FINDING finds some of the spans of seed 1."""
    choose = random.Random(seed)
    for number in range(30):
        begins = start + choose.randrange(5 * MINUTE)
        duration = choose.choice((SECOND // 1000, 2 * SECOND, 3 * MINUTE))
        places = {place: {f"{place}.key": choose.choice((place, "other"))} for place in PLACES if choose.random() < 0.5}
        places.setdefault("span", {})["number"] = choose.choice((7, "7", 7.5, 8))
        places["span"]["typed"] = choose.choice(("7", "8"))
        places["span"]["truth"] = choose.choice((True, "true", False))
        fields = {"kind": choose.choice((KIND, 1)), "status": {"code": 2, "message": "no money"}} if number % 3 else {}
        service, name = choose.choice((("shop", "work"), ("till", "work"), ("till", "pay")))
        export(promscale, begins, places, service, name=name, end_time_unix_nano=begins + duration, **fields)
    # All of the attributes, on one span.
    export(
        promscale, start, {place: {f"{place}.key": place} for place in PLACES}, end_time_unix_nano=start + 2 * SECOND
    )


def results(promscale, start: int) -> list[list[bytes]]:
    """Of each search: over all times, over a part of a minute, and over the two together with a limit."""
    during = {"start_time_min": start + MINUTE + 7, "start_time_max": start + 3 * MINUTE + 7}
    return [
        [
            trace.trace_id
            for trace in promscale.read("FindTraceIDs", query(search_depth=limit, **search, **times))[0].trace_ids
        ]
        for search in FINDING + EMPTY
        for times, limit in (({}, 1000), (during, 1000), ({}, 5))
    ]


def test_searches_find_the_same_whatever_the_upkeep_has_done(promscale, upkeep, database):
    start = hours_ago(3)
    export_some(promscale, start)
    before = results(promscale, start)
    assert [len(all_times) > 0 for all_times in before[::3]] == [True] * len(FINDING) + [False] * len(EMPTY)
    upkeep.summarise(quiet_seconds=0)
    assert results(promscale, start) == before
    close_all(upkeep, database)
    assert results(promscale, start) == before
    export_some(promscale, start + 3 * MINUTE, seed=2)
    after = results(promscale, start)
    assert [len(new) >= len(old) for old, new in zip(before, after, strict=True)] == [True] * len(after)
    assert len(after[0]) == 2 * len(before[0])
    upkeep.summarise(quiet_seconds=0)
    assert results(promscale, start) == after


def times_to_search(database, origin_ids=None, duration_min=None, attributes: dict | None = None) -> list[tuple]:
    asked = orjson.dumps([[key, [value]] for key, value in (attributes or {}).items()]).decode()
    times = "select * from ps_trace.jaeger_times('-infinity', 'infinity', %s::bigint[], %s, %s)"
    return database.execute(times, [origin_ids, duration_min, asked]).fetchall()


def test_what_is_absent_is_looked_for_nowhere(promscale, upkeep, database):
    export_some(promscale, hours_ago(3))
    present, absent = {"span.key": "span"}, {"span.key": "absent"}
    assert times_to_search(database, attributes=absent), "before the summary, any minute may have it"
    upkeep.summarise(quiet_seconds=0)
    assert times_to_search(database, attributes=present)
    assert times_to_search(database, attributes=absent) == []
    assert times_to_search(database, attributes=present | absent) == []
    assert times_to_search(database, origin_ids=[]) == []
    assert times_to_search(database, duration_min=100.0 * 60_000) == []


def test_few_long_spans_are_looked_for_at_their_own_times(promscale, upkeep, database):
    start = hours_ago(3) // MINUTE * MINUTE
    sent = [at(start + n * 1000, "short", end_time_unix_nano=start + n * 1000 + 1) for n in range(100)]
    long = [at(start + n * SECOND, "long", end_time_unix_nano=start + n * SECOND + MINUTE) for n in (3, 5)]
    promscale.export(request(*sent, *long))
    upkeep.summarise(quiet_seconds=0)
    times = [
        (starts - datetime.fromtimestamp(start // SECOND, starts.tzinfo))
        for starts, _ in times_to_search(database, duration_min=1.0)
    ]
    assert times == [timedelta(seconds=5), timedelta(seconds=3)]
    assert found(promscale, duration_min=10**6) == [long[1].trace_id, long[0].trace_id]
    assert len(found(promscale, duration_max=10**6, search_depth=1000)) == 100


# Filters -----------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.one_of(st.text(max_size=20), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
several_places = st.dictionaries(
    st.sampled_from(PLACES), st.dictionaries(st.text(max_size=20), values, min_size=1, max_size=3), min_size=1
)


minutes = itertools.count()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several_places)
def test_no_attribute_that_is_there_is_missed(promscale, upkeep, places):
    trace_id = export(promscale, hours_ago(30) + next(minutes) * MINUTE, places)
    upkeep.summarise(quiet_seconds=0)
    for place, tags in places.items():
        for key, value in tags.items():
            # What is asked for as text, or as a number within text, is another matter.
            if any_value(value).WhichOneof("value"):
                assert trace_id in found(promscale, attributes={key: value}, search_depth=1000), place


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 100, 1000, 5000])
def test_a_filter_says_the_same_in_python_and_in_sql(database, size):
    choose = random.Random(size)
    hashes, others = ([choose.getrandbits(64) - 2**63 for _ in range(count)] for count in (size, 1000))
    hashes[: size // 3] = [0, -1, 2**63 - 1, -(2**63)][: size // 3]
    ask = "select count(*) from unnest(%s::bigint[]) as hash where _promscale.may_have_attribute(%s, hash)"
    filter = attribute_filter(hashes)
    assert database.execute(ask, [hashes, filter]).fetchone() == (len(hashes),)
    # At least 12 bits an attribute and six probes: less than one in 250 by chance.
    assert database.execute(ask, [others, filter]).fetchone()[0] < 30


def test_too_many_attributes_make_no_filter(database):
    filter = attribute_filter([0] * 500_001)
    assert filter is None
    assert database.execute("select _promscale.may_have_attribute(%s::bytea, 1)", [filter]).fetchone() == (True,)


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("100", "1e2"), ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}')])
def test_values_that_are_equal_have_one_hash(database, one, other):
    hashes = "select _promscale.attribute_hash('k', %s::jsonb) = _promscale.attribute_hash('k', %s::jsonb)"
    assert database.execute(hashes, [one, other]).fetchone() == (True,)
