"""The five services, over HTTP, and the spans they make."""

import importlib
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask
from opentelemetry.trace import StatusCode, format_trace_id

import telemetry.call
import telemetry.service
import telemetry.work
from local import health
from telemetry.call import CallFailed, fetch_character
from tests.stack.checkout import wait_for

NAMES = ("digit", "special", "lower", "upper")
CHARACTERS = {
    "digit": str.isdigit,
    "upper": str.isupper,
    "lower": str.islower,
    "special": lambda char: char.isascii() and char.isprintable() and not char.isalnum() and char != " ",
}


def app(name: str) -> Flask:
    return importlib.import_module(f"{name}.app").app


def always(monkeypatch, chance: float) -> None:
    """Every throw of the dice comes out like this: 0, all that can happen does; 1, none of it."""
    monkeypatch.setattr(random, "random", lambda: chance)


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch):
    # Not the module's own sleep, which is everybody's: the tests pause with it while they wait.
    monkeypatch.setattr(telemetry.work, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def calm(monkeypatch):
    always(monkeypatch, 1)


@pytest.fixture
def whole(monkeypatch, serve, calm):
    """All services, finding one another; returns a client of the generator."""
    digit = serve(app("digit"))
    monkeypatch.setattr("lower.app.DIGIT_URL", digit)
    urls = {f"{name}s": serve(app(name)) for name in NAMES if name != "digit"} | {"digits": digit}
    monkeypatch.setattr("generator.app.URLS", urls)
    monkeypatch.setattr(telemetry.call, "TIMEOUT", 60)
    monkeypatch.setattr(telemetry.call, "SHORTER_TIMEOUT", 30)
    return app("generator").test_client()


@pytest.mark.parametrize("name", NAMES)
def test_a_character_service_answers_with_a_character(name, spans, calm):
    answer = app(name).test_client().get("/")
    assert answer.status_code == 200
    assert list(answer.json) == ["char"] and len(answer.json["char"]) == 1
    assert CHARACTERS[name](answer.json["char"])
    made = {span.name: span for span in spans()}
    assert set(made) == {"GET /", f"random_{name}", f"process_{name}", f"render_{name}"}
    for step in ("random", "process", "render"):
        assert made[f"{step}_{name}"].parent.span_id == made["GET /"].context.span_id
    assert made[f"process_{name}"].attributes["char"] == answer.json["char"]
    assert next(event.name for event in made[f"process_{name}"].events) == "loop"


def test_sometimes_there_is_extra_work(spans, monkeypatch):
    monkeypatch.setattr("digit.app.is_bad_minute", lambda now: False)
    always(monkeypatch, 0)
    app("digit").test_client().get("/")
    made = {span.name: span for span in spans()}
    assert made["extra_extra_process_digit"].parent.span_id == made["extra_process_digit"].context.span_id


def test_a_password(whole, spans):
    answer = whole.get("/")
    assert answer.status_code == 200
    password = answer.json["password"]
    assert len(password) == 16
    assert all(any(is_kind(char) for char in password) for is_kind in CHARACTERS.values())
    made = spans()
    assert {format_trace_id(span.context.trace_id) for span in made} == {answer.json["trace_id"]}
    by_id = {span.context.span_id: span for span in made}

    def parents(name: str) -> set[str]:
        return {by_id[span.parent.span_id].name if span.parent else None for span in made if span.name == name}

    assert parents("generator.generate") == {"GET /"}
    for group in ("uppers", "lowers", "digits", "specials"):
        assert parents(f"generator.{group}") == {"generator.generate"}
    # Each call is a client span, and the service's own span is below it: one trace through all of them.
    groups = {f"generator.{group}" for group in ("uppers", "lowers", "digits", "specials")}
    assert parents("GET") == groups
    assert parents("GET /") == {None, "GET"}
    assert sum(span.name == "GET" for span in made) == 16
    [generate] = [span for span in made if span.name == "generator.generate"]
    assert generate.attributes["pwlen"] == 16


def test_lower_calls_digit_for_no_good_reason(whole, spans, monkeypatch):
    always(monkeypatch, 0.49)
    app("lower").test_client().get("/")
    by_id = {span.context.span_id: span for span in spans()}
    [call] = [span for span in by_id.values() if span.name == "GET"]
    assert by_id[call.parent.span_id].name == "render_lower"
    assert "render_digit" in {span.name for span in by_id.values()}


@pytest.mark.parametrize("length", [8, 16, 128])
def test_a_length_is_honoured(whole, length):
    assert len(whole.get(f"/?length={length}").json["password"]) == length


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
def test_a_bad_length_is_a_400(whole, query):
    answer = whole.get(f"/?{query}")
    assert answer.status_code == 400
    assert "8 to 128" in answer.json["error"]
    assert len(answer.json["trace_id"]) == 32


@pytest.mark.parametrize("name", [*NAMES, "generator"])
@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/nothing", 404), ("POST", "/", 405), ("PUT", "/x", 404)])
def test_every_error_is_json(name, method, path, code, spans):
    answer = app(name).test_client().open(path, method=method, headers={"Accept": "text/html"})
    assert answer.status_code == code
    assert set(answer.json) == {"error", "trace_id"}
    assert int(answer.json["trace_id"], 16)
    if code == 405:
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("name", [*NAMES, "generator"])
def test_health_is_answered_and_not_traced(name, spans):
    assert app(name).test_client().get("/healthz").status_code == 200
    assert spans() == ()


def test_a_browser_gets_a_page(whole, monkeypatch):
    monkeypatch.setattr("generator.app.generate", lambda length: "<script>&\"'")
    answer = whole.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.mimetype == "text/html"
    assert "<script>" not in answer.text
    assert "&lt;script&gt;&amp;&#34;&#39;" in answer.text
    assert 'href="http://localhost:16686/trace/' in answer.text
    assert whole.get("/", headers={"Accept": "*/*"}).mimetype == "application/json"


@pytest.mark.parametrize("host", ["192.0.2.7", "[2001:db8::1]"])
def test_the_page_leads_to_the_trace_on_the_machine_that_was_asked(whole, host):
    answer = whole.get("/", headers={"Accept": "text/html", "Host": f"{host}:5050"})
    assert f'href="http://{host}:16686/trace/' in answer.text


def test_a_failed_password_gets_a_page_too(whole, slow, spans, monkeypatch):
    monkeypatch.setattr(telemetry.call, "TIMEOUT", (60, 0.2))
    monkeypatch.setitem(importlib.import_module("generator.app").URLS, "uppers", f"{slow}/<b>")
    answer = whole.get("/", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert f"{slow}/&lt;b&gt; did not answer: ReadTimeout" in answer.text
    assert "./run.sh status" in answer.text
    trace_id = format_trace_id(spans()[-1].context.trace_id)
    assert f'href="http://localhost:16686/trace/{trace_id}"' in answer.text
    failed = {span.name for span in spans() if span.status.status_code == StatusCode.ERROR}
    assert {"GET /", "generator.uppers"} <= failed


def test_a_failed_password_names_also_whom_another_service_waited_for(whole, slow, monkeypatch):
    monkeypatch.setattr(telemetry.call, "SHORTER_TIMEOUT", (60, 0.2))
    monkeypatch.setattr("lower.app.DIGIT_URL", slow)
    always(monkeypatch, 0.49)
    answer = whole.get("/")
    assert answer.status_code == 500
    assert f"answered 500: {slow} did not answer: ReadTimeout" in answer.json["error"]


def answering(body: str, status: int = 200) -> Flask:
    app = Flask("garbage")
    app.add_url_rule("/", view_func=lambda: (body, status))
    return app


@pytest.fixture
def slow():
    """The URL of a server that takes connections and never answers."""
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
def test_a_service_that_speaks_garbage_fails_the_password(whole, serve, spans, body, status, reason, monkeypatch):
    url = serve(answering(body, status))
    monkeypatch.setitem(importlib.import_module("generator.app").URLS, "specials", url)
    answer = whole.get("/")
    assert answer.status_code == 500
    assert url in answer.json["error"] and reason in answer.json["error"]
    assert "password" not in answer.json
    failed = {span.name for span in spans() if span.status.status_code == StatusCode.ERROR}
    # The whole path is marked, and the branch in it says which call it was.
    assert {"GET /", "generator.generate", "generator.specials"} <= failed
    assert not failed & {"generator.uppers", "generator.lowers", "generator.digits"}
    [branch] = [span for span in spans() if span.name == "generator.specials"]
    assert reason in branch.events[-1].attributes["exception.message"]


def test_a_dead_service(calm):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(CallFailed, match="did not answer"):
        fetch_character(url)


def test_a_slow_service(slow, monkeypatch):
    monkeypatch.setattr(telemetry.call, "TIMEOUT", (0.2, 0.2))
    with pytest.raises(CallFailed, match="did not answer: ReadTimeout"):
        fetch_character(slow)


def test_digit_goes_wrong_every_fifth_minute(spans, monkeypatch):
    digit = importlib.import_module("digit.app")
    assert [minute for minute in range(20) if digit.is_bad_minute(minute * 60 + 59)] == [4, 9, 14, 19]
    monkeypatch.setattr(digit, "is_bad_minute", lambda now: True)
    always(monkeypatch, 0.02)
    answer = app("digit").test_client().get("/")
    assert answer.status_code == 500
    assert "out of ink" in answer.json["error"]
    failed = {span.name for span in spans() if span.status.status_code == StatusCode.ERROR}
    assert failed == {"render_digit", "GET /"}


def test_digits_time_is_a_wave():
    digit = importlib.import_module("digit.app")
    times = [digit.seconds_at(second) for second in range(digit.WAVE_SECONDS)]
    assert min(times) > 0
    assert max(times) > 5 * min(times)
    assert digit.seconds_at(17) == pytest.approx(digit.seconds_at(17 + digit.WAVE_SECONDS))


def test_upper_gets_slower_through_the_hour():
    upper = importlib.import_module("upper.app")
    times = [upper.seconds_at(minute * 60) for minute in range(60)]
    assert times == sorted(times)
    assert times[-1] > 4 * times[0]
    assert upper.seconds_at(3600) == times[0]


@pytest.mark.parametrize(("name", "bad", "good"), [("upper", "A", "B"), ("special", "$", "!")])
def test_some_characters_fail_one_time_in_twenty(name, bad, good, monkeypatch, exporter):
    service = importlib.import_module(f"{name}.app")
    process = getattr(service, f"process_{name}")
    always(monkeypatch, 0.06)
    process(bad)
    always(monkeypatch, 0.04)
    process(good)
    with pytest.raises(Exception, match=f"\\{bad}"):
        process(bad)


@pytest.mark.parametrize(
    ("name", "slow", "fast"), [("digit", "4", "1"), ("upper", "Q", "B"), ("lower", "k", "a"), ("special", "%", "!")]
)
def test_some_characters_take_far_longer(name, slow, fast, monkeypatch, calm):
    service = importlib.import_module(f"{name}.app")
    asked = []
    monkeypatch.setattr(service, "work", lambda seconds, char: asked.append(seconds))
    monkeypatch.setattr(service, "time", Stopped(), raising=False)
    for char in (slow, fast):
        getattr(service, f"process_{name}")(char)
    assert asked[0] >= 3 * asked[1]


class Stopped:
    """A clock that stands still."""

    def time(self) -> float:
        return 1_000_000


def test_one_call_in_a_hundred_is_slow(monkeypatch):
    slept = []
    monkeypatch.setattr(telemetry.work.time, "sleep", slept.append)
    monkeypatch.setattr(random, "uniform", lambda low, high: 1)
    always(monkeypatch, 0.02)
    telemetry.work.work(1, "x")
    assert sum(slept) == pytest.approx(1)
    slept.clear()
    always(monkeypatch, 0.009)
    telemetry.work.work(1, "x")
    assert sum(slept) == pytest.approx(telemetry.work.SLOWNESS)


@pytest.fixture
def serving(receiver, tmp_path):
    """A function that starts one of the services as the stacks do; returns its process and URL."""
    processes = []

    def serving(name: str, **environment: str) -> tuple[subprocess.Popen, str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "telemetry", name],
            cwd=Path(__file__).parents[2],
            env=os.environ
            | {
                "PORT": str(port),
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
                # Nothing is sent before the end, unless it is flushed.
                "OTEL_BSP_SCHEDULE_DELAY": "600000",
                "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
            }
            | environment,
            stderr=(tmp_path / f"{name}.log").open("w"),
        )
        processes.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: health.answers(f"{url}/healthz"), f"{name}'s health")
        return process, url

    yield serving
    for process in processes:
        process.kill()
        process.wait()


