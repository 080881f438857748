"""Attributes that most spans of an origin have are stored once, from a span's arrival on; nobody sees a difference."""

import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.store.otlp_messages import SECOND, attributes, child, request, span
from tests.store.running import value_of
from tests.store.searching import found_trace_ids
from tests.store.store_contents import contents

USUAL = {
    "method": "GET",
    "ok": True,
    "status": 200,
    "ratio": 0.5,
    "size": 1e22,
    "quote\n\0": 'a"\u00fc\0',
    "none": None,
}
WITH_TAG_SET = "select count(*) from _promscale.span where tag_set_id is not null"
# Attributes of spans, as pairs because of repeated keys, and whether such a span gets the tag set of USUAL.
CASES = {
    "the same": (list(USUAL.items()), True),
    "another order": (list(reversed(USUAL.items())), True),
    "one more": ([("port", 1), *USUAL.items(), ("peer", [1, 2])], True),
    "another value": (list((USUAL | {"status": 404}).items()), False),
    "the same number of another type": (list((USUAL | {"status": 200.0}).items()), False),
    "one less": (list(USUAL.items())[1:], False),
    "a key twice": ([*USUAL.items(), ("status", 500)], False),
    "a key twice, the usual value last": ([("status", 500), *USUAL.items()], False),
    "an attribute twice": ([*USUAL.items(), ("status", 200)], False),
    "two of one instead of another": ([*list(USUAL.items())[1:], ("status", 200)], False),
    "none": ([], False),
}


def usual(number: int, **tags: object) -> list[Span]:
    """Spans with the attributes USUAL, some replaced by `tags`, old enough for the choice of tag sets."""
    start = time.time_ns() - 5 * SECOND
    return [span(tags=USUAL | tags, start_time_unix_nano=start) for _ in range(number)]


def pairs(values: list[tuple[str, object]]) -> list:
    return [attribute for key, value in values for attribute in attributes({key: value})]


@pytest.fixture
def learned(promscale, upkeep):
    """A store whose promscale uses a tag set of USUAL for new spans of the operation "work"."""
    promscale.export(request(*usual(20)))
    upkeep.choose_tag_sets()
    promscale.export(request(span("another")))  # whose COMMIT tells promscale that there are tag sets
    return promscale


def test_any_attributes_are_shown_as_they_came(learned, upkeep, database):
    before = value_of(database, WITH_TAG_SET)
    for values, expected in CASES.values():
        sent = Span(trace_id=span().trace_id, span_id=b"12345678", name="work", start_time_unix_nano=time.time_ns())
        sent.attributes.extend(pairs(values))
        learned.export(request(sent))
        tags = value_of(
            database, "select span_tags from ps_trace.span where trace_id = encode(%s, 'hex')::uuid", [sent.trace_id]
        )
        assert tags == {key.replace("\0", "\ufffd"): shown(value) for key, value in values}
        with_tag_set = value_of(database, WITH_TAG_SET)
        assert with_tag_set - before == expected
        before = with_tag_set
    contents(learned, database)  # asserts that the OTLP bytes are complete


def shown(value: object) -> object:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def test_attributes_in_tag_sets_are_found(learned, upkeep, database):
    root = span(tags=USUAL | {"port": 7})
    learned.export(request(root, child(root, tags=USUAL)))
    assert value_of(database, WITH_TAG_SET) == 2
    for summarised in (False, True):
        if summarised:
            upkeep.summarise(quiet_seconds=0)
        for tags in ({"status": "200"}, {"status": "200", "port": "7"}):
            assert root.trace_id in found_trace_ids(learned, attributes=tags)
        assert not found_trace_ids(learned, attributes={"status": "404"})


def test_large_attributes_stay_in_their_spans(learned, upkeep, database):
    """Because the encoder keeps the tag sets in memory."""
    learned.export(request(*usual(1000, text="x" * 5000)))
    upkeep.choose_tag_sets()
    learned.export(request(span("another")))
    before = value_of(database, WITH_TAG_SET)
    learned.export(request(*usual(1, text="x" * 5000)))
    assert value_of(database, WITH_TAG_SET) == before


def test_the_usual_attributes_change(learned, upkeep, database):
    tag_sets = "select tags ->> 'method' from _promscale.tag_set where current"
    for method in ("PUT", "GET"):
        learned.export(request(*usual(5000, method=method)))
        upkeep.choose_tag_sets()
        assert database.execute(tag_sets).fetchall() == [(method,)]
    assert value_of(database, "select count(*) from _promscale.tag_set") == 2


def test_a_tag_set_that_was_deleted_is_not_used(learned, database):
    learned.export(request(span(tags=USUAL)))
    assert value_of(database, WITH_TAG_SET) == 1
    database.execute("select ps_trace.delete_all_traces()")
    for _ in range(2):
        assert not learned.export(request(span(tags=USUAL))).HasField("partial_success")
    assert value_of(database, WITH_TAG_SET) == 0
    assert database.execute("select span_tags ->> 'method' from ps_trace.span").fetchall() == [("GET",)] * 2


def test_unused_tag_sets_are_deleted(learned, upkeep, database):
    learned.export(request(*usual(10)))
    learned.export(request(*usual(5000, method="PUT")))
    upkeep.choose_tag_sets()
    learned.export(request(span("another")))
    learned.export(request(*usual(10, method="PUT")))
    for summarised in (False, True):
        if summarised:
            upkeep.summarise(quiet_seconds=0)
        before = contents(learned, database)
        database.execute("select _promscale.delete_unused_origins()")
        assert contents(learned, database) == before
    assert value_of(database, "select count(*) from _promscale.tag_set") == 2
    database.execute("select _promscale.drop_partition(starts_at) from _promscale.partition")
    database.execute("select _promscale.delete_unused_origins()")
    assert value_of(database, "select count(*) from _promscale.tag_set") == 0
