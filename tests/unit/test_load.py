"""The users, and how they wait for a generator, against one that answers as the test wants."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flask import Flask, request
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.trace import StatusCode

from load import waiting
from load.users import FIRST_BACKOFF_SECONDS, Statistics, User, percentiles
from tests.stack.checkout import wait_for


class Generator:
    """Notes the lengths that it is asked for. `status` is what it answers, `health` what it says of its health."""

    def __init__(self) -> None:
        self.lengths, self.checks = [], 0
        self.status = self.health = 200
        self.app = Flask("generator")
        self.app.add_url_rule("/", view_func=self._password)
        self.app.add_url_rule("/healthz", view_func=self._healthz)

    def _password(self):
        self.lengths.append(int(request.args["length"]))
        return {"password": "x", "trace_id": "y"}, self.status

    def _healthz(self):
        self.checks += 1
        return {}, self.health


@pytest.fixture
def generator():
    return Generator()


@pytest.fixture
def url(generator, serve):
    """Where the generator answers."""
    return serve(generator.app)


@pytest.fixture
def closed():
    """A socket at which nobody listens, so that connections to it are refused; and its URL."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


def user(url: str, statistics: Statistics) -> User:
    return User(url, 0, statistics, threading.Event(), random.Random(1))


def test_each_request_is_a_trace_of_its_own(generator, url, spans):
    if not RequestsInstrumentor().is_instrumented_by_opentelemetry:
        RequestsInstrumentor().instrument()
    someone = user(url, Statistics())
    for _ in range(5):
        someone.ask()
    roots = [span for span in spans() if span.name == "load.request"]
    assert len({span.context.trace_id for span in roots}) == 5
    assert all(span.parent is None for span in roots)
    assert [span.attributes["pwlen"] for span in roots] == generator.lengths
    assert len(set(generator.lengths)) > 1 and all(8 <= length <= 128 for length in generator.lengths)
    assert {span.parent.span_id for span in spans() if span.name == "GET"} == {root.context.span_id for root in roots}


def test_a_failed_password_is_counted_and_marked(generator, url, spans):
    statistics = Statistics()
    someone = user(url, statistics)
    someone.ask()
    generator.status = 500
    someone.ask()
    assert re.fullmatch(r"requests=2 req/s=0\.2 p50=\d+ms p95=\d+ms failures=1", statistics.line(10))
    assert [span.status.status_code for span in spans() if span.name == "load.request"] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]
    assert statistics.line(10) == "requests=0 req/s=0.0 p50=0ms p95=0ms failures=0"


def test_an_absent_generator_is_an_error_said_once_and_asked_less_and_less(url, closed, spans, caplog):
    statistics = Statistics()
    someone = user(closed[1], statistics)
    backoffs = []
    with caplog.at_level("INFO", "load"):
        for _ in range(8):
            someone.ask()
            backoffs.append(someone._backoff)
        someone._url = url
        someone.ask()
    assert backoffs[:3] == [FIRST_BACKOFF_SECONDS, 2 * FIRST_BACKOFF_SECONDS, 4 * FIRST_BACKOFF_SECONDS]
    assert backoffs[-1] == backoffs[-2] == 10
    assert someone._backoff == 0
    messages = [record.message for record in caplog.records if record.name == "load"]
    assert len(messages) == 2
    assert "away" in messages[0] and "there again" in messages[1]
    assert "failures=8" in statistics.line(10)
    marked = [span.status for span in spans() if span.name == "load.request"]
    assert [status.description for status in marked] == ["ConnectionError"] * 8 + [None]


def test_percentiles():
    assert percentiles([]) == (0, 0)
    assert percentiles([3.0]) == (3, 3)
    assert percentiles([float(n) for n in range(101)]) == (50, 95)


@pytest.fixture
def start():
    """A function that starts `python -m load` with such variables."""
    started = []

    def start(**environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "load"],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OTEL_SDK_DISABLED": "true"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen) -> str:
    """Returns what the process has said, which must end well."""
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def test_the_process_asks_on_and_on_and_stops(generator, url, start):
    process = start(GENERATOR_URL=url, LOAD_USERS="4", LOAD_RATE="40")
    wait_for(lambda: len(generator.lengths) >= 20, "twenty requests")
    said = stop(process)
    assert "4 users" in said and "40 times a second" in said


def test_nothing_is_asked_or_traced_before_the_generator_is_healthy(generator, closed, serve, start, receiver):
    """First connections are refused, then it says that it is not healthy, then it is."""
    generator.health = 503
    endpoint = f"http://127.0.0.1:{receiver.port}"
    process = start(
        GENERATOR_URL=closed[1], LOAD_RATE="40", OTEL_SDK_DISABLED="false", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
    )
    assert "Waiting until the generator" in process.stdout.readline()
    serve(generator.app, closed[0])
    wait_for(lambda: generator.checks >= 3, "three checks of its health")
    assert generator.lengths == []
    generator.health = 200
    wait_for(lambda: len(generator.lengths) >= 3, "three requests")
    stop(process)
    names = [span.name for span in receiver.spans()]
    assert sorted(names) == ["GET"] * len(generator.lengths) + ["load.request"] * len(generator.lengths)
    assert {span.status.code for span in receiver.spans()} == {Status.STATUS_CODE_UNSET}


def test_the_process_stops_though_the_generator_never_came(closed, start):
    process = start(GENERATOR_URL=closed[1])
    assert "Waiting until the generator" in process.stdout.readline()
    stop(process)


def test_the_waiting_has_an_end_and_does_not_fill_the_log(closed, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "PAUSE_SECONDS", 0)
    with caplog.at_level("INFO", "load"), pytest.raises(SystemExit, match=f"{closed[1]} is not healthy"):
        waiting.wait_for_generator(closed[1], threading.Event())
    assert len(caplog.records) == waiting.TRIES / waiting.TRIES_PER_LINE


@pytest.mark.parametrize(
    ("name", "value"), [("LOAD_USERS", "0"), ("LOAD_USERS", "many"), ("LOAD_RATE", "-1"), ("LOAD_RATE", "nan")]
)
def test_a_wrong_setting_is_one_clear_line(start, name, value):
    process = start(**{name: value})
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("\n") == 1 and name in said and value in said
