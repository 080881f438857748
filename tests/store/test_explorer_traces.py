"""The explorer's pages of traces and Jaeger's HTTP API, on a real promscale and PostgreSQL."""

import json
import re
import signal
import time
from html import unescape
from xml.etree import ElementTree

import psutil
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer import store
from explorer.traces import create_traces
from tests.store.otlp_messages import any_value, attributes, child, request, span
from tests.waiting import free_port, wait_until

MILLISECOND, SECOND, MINUTE = 10**6, 10**9, 60 * 10**9
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('\"&</script>"


@pytest.fixture
def browser(promscale):
    return create_traces(f"127.0.0.1:{promscale.server.port}").test_client()


@pytest.fixture(params=["without the database", "with the database"])
def either(request, promscale, dsn):
    """A client of both kinds of explorer: their searches have the same results."""
    uri = make_conninfo(dsn, user="explorer") if request.param == "with the database" else ""
    return create_traces(f"127.0.0.1:{promscale.server.port}", uri).test_client()


def get(browser, path: str, status: int = 200, **parameters) -> str:
    answer = browser.get(path, query_string=parameters)
    assert answer.status_code == status, answer.text
    return answer.text


def api(browser, path: str, status: int = 200, **parameters):
    answer = json.loads(get(browser, f"/api{path}", status, **parameters))
    assert set(answer) == {"data", "total", "limit", "offset", "errors"}
    return answer["data"] if status == 200 else answer["errors"]


def search(browser, **parameters) -> list[str]:
    """The names of the root spans that /search and /api/traces return, which must be the same."""
    by_api = [trace["spans"][0]["operationName"] for trace in api(browser, "/traces", **parameters)]
    page = get(browser, "/search", **parameters)
    listed = page.partition('<table class="traces">')[2]
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
    spans["slow"].events.add(name="look", attributes=attributes({"shelf": "upper"}))
    spans["slow"].links.add(trace_id=b"x" * 16, span_id=b"y" * 8, attributes=attributes({"place": "cellar"}))
    spans["failed"].status.code = Status.STATUS_CODE_ERROR
    message = request(spans["fast"], spans["slow"], service="shop")
    message.resource_spans[0].scope_spans[0].scope.name = "library"
    promscale.export(message)
    promscale.export(request(spans["failed"], service="till"))
    return spans


def test_search_by_each_field_returns_the_newest_first(either, three):
    assert search(either) == ["failed", "slow", "fast"]
    assert search(either, service="till") == ["failed"]
    assert search(either, service="shop", operation="fast") == ["fast"]
    assert search(either, minDuration="20ms") == ["failed", "slow"]
    assert search(either, maxDuration="0.1s", minDuration="6000us") == ["failed"]
    assert search(either, limit="2") == ["failed", "slow"]
    assert search(either, lookback="20m") == ["failed"]
    start, end = (three["slow"].start_time_unix_nano // 1000 + add for add in (-1_000_000, 1_000_000))
    assert search(either, start=start, end=end, lookback="custom") == ["slow"]


def test_spans_of_the_future_are_reported_separately(either, three, promscale):
    assert "in the future" not in get(either, "/search")
    ahead = span("ahead", start_time_unix_nano=time.time_ns() + 1000 * SECOND)
    promscale.export(request(ahead, child(ahead, "ahead, too"), service="host ahead"))
    assert search(either) == ["failed", "slow", "fast"]
    page = get(either, "/search")
    assert "Traces with 2 spans" in page
    [link] = re.findall(r'href="(/search\?[^"]*)">Traces with', page)
    assert "host ahead: ahead<" in either.get(unescape(link)).text
    assert "in the future" not in get(either, "/search", service="shop")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tags", "count=7"),
        ("tags", 'count=7 words="two \\"words\\""'),
        ("tags", '{"count": 7}'),
        ("tags", '{"words": "two \\"words\\""}'),
        ("tag", "count:7"),
        ("tags", "count=7.0"),
        ("tags", "shelf=upper"),
        ("tags", "place=cellar"),
        ("tags", 'otel.scope.name=library error=false words="two \\"words\\""'),
    ],
)
def test_search_by_tags(either, three, name, text):
    assert search(either, **{name: text}) == ["slow"]


def test_search_by_errors_and_their_number(either, three):
    assert search(either, tags="error=true") == ["failed"]
    assert "1 with errors" in get(either, "/search")


