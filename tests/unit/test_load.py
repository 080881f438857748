"""The simulated users, and how they wait for the generator, against a generator that answers as the test wants."""

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from flask import Flask, request
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.trace import StatusCode

from load import waiting
from load.traffic import Requests, Traffic
from load.users import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, Statistics, User, percentiles
from local import CHECKOUT
from tests.waiting import free_port, wait_until


class Generator:
    """Records the requested lengths and counts the health checks. `status` and `health` are the codes of its
    answers."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.checks = 0
        self.status = self.health = 200
        self.app = Flask("generator")
        self.app.add_url_rule("/", view_func=self.password)
        self.app.add_url_rule("/healthz", view_func=self.healthz)

    def password(self):
        self.lengths.append(int(request.args["length"]))
        return {"password": "x", "trace_id": "y"}, self.status

    def healthz(self):
        self.checks += 1
        return {}, self.health


@pytest.fixture
def generator():
    return Generator()


@pytest.fixture
def url(generator, serve):
    """The URL of the generator."""
    return serve(generator.app)


@pytest.fixture
def unused_port():
    """A port where nothing listens, so that connections to it are refused."""
    return free_port()


def new_user(url: str, statistics: Statistics) -> User:
    return User(url, 0, Requests(Traffic(1, 1, seed=1)), statistics, threading.Event())


def test_each_request_is_a_trace_of_its_own(generator, url, spans):
    if not RequestsInstrumentor().is_instrumented_by_opentelemetry:
        RequestsInstrumentor().instrument()
    user = new_user(url, Statistics())
    for _ in range(5):
        user.request_password()
    roots = [span for span in spans() if span.name == "load.request"]
    assert len({span.context.trace_id for span in roots}) == 5
    assert all(span.parent is None for span in roots)
    assert [span.attributes["pwlen"] for span in roots] == generator.lengths
    assert len(set(generator.lengths)) > 1 and all(8 <= length <= 128 for length in generator.lengths)
    assert {span.parent.span_id for span in spans() if span.name == "GET"} == {root.context.span_id for root in roots}


def test_a_failed_password_is_counted_and_marked_in_the_trace(generator, url, spans):
    statistics = Statistics()
    user = new_user(url, statistics)
    user.request_password()
    generator.status = 500
    user.request_password()
    assert re.fullmatch(r"requests=2 req/s=0\.2 p50=\d+ms p95=\d+ms failures=1", statistics.report(10))
    assert [span.status.status_code for span in spans() if span.name == "load.request"] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]
    assert statistics.report(10) == "requests=0 req/s=0.0 p50=0ms p95=0ms failures=0"


def test_without_an_answer_there_is_exponential_backoff_and_one_line_in_the_log(
    generator, unused_port, serve, spans, caplog
):
    statistics = Statistics()
    user = new_user(f"http://127.0.0.1:{unused_port}", statistics)
    backoffs = []
    with caplog.at_level("INFO", "load"):
        for _ in range(8):
            user.request_password()
            backoffs.append(user.backoff_seconds)
        serve(generator.app, unused_port)
        user.request_password()
    assert backoffs[:3] == [FIRST_BACKOFF_SECONDS, 2 * FIRST_BACKOFF_SECONDS, 4 * FIRST_BACKOFF_SECONDS]
    assert backoffs[-2:] == [MAX_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS]
    assert user.backoff_seconds == 0
    messages = [record.message for record in caplog.records if record.name == "load"]
    assert len(messages) == 2
    assert "does not answer; retrying" in messages[0] and "answers again" in messages[1]
    assert "failures=8" in statistics.report(10)
    statuses = [span.status for span in spans() if span.name == "load.request"]
    assert [status.description for status in statuses] == ["ConnectionError"] * 8 + [None]


def test_percentiles():
    assert percentiles([]) == (0, 0)
    assert percentiles([3.0]) == (3, 3)
    assert percentiles([float(n) for n in range(101)]) == (50, 95)


@pytest.fixture
def start():
    """A function that starts `python -m load` with these environment variables."""
    processes = []

    def start(**environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "load"],
            cwd=CHECKOUT,
            env=os.environ | {"OTEL_SDK_DISABLED": "true"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen) -> str:
    """Send SIGTERM; returns the output of the process, whose exit code must be 0."""
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_the_process_sends_requests_until_it_is_stopped(generator, url, start):
    process = start(GENERATOR_URL=url, LOAD_USERS="4", LOAD_RATE="40")
    wait_until(lambda: len(generator.lengths) >= 20, "twenty requests")
    assert "users=4 rate=40/s" in stop(process)


@pytest.mark.parametrize(
    ("instrumentation", "spans_of_a_request"), [("on", ["GET", "load.request"]), ("auto", ["GET"]), ("off", [])]
)
def test_nothing_is_requested_or_traced_before_the_generator_is_healthy(
    generator, unused_port, serve, start, receiver, instrumentation, spans_of_a_request
):
    """First connections are refused, then /healthz fails, then it succeeds."""
    generator.health = 503
    endpoint = f"http://127.0.0.1:{receiver.port}"
    process = start(
        GENERATOR_URL=f"http://127.0.0.1:{unused_port}",
        LOAD_RATE="40",
        OTEL_SDK_DISABLED="false",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        DEMO_INSTRUMENTATION=instrumentation,
    )
    assert "Waiting until the generator" in process.stdout.readline()
    serve(generator.app, unused_port)
    wait_until(lambda: generator.checks >= 3, "three health checks")
    assert generator.lengths == []
    generator.health = 200
    wait_until(lambda: len(generator.lengths) >= 3, "three requests")
    stop(process)
    names = [span.name for span in receiver.spans()]
    assert sorted(names) == sorted(spans_of_a_request * len(generator.lengths))
    assert {span.status.code for span in receiver.spans()} <= {Status.STATUS_CODE_UNSET}


def test_the_process_stops_while_it_waits_for_the_generator(unused_port, start):
    process = start(GENERATOR_URL=f"http://127.0.0.1:{unused_port}")
    assert "Waiting until the generator" in process.stdout.readline()
    stop(process)


def test_the_wait_for_the_generator_ends_and_does_not_fill_the_log(unused_port, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "PAUSE_SECONDS", 0)
    url = f"http://127.0.0.1:{unused_port}"
    with caplog.at_level("INFO", "load"), pytest.raises(SystemExit, match=f"{url} is not healthy"):
        waiting.wait_for_generator(url, threading.Event())
    assert len(caplog.records) == waiting.TRIES / waiting.TRIES_PER_LOG_LINE


def test_the_traffic_changes_while_the_process_runs(generator, url, start, flag_file):
    process = start(GENERATOR_URL=url, LOAD_USERS="4", LOAD_RATE="40", FAULTS_FILE=str(flag_file.path))
    wait_until(lambda: generator.lengths, "a request")
    flag_file.set(load={"users": 1, "rate": 50, "seed": 7})
    expected = Requests(Traffic(1, 1, seed=7))
    first = [expected.next().length for _ in range(4)]

    def sent_those_of_the_seed() -> bool:
        lengths = list(generator.lengths)
        return any(lengths[begin : begin + 4] == first for begin in range(len(lengths)))

    wait_until(sent_those_of_the_seed, "the first requests of the seed")
    flag_file.reset()
    seen = len(generator.lengths)
    wait_until(lambda: len(generator.lengths) >= seen + 200, "200 requests, most of them of the traffic before")
    output = stop(process)
    assert output.count("users=4 rate=40/s to") == 2
    assert "users=1 rate=50/s seed=7 to" in output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOAD_USERS", "0"),
        ("LOAD_USERS", "many"),
        ("LOAD_RATE", "-1"),
        ("LOAD_RATE", "nan"),
        ("DEMO_SEED", "-1"),
        ("DEMO_SEED", "seven"),
        ("DEMO_INSTRUMENTATION", "yes"),
    ],
)
def test_an_invalid_setting_is_named_in_one_line(start, name, value):
    process = start(**{name: value})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.count("\n") == 1 and re.search(f"{name}={value!r} is (not a|none of) ", output)
