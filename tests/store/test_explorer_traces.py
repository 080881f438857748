"""The explorer's pages of traces and Jaeger's HTTP API, on a real promscale and PostgreSQL."""

import json
import re
import signal
import time
from html import unescape

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from explorer import store
from explorer.traces import create_traces
from tests.stack.checkout import wait_for
from tests.store.otlp_messages import any_value, attributes, child, request, span
from tests.store.test_ingest import start_process  # noqa: F401

MILLISECOND, SECOND, MINUTE = 10**6, 10**9, 60 * 10**9
HOSTILE = "<script>alert('\"&</script>"


@pytest.fixture
def browser(promscale):
    return create_traces(f"127.0.0.1:{promscale.server.port}").test_client()


def get(browser, path: str, status: int = 200, **parameters) -> str:
    answer = browser.get(path, query_string=parameters)
    assert answer.status_code == status, answer.text
    return answer.text


def api(browser, path: str, status: int = 200, **parameters):
    answer = json.loads(get(browser, f"/api{path}", status, **parameters))
    assert set(answer) == {"data", "total", "limit", "offset", "errors"}
    return answer["data"] if status == 200 else answer["errors"]


def found(browser, **parameters) -> list[str]:
    """The names of the root spans that /search and /api/traces find, which must be the same."""
    by_api = [trace["spans"][0]["operationName"] for trace in api(browser, "/traces", **parameters)]
    page = get(browser, "/search", **parameters)
    listed = page.partition('<ol class="found">')[2]
    on_page = {name for name in ("fast", "slow", "failed") if f": {name}<" in listed}
    assert on_page == set(by_api)
    return by_api


@pytest.fixture
def three(promscale):
    """Traces of one span: fast, 20 minutes later slow, 20 minutes later failed."""
    now = time.time_ns()
    spans = {}
    for number, (name, millis) in enumerate([("fast", 5), ("slow", 500), ("failed", 50)]):
        start = now - (50 - number * 20) * MINUTE
        end = start + millis * MILLISECOND
        spans[name] = span(name, start_time_unix_nano=start, end_time_unix_nano=end)
    spans["slow"].attributes.extend(attributes({"count": 7, "words": 'two "words"'}))
    spans["failed"].status.code = Status.STATUS_CODE_ERROR
    promscale.export(request(spans["fast"], spans["slow"], service="shop"))
    promscale.export(request(spans["failed"], service="till"))
    return spans


def test_search_finds_by_each_field_newest_first(browser, three):
    assert found(browser) == ["failed", "slow", "fast"]
    assert found(browser, service="till") == ["failed"]
    assert found(browser, service="shop", operation="fast") == ["fast"]
    assert found(browser, minDuration="20ms") == ["failed", "slow"]
    assert found(browser, maxDuration="0.1s", minDuration="6000us") == ["failed"]
    assert found(browser, limit="2") == ["failed", "slow"]
    assert found(browser, lookback="20m") == ["failed"]
    start, end = (three["slow"].start_time_unix_nano // 1000 + add for add in (-1_000_000, 1_000_000))
    assert found(browser, start=start, end=end, lookback="custom") == ["slow"]


def test_what_is_dated_in_the_future_is_apart(browser, three, promscale):
    assert "later than now" not in get(browser, "/search")
    ahead = span("ahead", start_time_unix_nano=time.time_ns() + 1000 * SECOND)
    promscale.export(request(ahead, child(ahead, "ahead, too"), service="of the future"))
    assert found(browser) == ["failed", "slow", "fast"]
    page = get(browser, "/search")
    assert "Traces with 2 spans" in page
    link = unescape(re.search(r'href="(/search\?[^"]*)">Traces with', page)[1])
    assert "of the future: ahead<" in browser.get(link).text
    assert "later than now" not in get(browser, "/search", service="shop")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tags", "count=7"),
        ("tags", 'count=7 words="two \\"words\\""'),
        ("tags", '{"count": 7}'),
        ("tags", '{"words": "two \\"words\\""}'),
        ("tag", "count:7"),
    ],
)
def test_search_finds_by_tags(browser, three, name, text):
    assert found(browser, **{name: text}) == ["slow"]