def test_the_form_keeps_the_tags_of_a_search(either, three):
    assert 'value="count=7 words=&#34;two \\&#34;words\\&#34;&#34;"' in get(
        either, "/search", tags='{"count": "7", "words": "two \\"words\\""}'
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
def test_an_invalid_parameter_is_named(either, parameter, value):
    name = "start" if value == "custom" else parameter
    assert f"Parameter {name}:" in get(either, "/search", 400, **{parameter: value})
    (error,) = api(either, "/traces", 400, **{parameter: value})
    assert error["code"] == 400
    assert error["msg"].startswith(f"Parameter {name}:")


def test_a_duration_without_a_unit_is_in_milliseconds_on_the_page_and_refused_by_the_api(either, three):
    listed = get(either, "/search", minDuration="20", maxDuration="100.5").partition('<table class="traces">')[2]
    assert [name for name in three if f": {name}<" in listed] == ["failed"]
    assert "Parameter minDuration:" in api(either, "/traces", 400, minDuration="20")[0]["msg"]


def test_reversed_bounds_are_named(either):
    assert "minDuration" in get(either, "/search", 400, minDuration="2s", maxDuration="1s")
    assert "start" in get(either, "/search", 400, start="2000", end="1000")


def test_an_empty_store_says_what_to_do(either):
    assert "No spans are stored yet" in get(either, "/search")
    assert "Choose a longer range" in get(either, "/dependencies")


def test_a_search_without_results_says_what_to_do(either, three):
    assert "Choose a longer range" in get(either, "/search", tags="no=such")


def test_unknown_parameters_are_ignored(browser, three):
    get(browser, "/search", _scheme="x", endpoint="y")


def test_the_home_page_is_the_search(browser):
    assert browser.get("/").headers["Location"] == "/search"


def test_a_trace_shows_its_spans_and_their_details(browser, promscale):
    root = span("root", trace_id=bytes(8) + b"12345678", kind=Span.SPAN_KIND_SERVER)
    inner = child(root, "inner", tags={"list": [1, "two"], "bytes": b"\xff"})
    inner.events.add(name="loop", time_unix_nano=root.start_time_unix_nano, attributes=attributes({"iteration": 3}))
    inner.links.add(trace_id=b"x" * 16, span_id=b"y" * 8)
    promscale.export(request(root, inner))
    page = waterfall(get(browser, f"/trace/{root.trace_id.hex()}"))
    assert [(name_of(page, span), span["depth"], span["kind"]) for span in page["spans"]] == [
        ("root", 0, "server"),
        ("inner", 1, ""),
    ]
    assert page["spans"][1]["attributes"] == [["list", '[1, "two"]', 10], ["bytes", "/w==", 4]]
    assert page["spans"][1]["events"][0]["attributes"] == [["iteration", "3", 1]]
    assert page["spans"][1]["links"][0]["trace"] == (b"x" * 16).hex()
    # Jaeger omits leading zeros.
    assert waterfall(get(browser, f"/trace/{b'12345678'.hex()}")) == page


def waterfall(page: str) -> dict:
    return json.loads(page.partition('id="trace">')[2].partition("</script>")[0])


def name_of(page: dict, span: dict) -> str:
    return page["operations"][span["operation"]]["name"]


@pytest.mark.parametrize("trace_id", ["xyz", "0", "0" * 32, "1" * 33, "%F0%9F%92%A9"])
def test_an_invalid_trace_id(browser, trace_id):
    assert "Parameter trace id:" in get(browser, f"/trace/{trace_id}", 400)
    assert api(browser, f"/traces/{trace_id}", 400)[0]["code"] == 400


def test_an_unknown_trace(browser):
    assert "There is no trace" in get(browser, "/trace/12ab", 404)
    assert api(browser, "/traces/12ab", 404) == [{"code": 404, "msg": "trace not found"}]
    assert api(browser, "/traces", traceID="12ab") == []


def test_html_in_names_is_escaped(either, promscale):
    root = span(HOSTILE, tags={HOSTILE: HOSTILE})
    promscale.export(request(root, service=HOSTILE))
    promscale.export(request(child(root, "called"), service="<b>"))
    trace_id = root.trace_id.hex()
    paths = ["/search", f"/search?service={HOSTILE}", f"/trace/{trace_id}", "/dependencies", f"/trace/{HOSTILE}"]
    for path in paths:
        answer = either.get(path)
        assert "<script>alert" not in answer.text
        assert "<b>" not in answer.text.replace("<b>1</b>", "").replace("<b>2</b>", "")
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page = waterfall(get(either, f"/trace/{trace_id}"))
    assert name_of(page, page["spans"][0]) == HOSTILE
    assert page["spans"][0]["attributes"] == [[HOSTILE, HOSTILE, len(HOSTILE)]]
    assert HOSTILE in api(either, "/services")
    # No SQL injection by tags.
    assert search(either, tags="a'=b';--") == []


def test_long_texts_are_cut_for_display(either, promscale):
    long = span("n" * 100_000, tags={"long": "x" * 2**20, "short": "y"})
    promscale.export(request(long, service="s" * 50_000))
    assert len(get(either, "/search")) < 200_000
    text = get(either, f"/trace/{long.trace_id.hex()}")
    assert len(text) < 200_000
    attribute, short = waterfall(text)["spans"][0]["attributes"]
    assert (len(attribute[1]), attribute[2]) == (10_000, 2**20)
    assert short == ["short", "y", 1]
    # The API returns it uncut.
    (trace,) = api(either, f"/traces/{long.trace_id.hex()}")
    assert {"key": "long", "type": "string", "value": "x" * 2**20} in trace["spans"][0]["tags"]


def test_a_trace_of_ten_thousand_spans(browser, promscale):
    root = span("root")
    promscale.export(request(root, *(child(root, f"child {number}") for number in range(9_999))))
    assert len(waterfall(get(browser, f"/trace/{root.trace_id.hex()}"))["spans"]) == 10_000


@pytest.fixture
def comparing(promscale, dsn):
    """A client of the explorer that also has the database."""
    uri = make_conninfo(dsn, user="explorer")
    return create_traces(f"127.0.0.1:{promscale.server.port}", uri).test_client()


def earlier(browser, of: Span, status: int = 200, **parameters):
    defaults = {"span": of.span_id.hex(), "start": of.start_time_unix_nano // 1000}
    text = get(browser, f"/trace/{of.trace_id.hex()}/earlier", status, **defaults | parameters)
    return json.loads(text) if status == 200 else text


def test_a_span_is_compared_with_the_calls_of_its_operation_in_the_hour_before(comparing, promscale):
    now = time.time_ns()

    def call(minutes_ago: float, millis: int, name: str = "pay") -> Span:
        start = now - round(minutes_ago * MINUTE)
        return span(name, start_time_unix_nano=start, end_time_unix_nano=start + millis * MILLISECOND)

    this = call(10, 50)
    compared = [call(11, 10), call(30, 20), call(69, 30), call(12, 50), call(13, 90)]
    others = [call(71, 10), call(9, 10), call(20, 10, name="look")]
    promscale.export(request(this, *compared, *others))
    promscale.export(request(call(15, 10), service="till"))
    assert earlier(comparing, this) == {"calls": 5, "faster": 3}
    assert earlier(comparing, others[0]) == {"calls": 0, "faster": 0}


def test_a_comparison_of_no_span(browser, comparing, promscale):
    this = span()
    promscale.export(request(this))
    assert "There is no such span" in earlier(comparing, this, 404, start=1)
    for name, value in (("span", "xyz"), ("span", ""), ("start", "-1"), ("start", "9" * 19)):
        assert f"Parameter {name}:" in earlier(comparing, this, 400, **{name: value})
    assert "EXPLORER_DB_URI" in earlier(browser, this, 404)


def test_a_trace_is_shown_without_its_database(promscale, monkeypatch):
    monkeypatch.setattr("explorer.database.CONNECT_SECONDS", 3)
    uri = f"postgresql://explorer@127.0.0.1:{free_port()}/postgres"
    browser = create_traces(f"127.0.0.1:{promscale.server.port}", uri).test_client()
    this = span()
    promscale.export(request(this))
    assert len(waterfall(get(browser, f"/trace/{this.trace_id.hex()}"))["spans"]) == 1
    assert "does not answer" in earlier(browser, this, 503)


def test_pages_report_an_unreachable_store_and_retry(promscale):
    address = f"127.0.0.1:{promscale.server.port}"
    browser = create_traces(address).test_client()
    get(browser, "/search")
    promscale.server.close(grace_seconds=0)
    for path in ("/search", "/trace/12ab", "/dependencies"):
        page = get(browser, path, 503)
        assert f"promscale at {address} cannot be reached" in page
        assert "./run.sh status" in page
        assert 'http-equiv="refresh"' in page
    assert api(browser, "/services", 503)[0]["code"] == 503


@pytest.mark.parametrize(
    ("connected", "status", "problem"), [(True, 504, "did not answer within 2 s"), (False, 503, "cannot be reached")]
)
def test_a_stopped_promscale_is_reported(dsn, start_process, monkeypatch, connected, status, problem):
    """Without a connection, the limit is the connection timeout instead of the longer one for answers."""
    process = start_process(dsn)
    wait_until(lambda: process.get("/readyz")[0] == 200, "promscale")
    monkeypatch.setattr(store, "CONNECT_SECONDS", 3)
    browser = create_traces(process.grpc).test_client()
    if connected:
        get(browser, "/search")
    process.process.send_signal(signal.SIGSTOP)
    # On a busy machine, it runs on until one of its threads has received the signal, and could accept a connection.
    wait_until(lambda: psutil.Process(process.process.pid).status() == psutil.STATUS_STOPPED, "the stop")
    monkeypatch.setattr(store, "ANSWER_SECONDS", 2 if connected else 120)
    assert f"promscale at {process.grpc} {problem}" in get(browser, "/search", status)
    assert api(browser, "/services", status)[0]["code"] == status
    process.process.send_signal(signal.SIGCONT)
    wait_until(lambda: browser.get("/search").status_code == 200, "the search page")


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

    trace_id = root.trace_id.hex()
    (trace,) = api(browser, f"/traces/{trace_id}")
    assert trace["traceID"] == trace_id
    assert trace["processes"] == {
        "p1": {"serviceName": "shop", "tags": [{"key": "host.name", "type": "string", "value": "h"}]}
    }
    first, second = trace["spans"]
    assert (first["startTime"], first["duration"]) == (start // 1000, 2500)
    assert first["references"] == []
    assert second == {
        "traceID": trace_id,
        "spanID": inner.span_id.hex(),
        "operationName": "inner",
        "references": [
            {"refType": "CHILD_OF", "traceID": trace_id, "spanID": root.span_id.hex()},
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
    promscale.export(request(child(root), child(root), service="callee"))
    expected = [{"parent": "caller", "child": "callee", "callCount": 2}]
    assert api(browser, "/dependencies") == expected
    now, hour = time.time_ns() // MILLISECOND, 3_600_000
    assert api(browser, "/dependencies", endTs=now, lookback=hour) == expected
    assert api(browser, "/dependencies", endTs=now - hour, lookback=hour) == []
    assert "endTs" in api(browser, "/dependencies", 400, endTs="now")[0]["msg"]
    page = get(browser, "/dependencies")
    assert "caller calls callee: 2" in page


def test_an_unknown_path_of_the_api(browser):
    assert api(browser, "/metrics/calls", 404)[0]["code"] == 404


# The header's form, and the picture ----------------------------------------------------------------------------------


def test_a_trace_is_opened_by_its_id_in_any_spelling(browser):
    hex_digits = "0000000000000000a1b2c3d4e5f60718"
    uuid = "00000000-0000-0000-a1b2-c3d4e5f60718"
    for spelling in (hex_digits, hex_digits.upper(), hex_digits.lstrip("0"), uuid, f" {hex_digits} "):
        answer = browser.get("/trace", query_string={"id": spelling})
        assert (answer.status_code, answer.location) == (302, f"/trace/{hex_digits}")
    for text in ("", "0", "/evil.example", "a1b2-c3d4"):
        assert "trace id" in get(browser, "/trace", 400, id=text)


def test_a_picture_has_the_rows_of_a_trace_that_there_is_room_for(browser, promscale):
    root = span(HOSTILE, kind=Span.SPAN_KIND_SERVER)
    steps = [child(root, f"step {number}", status=Status(code=Status.STATUS_CODE_ERROR)) for number in range(5)]
    leaves = [child(steps[0], f"leaf {number}") for number in range(40)]
    promscale.export(request(root, *steps, *leaves, service="shop"))
    path = f"/trace/{root.trace_id.hex()}/waterfall.svg"
    for scheme, colour in (("light", "#1b1f24"), ("dark", "#e6e9ec"), ("pink", "#1b1f24")):
        answer = browser.get(path, query_string={"scheme": scheme})
        assert answer.mimetype == "image/svg+xml"
        picture = ElementTree.fromstring(answer.text)
        texts = [element.text for element in picture.iter(f"{SVG}text")]
        assert len(list(picture.iter(f"{SVG}rect"))) == 6
        assert [text for text in texts if text.startswith("shop <script>")]
        assert len([text for text in texts if text.startswith("\N{MULTIPLICATION X} shop step")]) == 5
        assert not [text for text in texts if "leaf" in text]
        assert picture.get("fill") == colour
    get(browser, f"/trace/{'1' * 32}/waterfall.svg", 404)
