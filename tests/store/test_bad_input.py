"""Unusual input is stored as far as PostgreSQL can; invalid input is refused with a reason, and alone."""

import random

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale import server, store
from promscale import wire_pb2 as wire
from promscale.otlp import MalformedRequest, read_exports
from tests.store.otlp_messages import HOSTILE_TEXT, attributes, request, span
from tests.store.searching import found_trace_ids, spans_of, traces_request
from tests.store.store_contents import close_all, hours_ago

UNKNOWN_FIELD = b"\xaa\x06\x03abc"  # number 101, which OTLP does not use


def stored_names(database) -> set[str]:
    return {name for (name,) in database.execute("select span_name from ps_trace.span")}


def stored(database, column: str):
    """The column's value in the only stored span."""
    [(value,)] = database.execute(f"select {column} from ps_trace.span").fetchall()
    return value


def test_bytes_that_are_not_protobuf(promscale, database):
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(b"\xff\xff\xff\xff not protobuf")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportTraceServiceRequest" in caught.value.details()
    promscale.export(request(span("afterwards")))
    assert stored_names(database) == {"afterwards"}


def test_an_empty_request_is_accepted(promscale):
    assert not promscale.export(b"").HasField("partial_success")


def test_no_resource_and_no_service_name(promscale, database):
    message = ExportTraceServiceRequest()
    message.resource_spans.add().scope_spans.add(spans=[span("no resource")])
    no_name = message.resource_spans.add()
    no_name.resource.attributes.extend(attributes({"host.name": "h"}))
    no_name.scope_spans.add(spans=[span("no service.name")])
    promscale.export(message)
    rows = database.execute("select span_name, service_name, resource_tags from ps_trace.span order by 1").fetchall()
    assert rows == [
        ("no resource", "unknown_service", {}),
        ("no service.name", "unknown_service", {"host.name": "h"}),
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": bytes(16)}, "trace_id is all zero"),
        ({"span_id": bytes(8)}, "span_id is all zero"),
        ({"trace_id": b""}, "trace_id has 0 bytes instead of 16"),
        ({"trace_id": b"short"}, "trace_id has 5 bytes instead of 16"),
        ({"trace_id": b"x" * 17}, "trace_id has 17 bytes instead of 16"),
        ({"span_id": b"x" * 16}, "span_id has 16 bytes instead of 8"),
        ({"parent_span_id": b"x" * 7}, "parent_span_id has 7 bytes instead of 8"),
    ],
)
def test_a_span_with_an_invalid_id_is_refused_alone(promscale, database, fields, reason):
    answer = promscale.export(request(span("good 1"), span("bad one", **fields), span("good 2")))
    assert answer.partial_success.rejected_spans == 1
    assert reason in answer.partial_success.error_message
    assert "bad one" in answer.partial_success.error_message
    assert stored_names(database) == {"good 1", "good 2"}


def test_a_parent_span_id_of_eight_zero_bytes_is_no_parent(promscale, database):
    promscale.export(request(span(parent_span_id=bytes(8))))
    assert stored(database, "is_root_span") is True


def test_a_span_that_is_not_protobuf_is_refused_alone(promscale, database):
    # The request is well-formed: the field of the span has garbage.
    message = request(span("good"), Span(trace_id=b"\xee" * 30))
    good_and_garbage = message.SerializeToString().replace(b"\x0a\x1e" + b"\xee" * 30, b"\x0a\x7e" + b"\xee" * 30)
    answer = promscale.export(good_and_garbage)
    assert answer.partial_success.rejected_spans == 1
    assert "not an OTLP Span" in answer.partial_success.error_message
    assert stored_names(database) == {"good"}


def test_all_refusals_are_counted_and_the_first_ones_explained(promscale):
    answer = promscale.export(request(*(span(f"bad {n}", trace_id=b"") for n in range(100))))
    assert answer.partial_success.rejected_spans == 100
    assert "and 90 more" in answer.partial_success.error_message


def test_end_before_start(promscale, database):
    promscale.export(request(span(start_time_unix_nano=2_000_000_000, end_time_unix_nano=1_000_000_000)))
    assert stored(database, "duration_ms") == -1000
    assert stored(database, "end_time < start_time") is True
    assert stored(database, "isempty(time_range)") is False


@pytest.mark.parametrize(
    ("nanos", "year"), [(0, 1970), (1, 1970), (86_400_000_000_000, 1970), (2**63, 2262), (2**64 - 1, 2554)]
)
def test_the_earliest_and_latest_times_of_otlp(promscale, database, nanos, year):
    # OTLP's 64-bit nanoseconds end in the year 2554, within the range of timestamptz.
    event = Span.Event(time_unix_nano=nanos, name="then")
    promscale.export(request(span(start_time_unix_nano=nanos, end_time_unix_nano=nanos, events=[event])))
    years = "extract(year from {} at time zone 'UTC')"
    assert stored(database, years.format("start_time")) == year
    assert stored(database, years.format("upper(event_time)")) == year


