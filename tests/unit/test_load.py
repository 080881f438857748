"""The users, against a generator that answers as the test wants."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from flask import Flask, request
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import StatusCode

from load.users import FIRST_BACKOFF_SECONDS, Statistics, User, percentiles


@pytest.fixture
def asked(serve):
    """(the generator's URL, the lengths it was asked for, a dict whose "status" is what it answers)."""
    lengths, answer = [], {"status": 200}
    app = Flask("generator")

    @app.get("/")
    def password():
        lengths.append(int(request.args["length"]))
        return {"password": "x", "trace_id": "y"}, answer["status"]

    return serve(app), lengths, answer


def user(url: str, statistics: Statistics) -> User:
    return User(url, 0, statistics, threading.Event(), random.Random(1))


def test_each_request_is_a_trace_of_its_own(asked, spans):
    url, lengths, _ = asked
    if not RequestsInstrumentor().is_instrumented_by_opentelemetry:
        RequestsInstrumentor().instrument()
    someone = user(url, Statistics())
    for _ in range(5):
        someone.ask()
    roots = [span for span in spans() if span.name == "load.request"]
    assert len({span.context.trace_id for span in roots}) == 5
    assert all(span.parent is None for span in roots)
    assert [span.attributes["pwlen"] for span in roots] == lengths
    assert len(set(lengths)) > 1 and all(8 <= length <= 128 for length in lengths)
    assert {span.parent.span_id for span in spans() if span.name == "GET"} == {root.context.span_id for root in roots}


def test_a_failed_password_is_counted_and_marked(asked, spans):
    url, _, answer = asked
    statistics = Statistics()
    someone = user(url, statistics)
    someone.ask()
    answer["status"] = 500
    someone.ask()
    assert re.fullmatch(r"requests=2 req/s=0\.2 p50=\d+ms p95=\d+ms failures=1", statistics.line(10))
    assert [span.status.status_code for span in spans() if span.name == "load.request"] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]
    assert statistics.line(10) == "requests=0 req/s=0.0 p50=0ms p95=0ms failures=0"


def test_an_absent_generator_is_said_once_and_asked_less_and_less(asked, caplog):
    url, _, _ = asked
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    statistics = Statistics()
    someone = user(nobody, statistics)
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


def test_percentiles():
    assert percentiles([]) == (0, 0)
    assert percentiles([3.0]) == (3, 3)
    assert percentiles([float(n) for n in range(101)]) == (50, 95)


def start(**environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "load"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OTEL_SDK_DISABLED": "true"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_process_asks_at_the_rate_it_is_told_and_stops(asked):
    url, lengths, _ = asked
    process = start(GENERATOR_URL=url, LOAD_USERS="4", LOAD_RATE="40")
    deadline = time.monotonic() + 60
    while len(lengths) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert "4 users" in process.stdout.read()


@pytest.mark.parametrize(("name", "value"), [("LOAD_USERS", "0"), ("LOAD_USERS", "many"), ("LOAD_RATE", "-1"), ("LOAD_RATE", "nan")])
def test_a_wrong_setting_is_one_clear_line(name, value):
    process = start(**{name: value})
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("\n") == 1 and name in said and value in said