def test_search_finds_errors_and_marks_them(browser, three):
    assert found(browser, tags="error=true") == ["failed"]
    assert "1 with errors" in get(browser, "/search")


def test_tags_of_a_search_stay_in_its_form(browser, three):
    assert 'value="count=7 words=&#34;two \\&#34;words\\&#34;&#34;"' in get(
        browser, "/search", tags='{"count": "7", "words": "two \\"words\\""}'
    )


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("limit", "many"),
        ("limit", "0"),
        ("limit", "1501"),
        ("limit", "٣"),
        ("minDuration", "fast"),
        ("minDuration", "1y"),
        ("minDuration", "5"),
        ("maxDuration", "-1ms"),
        ("maxDuration", "9" * 400 + "s"),
        ("tags", "novalue"),
        ("tags", 'key="open'),
        ("tags", '{"a": '),
        ("tag", "novalue"),
        ("start", "yesterday"),
        ("start", "9" * 30),
        ("end", "-5"),
        ("lookback", "1x"),
        ("lookback", "custom"),
    ],
)
def test_a_bad_parameter_is_named(browser, parameter, value):
    named = "start" if value == "custom" else parameter
    assert f"Parameter {named}:" in get(browser, "/search", 400, **{parameter: value})
    (error,) = api(browser, "/traces", 400, **{parameter: value})
    assert error["code"] == 400
    assert error["msg"].startswith(f"Parameter {named}:")


def test_bounds_the_wrong_way_round_are_named(browser):
    assert "minDuration" in get(browser, "/search", 400, minDuration="2s", maxDuration="1s")
    assert "start" in get(browser, "/search", 400, start="2000", end="1000")


def test_an_empty_store_says_what_to_do(browser):
    assert "Nothing is stored yet" in get(browser, "/search")
    assert "Choose a longer range" in get(browser, "/dependencies")


def test_a_search_without_result_says_what_to_do(browser, three):
    assert "Choose a longer range" in get(browser, "/search", tags="no=such")


def test_the_start_is_the_search(browser):
    assert browser.get("/").headers["Location"] == "/search"


def test_a_trace_shows_its_spans_and_what_they_hold(browser, promscale):
    root = span("root", trace_id=bytes(8) + b"12345678", kind=Span.SPAN_KIND_SERVER)
    inner = child(root, "inner", tags={"list": [1, "two"], "bytes": b"\xff"})
    inner.events.add(name="loop", time_unix_nano=root.start_time_unix_nano, attributes=attributes({"iteration": 3}))
    inner.links.add(trace_id=b"x" * 16, span_id=b"y" * 8)
    promscale.export(request(root, inner))
    page = waterfall(get(browser, f"/trace/{root.trace_id.hex()}"))
    assert [(each["name"], each["depth"], each["kind"]) for each in page["spans"]] == [
        ("root", 0, "server"),
        ("inner", 1, ""),
    ]
    assert page["spans"][1]["attributes"] == [["list", '[1, "two"]', 10], ["bytes", "/w==", 4]]
    assert page["spans"][1]["events"][0]["attributes"] == [["iteration", "3", 1]]
    assert page["spans"][1]["links"][0]["trace"] == (b"x" * 16).hex()
    # Jaeger leaves out leading zeros.
    assert waterfall(get(browser, f"/trace/{b'12345678'.hex()}")) == page


def waterfall(page: str) -> dict:
    return json.loads(page.partition('id="trace">')[2].partition("</script>")[0])


@pytest.mark.parametrize("trace_id", ["xyz", "0", "0" * 32, "1" * 33, "%F0%9F%92%A9"])
def test_what_is_no_trace_id(browser, trace_id):
    assert "Parameter trace id:" in get(browser, f"/trace/{trace_id}", 400)
    assert api(browser, f"/traces/{trace_id}", 400)[0]["code"] == 400


def test_an_unknown_trace(browser):
    assert "There is no trace" in get(browser, "/trace/12ab", 404)
    assert api(browser, "/traces/12ab", 404) == [{"code": 404, "msg": "trace not found"}]
    assert api(browser, "/traces", traceID="12ab") == []


