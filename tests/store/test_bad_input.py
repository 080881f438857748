"""Bad input costs only itself: it is stored as faithfully as PostgreSQL can, or refused by name."""

import os

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale import jaeger_pb2 as messages
from promscale import server
from promscale import wire_pb2 as wire
from promscale.otlp import MalformedRequest, read_exports
from tests.store.otlp_messages import attributes, request, span
from tests.store.whole_store import close_all, hours_ago

LATER = b"\xaa\x06\x03abc"  # field 101, which no OTLP has


def stored_names(database) -> set[str]:
    return {name for (name,) in database.execute("select span_name from ps_trace.span")}


def stored(database, column: str):
    """The column's value of the one span that is stored."""
    [(value,)] = database.execute(f"select {column} from ps_trace.span").fetchall()
    return value


def test_bytes_that_are_no_protobuf(promscale, database):
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
def test_a_wrong_id_is_refused_by_name_and_alone(promscale, database, fields, reason):
    answer = promscale.export(request(span("good 1"), span("bad one", **fields), span("good 2")))
    assert answer.partial_success.rejected_spans == 1
    assert reason in answer.partial_success.error_message
    assert "bad one" in answer.partial_success.error_message
    assert stored_names(database) == {"good 1", "good 2"}


def test_a_parent_of_eight_zeros_is_no_parent(promscale, database):
    promscale.export(request(span(parent_span_id=bytes(8))))
    assert stored(database, "is_root_span") is True


def test_a_span_that_is_no_protobuf_costs_only_itself(promscale, database):
    # The request around it is well-formed: a field of the right kind with garbage in it.
    message = request(span("good"), Span(trace_id=b"\xee" * 30))
    good_and_garbage = message.SerializeToString().replace(b"\x0a\x1e" + b"\xee" * 30, b"\x0a\x7e" + b"\xee" * 30)
    answer = promscale.export(good_and_garbage)
    assert answer.partial_success.rejected_spans == 1
    assert "not an OTLP Span" in answer.partial_success.error_message
    assert stored_names(database) == {"good"}


def test_many_refusals_are_counted_and_some_named(promscale):
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
def test_times_at_the_ends_of_what_otlp_can_say(promscale, database, nanos, year):
    # OTLP counts nanoseconds in 64 bits, which ends in 2554: timestamptz holds all of it.
    event = Span.Event(time_unix_nano=nanos, name="then")
    promscale.export(request(span(start_time_unix_nano=nanos, end_time_unix_nano=nanos, events=[event])))
    years = "extract(year from {} at time zone 'UTC')"
    assert stored(database, years.format("start_time")) == year
    assert stored(database, years.format("upper(event_time)")) == year


NASTY = "a\0b\x01c\x1fd\x7f\u2028'\"\\{}%s $1 <script> \U0001f600"


def test_nul_and_control_characters_everywhere(promscale, database):
    message = request(
        span(
            NASTY,
            {NASTY: NASTY, "list": [NASTY, {NASTY: NASTY}]},
            trace_state=NASTY,
            status={"message": NASTY, "code": 2},
            events=[Span.Event(name=NASTY, attributes=attributes({NASTY: NASTY}))],
            links=[Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8, attributes=attributes({NASTY: NASTY}))],
        ),
        span("good"),
        service=NASTY,
    )
    message.resource_spans[0].scope_spans[0].scope.name = NASTY
    message.resource_spans[0].schema_url = NASTY
    assert not promscale.export(message).HasField("partial_success")
    shown = NASTY.replace("\0", "\ufffd")
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


INVALID_UTF8 = [b"\xff", b"\xc3", b"\xed\xa0\x80"]  # never valid; cut short; a lone surrogate


@pytest.mark.parametrize("invalid", INVALID_UTF8)
@pytest.mark.parametrize("place", ["name", "key", "value", "trace_state", "event", "status", "link"])
def test_invalid_utf8_is_refused_alone(promscale, database, invalid, place):
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
    # Python's protobuf writes no invalid text, so it is put in afterwards; ids must not hold the marker.
    bad.trace_id, bad.span_id = b"t" * 16, b"s" * 8
    data = request(bad, span("good", trace_id=b"g" * 16, span_id=b"h" * 8)).SerializeToString()
    answer = promscale.export(data.replace(marker.encode(), invalid))
    assert answer.partial_success.rejected_spans == 1
    assert "UTF-8" in answer.partial_success.error_message
    assert stored_names(database) == {"good"}