def test_nul_and_control_characters_everywhere(promscale, database):
    message = request(
        span(
            HOSTILE_TEXT,
            {HOSTILE_TEXT: HOSTILE_TEXT, "list": [HOSTILE_TEXT, {HOSTILE_TEXT: HOSTILE_TEXT}]},
            trace_state=HOSTILE_TEXT,
            status={"message": HOSTILE_TEXT, "code": 2},
            events=[Span.Event(name=HOSTILE_TEXT, attributes=attributes({HOSTILE_TEXT: HOSTILE_TEXT}))],
            links=[
                Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8, attributes=attributes({HOSTILE_TEXT: HOSTILE_TEXT}))
            ],
        ),
        span("good"),
        service=HOSTILE_TEXT,
    )
    message.resource_spans[0].scope_spans[0].scope.name = HOSTILE_TEXT
    message.resource_spans[0].schema_url = HOSTILE_TEXT
    assert not promscale.export(message).HasField("partial_success")
    shown = HOSTILE_TEXT.replace("\0", "\ufffd")
    [row] = database.execute(
        """
        select service_name, span_name, trace_state, status_message, instrumentation_lib_name, resource_schema_url,
            span_tags, resource_tags
        from ps_trace.span where span_name <> 'good'
        """
    ).fetchall()
    assert row[:6] == (shown,) * 6
    assert row[6] == {shown: shown, "list": [shown, {shown: shown}]}
    assert row[7] == {"service.name": shown}
    [event] = database.execute("select event_name, event_tags from ps_trace.event").fetchall()
    assert event == (shown, {shown: shown})
    [link] = database.execute("select link_tags, linked_span_id from ps_trace.link").fetchall()
    assert link == ({shown: shown}, None)


INVALID_UTF8 = [b"\xff", b"\xc3", b"\xed\xa0\x80"]  # never valid; truncated; a lone surrogate


@pytest.mark.parametrize("invalid", INVALID_UTF8)
@pytest.mark.parametrize("place", ["name", "key", "value", "trace_state", "event", "status", "link"])
def test_a_span_with_invalid_utf8_is_refused_alone(promscale, database, invalid, place):
    marker = "@" * len(invalid)
    bad = {
        "name": lambda: span(marker),
        "key": lambda: span("bad", {marker: "v"}),
        "value": lambda: span("bad", {"k": marker}),
        "trace_state": lambda: span("bad", trace_state=marker),
        "event": lambda: span("bad", events=[Span.Event(name=marker)]),
        "status": lambda: span("bad", status={"message": marker}),
        "link": lambda: span("bad", links=[Span.Link(trace_state=marker)]),
    }[place]()
    # Python's protobuf refuses to write invalid UTF-8: replace a marker. Random ids could contain the marker.
    bad.trace_id, bad.span_id = b"t" * 16, b"s" * 8
    data = request(bad, span("good", trace_id=b"g" * 16, span_id=b"h" * 8)).SerializeToString()
    answer = promscale.export(data.replace(marker.encode(), invalid))
    assert answer.partial_success.rejected_spans == 1
    assert "UTF-8" in answer.partial_success.error_message
    assert stored_names(database) == {"good"}


def test_an_invalid_resource_refuses_only_its_own_spans(promscale, database):
    message = request(span("lost 1"), span("lost 2"), service="@@@")
    message.MergeFrom(request(span("good")))
    answer = promscale.export(message.SerializeToString().replace(b"@@@", b"\xff\xff\xff"))
    assert answer.partial_success.rejected_spans == 2
    assert "resource" in answer.partial_success.error_message
    assert stored_names(database) == {"good"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (b"\x00\xff", "AP8="),
        (None, None),
        ([], []),
        ({}, {}),
        ([1, "a", [2.5, None], {"k": [True]}], [1, "a", [2.5, None], {"k": [True]}]),
    ],
)
def test_extreme_attribute_values(promscale, database, value, shown):
    promscale.export(request(span(tags={"k": value})))
    assert stored(database, "span_tags") == {"k": shown}


@pytest.mark.parametrize("value", [1.7976931348623157e308, 5e-324, -0.1, 1e22])
def test_doubles_keep_their_value(promscale, database, value):
    promscale.export(request(span(tags={"k": value})))
    assert stored(database, "cast(span_tags -> 'k' as double precision)") == value


def test_an_attribute_of_a_megabyte(promscale, database):
    promscale.export(request(span(tags={"big": "x" * 2**20, "k" * 2**20: 1})))
    assert stored(database, "length(span_tags ->> 'big')") == 2**20


def test_a_name_of_a_megabyte(promscale, database):
    """SQL shows its first 1,000 bytes; Jaeger reads it in full."""
    sent = span("\u00e9" * 2**19)
    promscale.export(request(sent, service="s" * 2**20))
    assert stored(database, "array[span_name, service_name]") == ["\u00e9" * 500, "s" * 1000]
    assert spans_of(*promscale.read("GetTraces", traces_request(sent.trace_id))) == [sent]
    assert found_trace_ids(promscale, service_name=b"s" * 2**20, operation_name=sent.name.encode()) == [sent.trace_id]


