"""Each method of Jaeger's remote storage protocol, over gRPC and on a real PostgreSQL."""

import os
import time
from collections.abc import Callable
from contextlib import closing

import grpc
import psycopg
import pytest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from promscale import jaeger
from promscale import jaeger_pb2 as messages
from tests.store.otlp_messages import SECOND, add_service, attributes, child, request, span
from tests.store.running import Promscale, value_of
from tests.store.searching import found_trace_ids, search_request, spans_of, trace_id_of, traces_request
from tests.waiting import wait_until

SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
NOON = 1_767_268_800 * SECOND  # 2026-01-01 12:00 UTC


# Traces -----------------------------------------------------------------------------------------------------------


def test_a_trace_has_the_spans_of_all_its_exports_and_no_others(promscale):
    root = span("root")
    one, other = child(root, "one"), child(root, "other")
    promscale.export(request(root, span("of another trace")))
    promscale.export(request(one, service="till"))
    promscale.export(request(other))
    chunks = promscale.read("GetTraces", traces_request(root.trace_id))
    assert {trace_id_of(chunk) for chunk in chunks} == {root.trace_id}
    assert sorted(span.name for span in spans_of(*chunks)) == ["one", "other", "root"]


def test_unknown_traces_are_left_out(promscale):
    known = span()
    promscale.export(request(known))
    unknown = os.urandom(16)
    assert promscale.read("GetTraces", traces_request(unknown)) == []
    assert promscale.read("GetTraces", traces_request()) == []
    chunks = promscale.read("GetTraces", traces_request(unknown, known.trace_id, bytes(16), known.trace_id))
    assert spans_of(*chunks) == [known]