def test_an_invalid_resource_refuses_its_own_spans(promscale, database):
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
def test_attribute_values_at_their_ends(promscale, database, value, shown):
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
    """SQL has its first thousand bytes; what is read back has all."""
    sent = span("\u00e9" * 2**19)
    promscale.export(request(sent, service="s" * 2**20))
    assert stored(database, "array[span_name, service_name]") == ["\u00e9" * 500, "s" * 1000]
    query = messages.GetTracesRequest(query=[messages.GetTraceParams(trace_id=sent.trace_id)])
    (answer,) = promscale.read("GetTraces", query)
    assert answer.resource_spans[0].scope_spans[0].spans[0] == sent
    wanted = messages.TraceQueryParameters(service_name=b"s" * 2**20, operation_name=sent.name.encode())
    (found,) = promscale.read("FindTraceIDs", messages.FindTraceIDsRequest(query=wanted))
    assert [trace.trace_id for trace in found.trace_ids] == [sent.trace_id]


def test_five_thousand_attributes_and_events(promscale, database):
    events = [Span.Event(name=f"event {n}", time_unix_nano=n * 1000) for n in range(5000)]
    promscale.export(request(span(tags={f"key {n}": n for n in range(5000)}, events=events)))
    assert stored(database, "(select count(*) from jsonb_object_keys(span_tags))") == 5000
    names = [name for (name,) in database.execute("select event_name from ps_trace.event order by time")]
    assert names == [f"event {n}" for n in range(5000)]


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field on the wire."""
    length, rest = b"", len(data)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + data


def test_deep_nesting_is_refused_alone(promscale, database):
    # An array in an array in an array: more than Python's protobuf would write.
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


def test_a_message_over_the_size_limit_names_it(promscale, database):
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(bytes(server.MAX_REQUEST_BYTES + 1))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "the request has 16,777,217 bytes; the limit is 16,777,216" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(bytes(server.MAX_RECEIVED_BYTES + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    promscale.export(request(span("afterwards")))
    assert stored_names(database) == {"afterwards"}


def test_a_value_that_only_postgres_refuses_costs_only_its_span(promscale, database):
    # Today's rules leave PostgreSQL nothing to refuse; a rule of the user's own stands in for one that was missed.
    database.execute("alter table _promscale.span add check (span_tags <> '{\"odd\": 1}')")
    spans = [span(f"good {n}") for n in range(20)] + [span("odd", {"odd": 1})] + [span(f"fine {n}") for n in range(20)]
    answer = promscale.export(request(*spans))
    assert answer.partial_success.rejected_spans == 1
    assert "'odd'" in answer.partial_success.error_message
    assert len(stored_names(database)) == 40


def test_random_bytes_never_break_the_reader():
    good = request(span(tags={"a": 1, "b": "two"}, events=[Span.Event(name="e")])).SerializeToString()
    for n in range(2000):
        noise = bytearray(good)
        for _ in range(1 + n % 5):
            noise[int.from_bytes(os.urandom(2)) % len(noise)] = os.urandom(1)[0]
        try:
            [export] = read_exports(bytes(noise))
        except MalformedRequest:
            continue
        assert len(export.spans) + export.refusals.count <= 2


def test_fields_of_a_later_otlp_are_kept(promscale, upkeep, database):
    """Around spans, too; also when the partition is closed."""
    kept = span("kept", start_time_unix_nano=hours_ago(3))
    message = wire.TracesData.FromString(request(kept).SerializeToString())
    message.resource_spans[0].MergeFromString(LATER)
    message.resource_spans[0].scope_spans[0].MergeFromString(LATER)
    promscale.export(message.SerializeToString())
    query = messages.GetTracesRequest(query=[messages.GetTraceParams(trace_id=kept.trace_id)])
    for _ in range(2):
        [found] = promscale.read("GetTraces", query)
        assert wire.TracesData.FromString(found.SerializeToString()) == message
        close_all(upkeep, database)


def test_spans_of_an_earlier_otlp_are_stored(promscale, database):
    message = wire.TracesData.FromString(request(span("early")).SerializeToString())
    resource_spans = message.resource_spans[0]
    resource_spans.instrumentation_library_spans.extend(resource_spans.scope_spans)
    resource_spans.ClearField("scope_spans")
    promscale.export(message.SerializeToString())
    assert database.execute("select service_name, span_name from span").fetchall() == [("shop", "early")]