def status(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=60).status
    except urllib.error.HTTPError as error:  # services have their bad minutes
        return error.code


def test_all_spans_arrive_when_a_service_stops(serving, receiver):
    process, url = serving("digit")
    assert {status(url) for _ in range(40)} <= {200, 500}
    assert receiver.requests == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert sum(not span.parent_span_id for span in receiver.spans()) == 40
    [resource] = receiver.instances().values()
    assert resource["service.name"] == "digit"
    assert resource["service.version"]
    assert resource["deployment.environment.name"] == "test"


def test_what_is_under_way_when_a_service_stops_is_answered_and_traced(serving, receiver):
    with socket.create_server(("127.0.0.1", 0)) as upper:
        process, url = serving("generator", UPPER_URL=f"http://127.0.0.1:{upper.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as asking:
            asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
            called, _ = upper.accept()
            process.send_signal(signal.SIGTERM)
            called.close()
            assert asking.recv(12) == b"HTTP/1.0 500"
        assert process.wait(timeout=60) == 0
    assert {span.name for span in receiver.spans()} == {"GET /", "generator.generate", "generator.uppers", "GET"}


def test_a_service_stops_though_the_collector_is_away(serving, receiver):
    process, url = serving("digit")
    receiver.close()
    status(url)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PORT": ""}, "PORT='' is no port"),
        ({"PORT": "1e9"}, "no port"),
        ({"BIND_ADDRESS": "203.0.113.1"}, "cannot listen"),
        ({"ALLOWED_HOSTS": "http://x"}, "ALLOWED_HOSTS: 'http://x' is no host name"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(environment, reason):
    failed = subprocess.run(
        [sys.executable, "-m", "telemetry", "digit"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PORT": "65535"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert failed.returncode == 1
    assert reason in failed.stderr and len(failed.stderr.splitlines()) == 1
