"""DEMO_INSTRUMENTATION: which spans the services' processes make by themselves, and how a start waits for them."""

import json
import urllib.error
import urllib.request

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from faults.flags import OFF
from local import health
from telemetry.instrumentation import VERSION
from telemetry.services import SERVICES


@pytest.fixture
def start(processes, flag_file):
    """A function that starts services in a mode, with these faults."""

    def start(names, mode: str, faults: dict[str, str], **environment: str) -> None:
        everything_off = {name: OFF for name, flag in flag_file.flags().items() if flag.is_fault}
        flag_file.set(everything_off | faults)
        processes.start(*names, DEMO_INSTRUMENTATION=mode, FAULTS_FILE=str(flag_file.path), **environment)

    return start


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def attributes(span: Span) -> dict[str, object]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "") for item in span.attributes}


def by_service(receiver) -> dict[str, list[Span]]:
    return {
        attribute.value.string_value: [span for scope in resource.scope_spans for span in scope.spans]
        for resource in receiver.resource_spans()
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }


def test_off_makes_passwords_and_no_spans(start, processes, receiver):
    start(reversed(SERVICES), "off", {"digit.slow_characters": "strong"})
    url = processes.urls["generator"]
    status, body = get(url)
    assert status == 200 and '"password":' in body
    assert "trace_id" not in body
    status, page = get(url, Accept="text/html")
    assert status == 200 and "Your password" in page and "/trace/" not in page
    processes.stop()
    assert receiver.spans() == []


def test_off_has_no_trace_to_show_or_link(start, processes):
    start(["generator", "upper"], "off", {"upper.slow_characters": "strong"})
    url = processes.urls["generator"]
    for path, status, words in (("/?length=1", 400, "No password"), ("/", 500, "fail on purpose.")):
        # As a caller that traces itself sends it.
        code, page = get(url + path, Accept="text/html", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
        assert code == status and words in page
        assert "/trace/" not in page and "0" * 32 not in page and "waterfall" not in page
        assert "password.js" not in page  # which would look for the picture of the trace
        code, answer = get(url + path)
        assert code == status and '"error":' in answer and "trace_id" not in answer


def test_auto_makes_server_and_client_spans_and_nothing_else(start, processes, receiver):
    start(["digit", "lower"], "auto", {"lower.needless_calls": "strong", "digit.slow_characters": "strong"})
    for _ in range(10):
        assert get(processes.urls["lower"])[0] == 200
    processes.stop()
    spans = by_service(receiver)
    assert spans.keys() == {"digit", "lower"}
    assert {resource["service.version"] for resource in receiver.instances().values()} == {VERSION}
    served = {span.span_id: span for span in spans["lower"] if span.kind == Span.SPAN_KIND_SERVER}
    called = {span.span_id: span for span in spans["lower"] if span.kind == Span.SPAN_KIND_CLIENT}
    assert len(served) == len(called) == len(spans["digit"]) == 10
    assert len(spans["lower"]) == 20
    assert all(span.parent_span_id in served for span in called.values())
    assert {span.parent_span_id for span in spans["digit"]} == called.keys()
    assert {span.kind for span in spans["digit"]} == {Span.SPAN_KIND_SERVER}
    for span in [*served.values(), *spans["digit"]]:
        assert span.name == "GET /"
        assert attributes(span)["http.route"] == "/" and attributes(span)["http.response.status_code"] == 200
    for span in receiver.spans():
        assert not span.events
        assert not {"char", "iteration", "demo.fault.name"} & attributes(span).keys()
        assert "http.method" not in attributes(span)  # a name that is no longer stable


@pytest.mark.parametrize(("mode", "recorded"), [("auto", []), ("on", ["exception"])])
def test_the_instrumentation_sets_the_status_of_a_failed_request_last(start, processes, receiver, mode, recorded):
    """With `auto`, that is all there is of an error. With `on`, the demo records the exception, and its message as the
    span's status, which is not kept: docs/workshop/instrumentation.md warns of that."""
    start(["digit"], mode, {"digit.errors": "strong"})
    answers = [get(processes.urls["digit"], baggage=f"demo.seed={seed}") for seed in range(20)]
    failed = [json.loads(body)["trace_id"] for status, body in answers if status == 500]
    processes.stop()
    spans = {span.trace_id.hex(): span for span in receiver.spans() if span.kind == Span.SPAN_KIND_SERVER}
    assert failed and len(spans) == 20
    for trace_id in failed:
        span = spans[trace_id]
        assert span.status.code == Status.STATUS_CODE_ERROR and attributes(span)["error.type"] == "500"
        assert not span.status.message and [event.name for event in span.events] == recorded


def test_the_seed_of_a_request_makes_the_same_character_with_auto_as_with_on(start, processes):
    answers = []
    for mode in ("on", "auto"):
        start(["digit"], mode, {})
        answers.append([get(processes.urls["digit"], baggage=f"demo.seed={seed}") for seed in range(20)])
        processes.stop()
    assert answers[0] == answers[1]


def test_the_name_of_a_service_is_the_users_with_auto_too(start, processes, receiver):
    start(["digit"], "auto", {}, OTEL_RESOURCE_ATTRIBUTES="service.name=mine")
    get(processes.urls["digit"])
    processes.stop()
    assert by_service(receiver).keys() == {"mine"}


def test_a_start_waits_for_no_trace_where_nothing_is_traced(start, processes, monkeypatch):
    start(["generator"], "off", {})
    address, _, port = processes.urls["generator"].removeprefix("http://").partition(":")
    monkeypatch.setitem(SERVICES, "generator", int(port))
    assert not health.wait_for_a_trace(address, database="never asked")