def test_hostile_names_are_text(browser, promscale):
    root = span(HOSTILE, tags={HOSTILE: HOSTILE})
    promscale.export(request(root, service=HOSTILE))
    promscale.export(request(child(root, "called"), service="<b>"))
    trace_id = root.trace_id.hex()
    paths = ["/search", f"/search?service={HOSTILE}", f"/trace/{trace_id}", "/dependencies", f"/trace/{HOSTILE}"]
    for path in paths:
        answer = browser.get(path)
        assert "<script>alert" not in answer.text
        assert "<b>" not in answer.text.replace("<b>1</b>", "").replace("<b>2</b>", "")
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page = waterfall(get(browser, f"/trace/{trace_id}"))
    assert page["spans"][0]["name"] == HOSTILE
    assert page["spans"][0]["attributes"] == [[HOSTILE, HOSTILE, len(HOSTILE)]]
    assert HOSTILE in api(browser, "/services")
    # Tags of a search are text, too: nothing in them is SQL.
    assert found(browser, tags="a'=b';--") == []


def test_what_is_very_long_is_cut_for_display(browser, promscale):
    long = span("n" * 100_000, tags={"long": "x" * 2**20, "short": "y"})
    promscale.export(request(long, service="s" * 50_000))
    assert len(get(browser, "/search")) < 200_000
    text = get(browser, f"/trace/{long.trace_id.hex()}")
    assert len(text) < 200_000
    attribute, short = waterfall(text)["spans"][0]["attributes"]
    assert (len(attribute[1]), attribute[2]) == (10_000, 2**20)
    assert short == ["short", "y", 1]
    # The API has all of it.
    (trace,) = api(browser, f"/traces/{long.trace_id.hex()}")
    assert {"key": "long", "type": "string", "value": "x" * 2**20} in trace["spans"][0]["tags"]


def test_a_trace_of_ten_thousand_spans(browser, promscale):
    root = span("root")
    promscale.export(request(root, *(child(root, f"child {number}") for number in range(9_999))))
    assert len(waterfall(get(browser, f"/trace/{root.trace_id.hex()}"))["spans"]) == 10_000


def test_while_the_store_is_away_pages_say_so_and_come_again(promscale):
    address = f"127.0.0.1:{promscale.server.port}"
    browser = create_traces(address).test_client()
    get(browser, "/search")
    promscale.server.close(grace_seconds=0)
    for path in ("/search", "/trace/12ab", "/dependencies"):
        page = get(browser, path, 503)
        assert f"promscale at {address} is away" in page
        assert "./run.sh status" in page
        assert 'http-equiv="refresh"' in page
    assert api(browser, "/services", 503)[0]["code"] == 503


@pytest.mark.parametrize(
    ("connected", "status", "says"), [(True, 504, "did not answer within 2 s"), (False, 503, "is away")]
)
def test_a_promscale_that_is_stopped_is_named(dsn, start_process, monkeypatch, connected, status, says):
    """Without a connection that is found out by how long one takes, and not by how long an answer does."""
    process = start_process(dsn)
    wait_for(lambda: process.get("/readyz")[0] == 200, "promscale")
    browser = create_traces(process.grpc).test_client()
    if connected:
        get(browser, "/search")
    process.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(store, "ANSWER_SECONDS", 2 if connected else 120)
    assert f"promscale at {process.grpc} {says}" in get(browser, "/search", status)
    assert api(browser, "/services", status)[0]["code"] == status
    process.process.send_signal(signal.SIGCONT)
    wait_for(lambda: browser.get("/search").status_code == 200, "the search page")


# Jaeger's HTTP API ---------------------------------------------------------------------------------------------------


def test_services_and_operations(browser, promscale):
    server, client = span("GET /", kind=Span.SPAN_KIND_SERVER), span("GET /", kind=Span.SPAN_KIND_CLIENT)
    promscale.export(request(server, client, span("work"), service="a/b"))
    assert api(browser, "/services") == ["a/b"]
    assert api(browser, "/services/a%2Fb/operations") == ["GET /", "work"]
    assert api(browser, "/operations", service="a/b", spanKind="server") == [{"name": "GET /", "spanKind": "server"}]
    assert len(api(browser, "/operations", service="a/b")) == 3
    assert "service" in api(browser, "/operations", 400)[0]["msg"]
    assert "span_kind" in api(browser, "/operations", 400, service="a/b", spanKind="odd")[0]["msg"]