def test_five_thousand_attributes_and_events(promscale, database):
    events = [Span.Event(name=f"event {n}", time_unix_nano=n * 1000) for n in range(5000)]
    promscale.export(request(span(tags={f"key {n}": n for n in range(5000)}, events=events)))
    assert stored(database, "(select count(*) from jsonb_object_keys(span_tags))") == 5000
    names = [name for (name,) in database.execute("select event_name from ps_trace.event order by time")]
    assert names == [f"event {n}" for n in range(5000)]


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field in protobuf's wire format."""
    length, rest = b"", len(data)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + data


def test_a_span_with_deep_nesting_is_refused_alone(promscale, database):
    # Arrays in arrays, 200 levels deep: Python's protobuf would not write this.
    value = b""
    for _ in range(200):
        value = field(5, field(1, value))
    bad = span("deep").SerializeToString() + field(9, field(1, b"key") + field(2, value))
    message = ExportTraceServiceRequest()
    message.resource_spans.add().scope_spans.add(spans=[span("good")])
    scope_spans = message.resource_spans[0].scope_spans[0].SerializeToString() + field(2, bad)
    answer = promscale.export(field(1, field(2, scope_spans)))
    assert answer.partial_success.rejected_spans == 1
    assert "nested too deep" in answer.partial_success.error_message
    assert stored_names(database) == {"good"}


def test_unknown_enum_values(promscale, database):
    data = request(span(kind=5, status={"code": 2})).SerializeToString()
    assert b"\x30\x05" in data and b"\x18\x02" in data
    promscale.export(data.replace(b"\x30\x05", b"\x30\x63").replace(b"\x18\x02", b"\x18\x63"))
    assert stored(database, "span_kind::text") == "unspecified"
    assert stored(database, "status_code::text") == "unset"


def test_counts_beyond_int(promscale, database):
    promscale.export(request(span(dropped_attributes_count=2**32 - 1, dropped_events_count=3)))
    assert stored(database, "dropped_tags_count") == 2**31 - 1
    assert stored(database, "dropped_events_count") == 3


def test_the_answer_to_a_too_large_request_names_the_limit(promscale, database):
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(bytes(store.MAX_REQUEST_BYTES + 1))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "the request has 16,777,217 bytes; the limit is 16,777,216" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(bytes(server.MAX_RECEIVED_BYTES + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    promscale.export(request(span("afterwards")))
    assert stored_names(database) == {"afterwards"}


def test_a_span_that_only_postgresql_rejects_is_refused_alone(promscale, database):
    # promscale knows of no such value; a check constraint stands for one that it does not know.
    database.execute("alter table _promscale.span add check (span_tags <> '{\"odd\": 1}')")
    spans = [span(f"good {n}") for n in range(20)] + [span("odd", {"odd": 1})] + [span(f"fine {n}") for n in range(20)]
    answer = promscale.export(request(*spans))
    assert answer.partial_success.rejected_spans == 1
    assert "'odd'" in answer.partial_success.error_message
    assert len(stored_names(database)) == 40


def test_corrupted_requests_are_read_or_refused():
    good = request(span(tags={"a": 1, "b": "two"}, events=[Span.Event(name="e")])).SerializeToString()
    choose = random.Random(1)
    for n in range(2000):
        corrupted = bytearray(good)
        for _ in range(1 + n % 5):
            corrupted[choose.randrange(len(corrupted))] = choose.randrange(256)
        try:
            [export] = read_exports(bytes(corrupted))
        except MalformedRequest:
            continue
        assert len(export.spans) + export.refusals.count <= 2


def test_unknown_fields_around_spans_are_kept(promscale, upkeep, database):
    """A later OTLP may have them. They are kept when the partition is closed, too."""
    kept = span("kept", start_time_unix_nano=hours_ago(3))
    message = wire.TracesData.FromString(request(kept).SerializeToString())
    message.resource_spans[0].MergeFromString(UNKNOWN_FIELD)
    message.resource_spans[0].scope_spans[0].MergeFromString(UNKNOWN_FIELD)
    promscale.export(message.SerializeToString())
    for _ in range(2):
        [chunk] = promscale.read("GetTraces", traces_request(kept.trace_id))
        assert wire.TracesData.FromString(chunk.SerializeToString()) == message
        close_all(upkeep, database)


def test_spans_in_the_format_before_otlp_0_15_are_stored(promscale, database):
    message = wire.TracesData.FromString(request(span("early")).SerializeToString())
    resource_spans = message.resource_spans[0]
    resource_spans.instrumentation_library_spans.extend(resource_spans.scope_spans)
    resource_spans.ClearField("scope_spans")
    promscale.export(message.SerializeToString())
    assert database.execute("select service_name, span_name from span").fetchall() == [("shop", "early")]