def test_the_time_range_of_get_traces_is_only_a_hint(promscale):
    stored = span(start_time_unix_nano=NOON)
    promscale.export(request(stored))
    later = messages.Timestamp(seconds=NOON // SECOND + 3600)
    hinted = messages.GetTraceParams(trace_id=stored.trace_id, start_time=later, end_time=later)
    assert spans_of(*promscale.read("GetTraces", messages.GetTracesRequest(query=[hinted]))) == [stored]


def test_a_large_trace_comes_in_chunks(promscale):
    root = span("root")
    children = [child(root, f"child {number}", tags={"text": "x" * 50}) for number in range(20_000)]
    promscale.export(request(root, *children[:10_000]))
    promscale.export(request(*children[10_000:]))
    chunks = promscale.read("GetTraces", traces_request(root.trace_id))
    assert len(chunks) > 1
    assert max(chunk.ByteSize() for chunk in chunks) <= 2 * jaeger.CHUNK_BYTES
    assert {span.span_id for span in spans_of(*chunks)} == {span.span_id for span in [root, *children]}
    assert len(spans_of(*chunks)) == 20_001


def test_a_client_that_disconnects_cancels_the_statement(promscale, database):
    """Even a statement that waits for a lock, here one that the test holds."""
    active = "select count(*) from pg_stat_activity where application_name = 'promscale-jaeger' and state = 'active'"
    with psycopg.connect(promscale.dsn) as holder:
        holder.execute("lock table _promscale.span in access exclusive mode")
        call = promscale.reading("FindTraces", search_request())
        wait_until(lambda: value_of(database, active) == 1, "the statement")
        call.cancel()
        wait_until(lambda: value_of(database, active) == 0, "the statement's end")
    assert found_trace_ids(promscale) == []


# Services and operations ---------------------------------------------------------------------------------------------


def test_services_and_operations(promscale):
    promscale.export(request(span("GET /", kind=SERVER), span("GET /", kind=CLIENT), span("work"), service="shop"))
    promscale.export(request(span("pay", kind=SERVER), service="till"))
    (services,) = promscale.read("GetServices", messages.GetServicesRequest())
    assert list(services.services) == ["shop", "till"]
    assert operations(promscale, b"shop") == [("GET /", "client"), ("GET /", "server"), ("work", "")]
    assert operations(promscale, b"shop", b"server") == [("GET /", "server")]
    assert operations(promscale, b"shop", b"producer") == []
    assert operations(promscale, b"nobody") == []


def operations(promscale, service: bytes, kind: bytes = b"") -> list[tuple[str, str]]:
    (answer,) = promscale.read("GetOperations", messages.GetOperationsRequest(service=service, span_kind=kind))
    return [(operation.name, operation.span_kind) for operation in answer.operations]


def test_an_empty_store(promscale):
    assert promscale.read("GetServices", b"") == [messages.GetServicesResponse()]
    assert promscale.read("GetDependencies", b"") == [messages.GetDependenciesResponse()]
    assert found_trace_ids(promscale) == []


# Searches ------------------------------------------------------------------------------------------------------------


def test_search_by_service_and_operation(promscale):
    one, other = span("GET /"), span("GET /")
    promscale.export(request(one, service="shop"))
    promscale.export(request(other, service="till"))
    assert found_trace_ids(promscale, service_name=b"shop") == [one.trace_id]
    assert found_trace_ids(promscale, service_name=b"shop", operation_name=b"pay") == []
    assert set(found_trace_ids(promscale, operation_name=b"GET /")) == {one.trace_id, other.trace_id}


def test_search_by_time(promscale):
    traces = [span(start_time_unix_nano=NOON + number * SECOND) for number in range(5)]
    promscale.export(request(*traces))
    ids = [trace.trace_id for trace in traces]
    assert found_trace_ids(promscale) == ids[::-1]
    assert found_trace_ids(promscale, start_time_min=NOON + 2 * SECOND) == [ids[4], ids[3], ids[2]]
    assert found_trace_ids(promscale, start_time_max=NOON + 1 * SECOND) == [ids[1], ids[0]]
    assert found_trace_ids(promscale, start_time_min=NOON + SECOND, start_time_max=NOON + 2 * SECOND) == [
        ids[2],
        ids[1],
    ]
    assert found_trace_ids(promscale, search_depth=2) == [ids[4], ids[3]]
    (answer,) = promscale.read("FindTraceIDs", search_request(search_depth=1))
    assert (answer.trace_ids[0].start.seconds, answer.trace_ids[0].start.nanos) == (NOON // SECOND + 4, 0)
    assert (answer.trace_ids[0].end.seconds, answer.trace_ids[0].end.nanos) == (NOON // SECOND + 4, 1_000_000)


def test_search_by_duration(promscale):
    traces = [
        span(start_time_unix_nano=NOON + number, end_time_unix_nano=NOON + number + duration)
        for number, duration in enumerate([999_999, 1_000_000, 1_000_001])
    ]
    promscale.export(request(*traces))
    ids = [trace.trace_id for trace in traces]
    assert set(found_trace_ids(promscale, duration_min=1_000_000)) == {ids[1], ids[2]}
    assert set(found_trace_ids(promscale, duration_max=1_000_000)) == {ids[0], ids[1]}
    assert found_trace_ids(promscale, duration_min=1_000_001, duration_max=1_000_001) == [ids[2]]


@pytest.fixture
def searched(promscale):
    """A stored span with attributes in every place that OTLP has; a second stored span has none of them."""
    stored = span(
        tags={"text": "red", "int": 123, "double": 72.5, "bool": True, "digits": "123", "list": [1, 2]},
        kind=SERVER,
        status=Status(code=Status.STATUS_CODE_ERROR, message="no such item"),
        events=[Span.Event(name="first"), Span.Event(name="second", attributes=attributes({"event.key": "in event"}))],
        links=[
            Span.Link(trace_id=os.urandom(16), span_id=os.urandom(8), attributes=attributes({"link.key": "in link"}))
        ],
    )
    message = request(stored)
    resource_spans = message.resource_spans[0]
    resource_spans.resource.attributes.extend(attributes({"resource.key": "in resource"}))
    scope = InstrumentationScope(name="library", version="1.2", attributes=attributes({"scope.key": "in scope"}))
    resource_spans.scope_spans[0].scope.CopyFrom(scope)
    promscale.export(message)
    promscale.export(request(span(tags={"text": "blue", "int": 124})))
    return stored


@pytest.mark.parametrize(
    "wanted",
    [
        {"text": "red"},
        {"int": "123"},
        {"int": 123},
        {"double": "72.5"},
        {"double": 72.5},
        {"bool": "true"},
        {"bool": True},
        {"digits": "123"},
        {"list": [1, 2]},
        {"event.key": "in event"},
        {"link.key": "in link"},
        {"resource.key": "in resource"},
        {"service.name": "shop", "resource.key": "in resource"},
        {"scope.key": "in scope"},
        {"text": "red", "event.key": "in event", "scope.key": "in scope", "int": "123"},
        {"error": "true"},
        {"span.kind": "server"},
        {"otel.status_code": "ERROR"},
        {"otel.status_description": "no such item"},
        {"otel.scope.name": "library"},
        {"otel.scope.version": "1.2"},
    ],
    ids=str,
)
def test_search_by_attribute(promscale, searched, wanted):
    assert found_trace_ids(promscale, attributes=wanted) == [searched.trace_id]
    assert found_trace_ids(promscale, attributes=wanted, service_name=b"shop") == [searched.trace_id]


@pytest.mark.parametrize(
    "wanted",
    [
        {"text": "green"},
        {"text": ""},
        {"digits": 123},
        {"int": 123.5},
        {"bool": "false"},
        {"list": [1]},
        {"list": [2, 1]},
        {"nothing": "red"},
        {"event.key": "in link"},
        {"text": "red", "int": "124"},
        {"resource.key": "red"},
        {"otel.scope.name": "1.2"},
        {"te\0xt": "red"},
        {"text": "re\0d"},
        {"text": "x" * 2**20},
        {"text'; drop table span; --": "{} %s %(key)s"},
    ],
    ids=lambda wanted: str(wanted)[:40],
)
def test_a_search_by_attribute_without_a_match(promscale, searched, wanted):
    assert found_trace_ids(promscale, attributes=wanted) == []


def test_one_span_must_fulfil_all_conditions(promscale):
    root = span("root", tags={"a": 1})
    promscale.export(request(root, child(root, "child", tags={"b": 2})))
    assert found_trace_ids(promscale, attributes={"a": "1", "b": "2"}) == []
    assert found_trace_ids(promscale, attributes={"a": "1"}, operation_name=b"child") == []
    assert found_trace_ids(promscale, attributes={"b": "2"}, operation_name=b"child") == [root.trace_id]


def test_names_and_attributes_with_nul_are_found(promscale):
    stored = span("na\0me", tags={"ke\0y": "val\0ue"})
    promscale.export(request(stored, service="sh\0op"))
    wanted = {"service_name": b"sh\0op", "operation_name": b"na\0me", "attributes": {"ke\0y": "val\0ue"}}
    assert found_trace_ids(promscale, **wanted) == [stored.trace_id]


def test_summaries(promscale):
    root = span("GET /", start_time_unix_nano=NOON + 5, end_time_unix_nano=NOON + 2 * SECOND + 7)
    failed = child(root, "pay", status=Status(code=Status.STATUS_CODE_ERROR), start_time_unix_nano=NOON + 3)
    orphan = span("lost", trace_id=root.trace_id, parent_span_id=os.urandom(8), start_time_unix_nano=NOON + 9)
    message = request(root, orphan, service="shop")
    add_service(message, failed, service="till")
    promscale.export(message)
    (answer,) = promscale.read("FindTraceSummaries", search_request())
    assert list(answer.summaries) == [
        messages.TraceSummary(
            trace_id=root.trace_id,
            root_service_name="shop",
            root_operation_name="GET /",
            min_start_time_unix_nano=NOON + 3,
            max_end_time_unix_nano=NOON + 2 * SECOND + 7,
            span_count=3,
            error_span_count=1,
            orphan_span_count=1,
            services=[
                messages.ServiceSummary(name="shop", span_count=2, error_span_count=0),
                messages.ServiceSummary(name="till", span_count=1, error_span_count=1),
            ],
        )
    ]


def test_a_summary_of_a_trace_without_a_root(promscale):
    promscale.export(request(span("lost", parent_span_id=os.urandom(8))))
    (answer,) = promscale.read("FindTraceSummaries", search_request())
    (summary,) = answer.summaries
    assert (summary.root_service_name, summary.root_operation_name, summary.orphan_span_count) == ("", "", 1)


def test_the_earliest_and_latest_times_of_otlp(promscale):
    first = span(start_time_unix_nano=0, end_time_unix_nano=0)
    last = span(start_time_unix_nano=2**64 - 1, end_time_unix_nano=2**64 - 1)
    promscale.export(request(first, last))
    ever = {"start_time_max": 2**64}
    assert found_trace_ids(promscale, **ever) == [last.trace_id, first.trace_id]
    (answer,) = promscale.read("FindTraceSummaries", search_request(**ever))
    times = [(summary.min_start_time_unix_nano, summary.max_end_time_unix_nano) for summary in answer.summaries]
    assert times == [(2**64 - 1, 2**64 - 1), (0, 0)]


# Dependencies --------------------------------------------------------------------------------------------------------


def test_dependencies(promscale):
    root = span("GET /", start_time_unix_nano=NOON)
    inner = child(root, "inner")
    calls = [child(inner, "pay", start_time_unix_nano=NOON + second * SECOND) for second in (1, 2)]
    message = request(root, inner, service="shop")
    add_service(message, *calls, service="till")
    promscale.export(message)
    assert dependencies(promscale, NOON, NOON + 60 * SECOND) == [("shop", "till", 2)]
    assert dependencies(promscale, NOON, NOON + 1 * SECOND) == [("shop", "till", 1)]
    assert dependencies(promscale, NOON + 3 * SECOND, NOON + 60 * SECOND) == []
    (answer,) = promscale.read("GetDependencies", b"")
    assert len(answer.dependencies) == 1


def dependencies(promscale, start: int, end: int) -> list[tuple[str, str, int]]:
    (answer,) = promscale.read(
        "GetDependencies",
        messages.GetDependenciesRequest(
            start_time=messages.Timestamp(seconds=start // SECOND), end_time=messages.Timestamp(seconds=end // SECOND)
        ),
    )
    return [(dependency.parent, dependency.child, dependency.call_count) for dependency in answer.dependencies]


# Bad requests --------------------------------------------------------------------------------------------------------

BAD_TIME = messages.Timestamp(seconds=10**15)


@pytest.mark.parametrize(
    ("method", "bad_request", "field"),
    [
        ("GetTraces", b"\xff\xff", "GetTracesRequest"),
        ("FindTraces", b"\xff\xff", "FindTracesRequest"),
        ("GetTraces", traces_request(b"abc"), "query[0].trace_id"),
        ("GetTraces", traces_request(bytes(16), bytes(17)), "query[1].trace_id"),
        (
            "GetTraces",
            messages.GetTracesRequest(query=[messages.GetTraceParams(trace_id=bytes(16), start_time=BAD_TIME)]),
            "query[0].start_time",
        ),
        ("GetOperations", messages.GetOperationsRequest(service=b"shop", span_kind=b"boss"), "span_kind"),
        ("GetOperations", messages.GetOperationsRequest(service=b"\xff"), "service"),
        ("FindTraces", search_request(start_time_min=NOON, start_time_max=NOON - SECOND), "query.start_time_min"),
        ("FindTraceIDs", search_request(start_time_min=10**15 * SECOND), "query.start_time_min"),
        ("FindTraceSummaries", search_request(duration_min=2, duration_max=1), "query.duration_min"),
        ("FindTraces", search_request(duration_max=-1), "query.duration_max"),
        ("FindTraces", search_request(search_depth=-1), "query.search_depth"),
        ("FindTraces", search_request(search_depth=2**31 - 1), "query.search_depth"),
        ("FindTraces", search_request(service_name=b"\xff"), "query.service_name"),
        ("FindTraces", search_request(operation_name=b"\xff"), "query.operation_name"),
        ("FindTraces", search_request(filter=b"x"), "query.filter"),
        (
            "FindTraces",
            messages.FindTracesRequest(query=messages.TraceQueryParameters(attributes=[b"\xff"])),
            "query.attributes[0]",
        ),
        (
            "GetDependencies",
            messages.GetDependenciesRequest(
                start_time=messages.Timestamp(seconds=2), end_time=messages.Timestamp(seconds=1)
            ),
            "start_time",
        ),
    ],
)
def test_the_answer_to_a_bad_request_names_the_field(promscale, method, bad_request, field):
    with pytest.raises(grpc.RpcError) as raised:
        promscale.read(method, bad_request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in raised.value.details()
    assert promscale.read("GetServices", b"") == [messages.GetServicesResponse()]


# The database --------------------------------------------------------------------------------------------------------


def test_jaeger_reads_as_prom_reader(promscale, database):
    promscale.export(request(span()))
    database.execute("revoke select on ps_trace.jaeger_span from prom_reader")
    with pytest.raises(grpc.RpcError) as raised:
        promscale.read("FindTraces", search_request())
    assert "jaeger_span" in raised.value.details()


def test_a_statement_that_takes_too_long_is_cancelled(dsn, monkeypatch):
    monkeypatch.setattr(jaeger, "STATEMENT_SECONDS", 0.2)
    running = Promscale(dsn)
    try:
        with psycopg.connect(dsn) as holder:
            holder.execute("lock table _promscale.span in access exclusive mode")
            with pytest.raises(grpc.RpcError) as raised:
                running.read("FindTraces", search_request())
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        # On a slow machine, this too may exceed the short STATEMENT_SECONDS.
        assert answers(lambda: found_trace_ids(running), grpc.StatusCode.DEADLINE_EXCEEDED) == []
    finally:
        running.close()


def answers(read: Callable[[], list], temporary: grpc.StatusCode) -> list:
    """What `read` returns, which is repeated while it fails with this status."""

    def attempt() -> list[list]:
        try:
            return [read()]
        except grpc.RpcError as error:
            if error.code() != temporary:
                raise
            return []

    [result] = wait_until(attempt, "an answer")
    return result


def test_a_search_without_times_leaves_out_spans_of_the_future(promscale):
    now = time.time_ns()
    past, future = span(start_time_unix_nano=now - SECOND), span(start_time_unix_nano=now + 3600 * SECOND)
    promscale.export(request(past, future))
    assert found_trace_ids(promscale) == [past.trace_id]
    assert found_trace_ids(promscale, start_time_min=now + 600 * SECOND) == [future.trace_id]
    assert found_trace_ids(promscale, start_time_max=now + 7200 * SECOND) == [future.trace_id, past.trace_id]


def test_jaegers_calls_are_unavailable_without_a_database(dsn, postgres_uri, monkeypatch):
    monkeypatch.setattr("promscale.jaeger.CONNECTION_SECONDS", 5)
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with closing(Promscale(dsn)) as promscale, psycopg.connect(postgres_uri, autocommit=True) as other:
        other.execute(f"alter database {name} allow_connections false")
        other.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        with pytest.raises(grpc.RpcError) as raised:
            promscale.read("GetServices", b"")
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        other.execute(f"alter database {name} allow_connections true")
        services = answers(lambda: promscale.read("GetServices", b""), grpc.StatusCode.UNAVAILABLE)
        assert services == [messages.GetServicesResponse()]
