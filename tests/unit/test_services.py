"""The services, over HTTP, and the spans that they create."""

import importlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from flask import Flask
from opentelemetry.trace import StatusCode, format_trace_id

import generator.fetching
import telemetry.call
import telemetry.service
import telemetry.work
from local import CHECKOUT
from telemetry.call import CallFailed, fetch_character
from telemetry.services import CHARACTER_SERVICES, SERVICES
from tests.waiting import free_port

URLS = "generator.fetching.URLS"
OPERATIONS = {f"generator.{name}s" for name in CHARACTER_SERVICES}
CHARACTERS = {
    "digit": str.isdigit,
    "upper": str.isupper,
    "lower": str.islower,
    "special": lambda char: char.isascii() and char.isprintable() and not char.isalnum() and char != " ",
}


def app(name: str) -> Flask:
    return importlib.import_module(f"{name}.app").app


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    # Replaces the module `time` in telemetry.work only: the tests themselves sleep while they wait.
    monkeypatch.setattr(telemetry.work, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def no_random_events(monkeypatch, switch):
    """No fault is on, and there is no extra work."""
    monkeypatch.setattr(telemetry.service, "EXTRA_WORK_PROBABILITY", 0)


@pytest.fixture
def client(monkeypatch, serve, no_random_events):
    """A client of the generator, with all other services running."""
    urls = {f"{name}s": serve(app(name)) for name in CHARACTER_SERVICES}
    monkeypatch.setattr("lower.app.DIGIT_URL", urls["digits"])
    monkeypatch.setattr(URLS, urls)
    monkeypatch.setattr(telemetry.call, "TIMEOUT", 60)
    monkeypatch.setattr(telemetry.call, "NESTED_TIMEOUT", 30)
    return app("generator").test_client()


@pytest.mark.parametrize("name", CHARACTER_SERVICES)
def test_a_character_service_answers_with_a_character(name, spans, no_random_events):
    answer = app(name).test_client().get("/")
    assert answer.status_code == 200
    assert list(answer.json) == ["char"] and len(answer.json["char"]) == 1
    assert CHARACTERS[name](answer.json["char"])
    by_name = {span.name: span for span in spans()}
    assert set(by_name) == {"GET /", f"random_{name}", f"process_{name}", f"render_{name}"}
    for step in ("random", "process", "render"):
        assert by_name[f"{step}_{name}"].parent.span_id == by_name["GET /"].context.span_id
    assert by_name[f"process_{name}"].attributes["char"] == answer.json["char"]
    assert {event.name for event in by_name[f"process_{name}"].events} == {"loop"}


def test_sometimes_there_is_extra_work(spans, monkeypatch):
    monkeypatch.setattr(telemetry.service, "EXTRA_WORK_PROBABILITY", 1)
    monkeypatch.setattr(telemetry.service, "EXTRA_EXTRA_WORK_PROBABILITY", 1)
    app("digit").test_client().get("/")
    by_name = {span.name: span for span in spans()}
    assert by_name["extra_extra_process_digit"].parent.span_id == by_name["extra_process_digit"].context.span_id


def test_a_password(client, spans):
    answer = client.get("/")
    assert answer.status_code == 200
    password = answer.json["password"]
    assert len(password) == 16
    assert all(any(is_kind(char) for char in password) for is_kind in CHARACTERS.values())
    by_id = {span.context.span_id: span for span in spans()}
    assert {format_trace_id(span.context.trace_id) for span in by_id.values()} == {answer.json["trace_id"]}

    def parents(name: str) -> set[str | None]:
        children = [span for span in by_id.values() if span.name == name]
        return {by_id[span.parent.span_id].name if span.parent else None for span in children}

    assert parents("generator.generate") == {"GET /"}
    for operation in OPERATIONS:
        assert parents(operation) == {"generator.generate"}
    # Each call has a client span, which is the parent of the called service's server span.
    assert parents("GET") == OPERATIONS
    assert parents("GET /") == {None, "GET"}
    assert sum(span.name == "GET" for span in by_id.values()) == 16
    [generate] = [span for span in by_id.values() if span.name == "generator.generate"]
    assert generate.attributes["pwlen"] == 16


def test_lower_calls_digit_for_no_good_reason(client, spans, switch):
    switch({"lower.needless_calls": "strong"})
    app("lower").test_client().get("/")
    by_id = {span.context.span_id: span for span in spans()}
    [call] = [span for span in by_id.values() if span.name == "GET"]
    assert by_id[call.parent.span_id].name == "render_lower"
    assert "render_digit" in {span.name for span in by_id.values()}


@pytest.mark.parametrize("length", [8, 16, 128])
def test_a_password_has_the_requested_length(client, length):
    assert len(client.get(f"/?length={length}").json["password"]) == length


@pytest.mark.parametrize(
    "query",
    [
        "length=0",
        "length=7",
        "length=129",
        "length=-1",
        "length=abc",
        "length=1e3",
        "length=",
        "length=%D9%A1%D9%A6",
        "length=+16",
        "length=16&length=16",
        "length=99999999999999999999",
    ],
)
def test_a_bad_length_is_a_400(client, query):
    answer = client.get(f"/?{query}")
    assert answer.status_code == 400
    assert "8 to 128" in answer.json["error"]
    assert len(answer.json["trace_id"]) == 32


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/nothing", 404), ("POST", "/", 405), ("PUT", "/x", 404)])
def test_every_error_is_json(name, method, path, code, spans):
    answer = app(name).test_client().open(path, method=method)
    assert answer.status_code == code
    assert set(answer.json) == {"error", "trace_id"}
    assert int(answer.json["trace_id"], 16)
    if code == 405:
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("name", SERVICES)
def test_health_is_answered_and_not_traced(name, spans):
    assert app(name).test_client().get("/healthz").status_code == 200
    assert spans() == ()


def test_a_browser_gets_a_page(client, monkeypatch):
    monkeypatch.setattr("generator.app.generate", lambda length: "<script>&\"'")
    answer = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.mimetype == "text/html"
    assert "<script>" not in answer.text
    assert "&lt;script&gt;&amp;&#34;&#39;" in answer.text
    assert 'href="http://localhost:16686/trace/' in answer.text
    assert client.get("/", headers={"Accept": "*/*"}).mimetype == "application/json"


@pytest.mark.parametrize("host", ["192.0.2.7", "[2001:db8::1]"])
def test_the_page_links_to_the_trace_on_the_host_that_the_browser_asked(client, host):
    answer = client.get("/", headers={"Accept": "text/html", "Host": f"{host}:5050"})
    assert f'href="http://{host}:16686/trace/' in answer.text


def test_a_failed_password_gets_a_page_too(client, slow, spans, monkeypatch):
    monkeypatch.setattr(telemetry.call, "TIMEOUT", (60, 0.2))
    monkeypatch.setitem(generator.fetching.URLS, "uppers", f"{slow}/<b>")
    answer = client.get("/", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert f"{slow}/&lt;b&gt; did not answer: ReadTimeout" in answer.text
    assert "./run.sh status" in answer.text
    trace_id = format_trace_id(spans()[-1].context.trace_id)
    assert f'href="http://localhost:16686/trace/{trace_id}"' in answer.text
    failed = {span.name for span in spans() if span.status.status_code == StatusCode.ERROR}
    assert {"GET /", "generator.uppers"} <= failed


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/?length=3", 400), ("POST", "/", 405)])
def test_a_browser_gets_a_page_for_every_error(client, method, path, code, spans):
    answer = client.open(path, method=method, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (code, "text/html")
    assert f"/trace/{format_trace_id(spans()[-1].context.trace_id)}" in answer.text
    assert "fail on purpose" not in answer.text
    if code == 405:
        assert "GET" in answer.headers["Allow"]


def test_the_page_has_a_picture_of_the_trace_and_the_header_of_all_pages(client, spans):
    page = client.get("/?length=20", headers={"Accept": "text/html"})
    assert re.search(r'data-source="http://localhost:16686/trace/[0-9a-f]{32}/waterfall\.svg"', page.text)
    assert 'value="20"' in page.text
    created = len(spans())
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(files) == 3
    for file in files:
        assert "max-age=31536000" in client.get(file).headers["Cache-Control"]
    assert len(spans()) == created  # files are not traced
    assert "img-src 'self' data: http://*:16686" in page.headers["Content-Security-Policy"]


def test_the_error_names_a_slow_service_that_another_service_called(client, slow, monkeypatch, switch):
    monkeypatch.setattr(telemetry.call, "NESTED_TIMEOUT", (60, 0.2))
    monkeypatch.setattr("lower.app.DIGIT_URL", slow)
    switch({"lower.needless_calls": "strong"})
    answer = client.get("/")
    assert answer.status_code == 500
    assert f"answered 500: {slow} did not answer: ReadTimeout" in answer.json["error"]


def answering(body: str, status: int = 200) -> Flask:
    app = Flask("malformed")
    app.add_url_rule("/", view_func=lambda: (body, status))
    return app


@pytest.fixture
def slow():
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("not JSON", 200, "no JSON object"),
        ("[]", 200, "no JSON object"),
        ("{}", 200, "no character"),
        ('{"char": "ab"}', 200, "no character"),
        ('{"char": 7}', 200, "no character"),
        ('{"char": null}', 200, "no character"),
        ('{"error": "out of ink"}', 500, "500: out of ink"),
        ("<h1>Bad Gateway</h1>", 502, "502"),
    ],
)
def test_a_malformed_response_of_a_service_fails_the_password(client, serve, spans, body, status, reason, monkeypatch):
    url = serve(answering(body, status))
    monkeypatch.setitem(generator.fetching.URLS, "specials", url)
    answer = client.get("/")
    assert answer.status_code == 500
    assert url in answer.json["error"] and reason in answer.json["error"]
    assert "password" not in answer.json
    failed = {span.name for span in spans() if span.status.status_code == StatusCode.ERROR}
    # All spans from the root span to the failed call have an error, and no others.
    assert {"GET /", "generator.generate", "generator.specials"} <= failed
    assert not failed & (OPERATIONS - {"generator.specials"})
    [operation] = [span for span in spans() if span.name == "generator.specials"]
    assert reason in operation.events[-1].attributes["exception.message"]


def test_a_service_that_is_not_running():
    with app("lower").app_context(), pytest.raises(CallFailed, match="did not answer: ConnectionError"):
        fetch_character(f"http://127.0.0.1:{free_port()}", random.Random(1))


def test_a_slow_service(slow, monkeypatch):
    monkeypatch.setattr(telemetry.call, "TIMEOUT", (0.2, 0.2))
    with app("lower").app_context(), pytest.raises(CallFailed, match="did not answer: ReadTimeout"):
        fetch_character(slow, random.Random(1))


@pytest.fixture
def serving(processes):
    """A function that starts a service as the stacks do, and returns its process and URL."""

    def serving(name: str, **environment: str) -> tuple[subprocess.Popen, str]:
        processes.start(name, OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test", **environment)
        return processes.running[name], processes.urls[name]

    return serving


def status(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=60).status
    except urllib.error.HTTPError as error:  # in a bad minute of the service
        return error.code


def test_a_graceful_shutdown_exports_all_spans(serving, receiver):
    process, url = serving("digit")
    for _ in range(40):
        status(url)
    assert receiver.requests == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert sum(not span.parent_span_id for span in receiver.spans()) == 40
    [resource] = receiver.instances().values()
    assert resource["service.name"] == "digit"
    assert resource["service.version"] == tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert resource["deployment.environment.name"] == "test"


def test_a_graceful_shutdown_answers_and_traces_requests_that_have_begun(serving, receiver):
    with socket.create_server(("127.0.0.1", 0)) as upper:
        process, url = serving("generator", UPPER_URL=f"http://127.0.0.1:{upper.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            call, _ = upper.accept()
            process.send_signal(signal.SIGTERM)
            call.close()
            assert connection.recv(12) == b"HTTP/1.0 500"
        assert process.wait(timeout=60) == 0
    assert {span.name for span in receiver.spans()} == {"GET /", "generator.generate", "generator.uppers", "GET"}


def test_a_service_stops_without_a_collector(serving, receiver):
    process, url = serving("digit")
    receiver.close()
    status(url)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PORT": ""}, "PORT='' is not a port"),
        ({"PORT": "1e9"}, "not a port"),
        ({"BIND_ADDRESS": "203.0.113.1"}, "cannot listen"),
        ({"DEMO_INSTRUMENTATION": "yes"}, "DEMO_INSTRUMENTATION='yes' is none of on, off, auto"),
        ({"DEMO_INSTRUMENTATION": "auto", "PORT": ""}, "PORT='' is not a port"),
        ({"ALLOWED_HOSTS": "http://x"}, "ALLOWED_HOSTS: 'http://x' is not a host name"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(environment, reason):
    failed = subprocess.run(
        [sys.executable, "-m", "telemetry", "digit"],
        cwd=CHECKOUT,
        env=os.environ | {"PORT": "65535"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert failed.returncode == 1
    assert reason in failed.stderr and len(failed.stderr.splitlines()) == 1