def test_a_trace_in_jaegers_form(browser, promscale):
    start = 1_767_268_800_123_456_789
    root = span("root", start_time_unix_nano=start, end_time_unix_nano=start + 2_500_999)
    inner = child(
        root,
        "inner",
        tags={"text": "a", "yes": True, "int": 3, "float": 1.5, "bytes": b"\xff", "list": [1, "b"]},
        kind=Span.SPAN_KIND_CLIENT,
        trace_state="a=b",
    )
    inner.status.code, inner.status.message = Status.STATUS_CODE_ERROR, "broken"
    inner.events.add(name="loop", time_unix_nano=start + 5_000, attributes=attributes({"iteration": 3}))
    inner.links.add(trace_id=b"x" * 16, span_id=b"y" * 8)
    sent = request(root, inner)
    sent.resource_spans[0].resource.attributes.add(key="host.name", value=any_value("h"))
    sent.resource_spans[0].scope_spans[0].scope.name = "tests"
    promscale.export(sent)

    id = root.trace_id.hex()
    (trace,) = api(browser, f"/traces/{id}")
    assert trace["traceID"] == id
    assert trace["processes"] == {
        "p1": {"serviceName": "shop", "tags": [{"key": "host.name", "type": "string", "value": "h"}]}
    }
    first, second = trace["spans"]
    assert (first["startTime"], first["duration"]) == (start // 1000, 2500)
    assert first["references"] == []
    assert second == {
        "traceID": id,
        "spanID": inner.span_id.hex(),
        "operationName": "inner",
        "references": [
            {"refType": "CHILD_OF", "traceID": id, "spanID": root.span_id.hex()},
            {"refType": "FOLLOWS_FROM", "traceID": (b"x" * 16).hex(), "spanID": (b"y" * 8).hex()},
        ],
        "startTime": start // 1000,
        "duration": 1000,
        "tags": [
            {"key": "text", "type": "string", "value": "a"},
            {"key": "yes", "type": "bool", "value": True},
            {"key": "int", "type": "int64", "value": 3},
            {"key": "float", "type": "float64", "value": 1.5},
            {"key": "bytes", "type": "binary", "value": "/w=="},
            {"key": "list", "type": "string", "value": '[1, "b"]'},
            {"key": "span.kind", "type": "string", "value": "client"},
            {"key": "otel.status_code", "type": "string", "value": "ERROR"},
            {"key": "otel.status_description", "type": "string", "value": "broken"},
            {"key": "otel.scope.name", "type": "string", "value": "tests"},
            {"key": "w3c.tracestate", "type": "string", "value": "a=b"},
            {"key": "error", "type": "bool", "value": True},
        ],
        "logs": [
            {
                "timestamp": (start + 5_000) // 1000,
                "fields": [
                    {"key": "event", "type": "string", "value": "loop"},
                    {"key": "iteration", "type": "int64", "value": 3},
                ],
            }
        ],
        "processID": "p1",
        "warnings": None,
    }


def test_dependencies(browser, promscale):
    root = span("root")
    promscale.export(request(root, service="caller"))
    promscale.export(request(child(root), child(root), service="called"))
    expected = [{"parent": "caller", "child": "called", "callCount": 2}]
    assert api(browser, "/dependencies") == expected
    now, hour = time.time_ns() // MILLISECOND, 3_600_000
    assert api(browser, "/dependencies", endTs=now, lookback=hour) == expected
    assert api(browser, "/dependencies", endTs=now - hour, lookback=hour) == []
    assert "endTs" in api(browser, "/dependencies", 400, endTs="now")[0]["msg"]
    page = get(browser, "/dependencies")
    assert "caller calls called: 2" in page


def test_what_the_api_has_not(browser):
    assert api(browser, "/metrics/calls", 404)[0]["code"] == 404
