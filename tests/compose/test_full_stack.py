"""The full stack: what the README promises of it, and that nothing acknowledged is lost whatever dies."""

import os
import re
import subprocess
import sys
import time

import pytest
import requests

from tests.compose.images import docker
from tests.stack.checkout import ROOT, wait_for
from tests.stack.exporter import check, exporting, wait_for_more


@pytest.fixture
def exporters(stack):
    with exporting() as both:
        yield both


def test_the_smoke_tests_pass(stack):
    environment = os.environ | {"STACK_GENERATOR_URL": stack.generator, "STACK_DSN": stack.dsn}
    command = [sys.executable, "-m", "pytest", "-q", "tests/stack/test_smoke.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_status_says_that_all_is_healthy(stack):
    parts = wait_for(stack.pids, "health").keys()
    assert parts >= {"postgres", "promscale", "collector", "load", "generator", "upper", "lower", "digit", "special"}
    file = stack.checkout.folder / "docker-compose.yaml"
    assert parts == set(docker("compose", "--file", str(file), "config", "--services").stdout.split())
    assert stack.stored_spans() > 0


def test_starting_it_again_is_harmless(stack):
    before = wait_for(stack.pids, "health")
    again = stack.checkout.run()
    assert again.returncode == 0, again.stderr
    assert wait_for(stack.pids, "health") == before


def test_the_local_stack_does_not_start_beside_it(stack):
    beside = stack.checkout.run("local")
    assert beside.returncode == 1
    assert "the full stack runs here" in beside.stderr


def test_psql_and_logs_find_the_full_stack(stack):
    assert "timescaledb" in stack.psql("-Atc", "select extname from pg_extension")
    known = stack.checkout.run("logs", "nobody")
    assert known.returncode == 1
    assert "collector, digit, generator" in known.stderr


def test_a_rate_keeps_whole_traces_only(stack):
    """And without one, nothing is noted in the spans."""
    assert stack.rows("select count(*) from ps_trace.span where trace_state is not null") == [(0,)]
    # Not only the Collector anew: services take half a minute to find one at another address.
    stack.checkout.run("down")
    started = stack.checkout.run("docker", env=os.environ | {"TRACE_SAMPLING_PERCENT": "30"})
    assert started.returncode == 0, started.stderr
    passwords = [requests.get(stack.generator, timeout=60).json()["trace_id"] for _ in range(40)]
    stack.checkout.run("down")
    again = stack.checkout.run("docker")
    assert again.returncode == 0, again.stderr

    def whole():
        """The traces that were kept, if none has loose ends."""
        kept = stack.rows(
            "select trace_id, count(*) filter (where not is_root_span and not exists (select from ps_trace.span as parent"
            " where parent.trace_id = span.trace_id and parent.span_id = span.parent_span_id))"
            " from ps_trace.span where trace_id = any(%s::text[]::trace_id[]) group by trace_id",
            passwords,
        )
        return all(loose_ends == 0 for _, loose_ends in kept) and kept

    # The Collector may still have some of their spans in its queue.
    assert len(wait_for(whole, "traces, and all of them whole")) < len(passwords)


def test_jaeger_shows_a_trace_and_who_calls_whom(stack):
    if "jaeger" not in wait_for(stack.pids, "health"):
        pytest.skip("there is no image of Jaeger here, and no stand-in for it")
    trace_id = requests.get(stack.generator, timeout=60).json()["trace_id"]
    jaeger = "http://localhost:16686/api"

    def spans():
        answer = requests.get(f"{jaeger}/traces/{trace_id}", timeout=60)
        return answer.ok and answer.json()["data"][0]["spans"]

    stored = "select count(*) from ps_trace.span where trace_id = %s"
    wait_for(lambda: (found := spans()) and len(found) == stack.rows(stored, trace_id)[0][0], "the whole trace")

    def callers():
        asked = {"endTs": int(time.time() * 1000), "lookback": 3_600_000}
        return {call["parent"] for call in requests.get(f"{jaeger}/dependencies", asked, timeout=60).json()["data"]}

    wait_for(lambda: {"generator", "lower"} <= callers(), "calls by generator and by lower")


def test_all_containers_stay_under_2500_megabytes(stack):
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    parts = wait_for(stack.pids, "health")
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *map(stack.container, parts)).stdout
    amounts = re.findall(r"^([\d.]+)(\w+) /", used, re.MULTILINE)
    assert sum(float(number) * factor[unit] for number, unit in amounts) < 2500 * 10**6


@pytest.mark.parametrize("name", ["postgres", "promscale", "collector"])
@pytest.mark.parametrize("how", ["kill", "restart"])
def test_what_is_acknowledged_is_there_once_whatever_dies(stack, exporters, how, name):
    before = wait_for(stack.pids, "health")[name]
    wait_for_more(exporters)
    getattr(stack, how)(name)
    wait_for(lambda: stack.pids().get(name, before) != before, f"another {name}, and health")
    wait_for_more(exporters)
    check(stack, exporters, collector_may_lose=False)


@pytest.mark.parametrize("name", ["generator", "digit", "load"])
def test_every_other_part_comes_back_too(stack, name):
    before = wait_for(stack.pids, "health")[name]
    stack.kill(name)
    wait_for(lambda: stack.pids().get(name, before) != before, f"another {name}, and health")


def test_down_keeps_what_is_stored_and_what_is_on_its_way(stack):
    """Without promscale, the Collector has it all in its queue."""
    wait_for(stack.pids, "health")
    spans = stack.rows("select count(*) from ps_trace.span")
    docker("stop", stack.container("promscale"))
    with exporting() as exporters:
        wait_for_more(exporters[1:])
        exporters[1].stop()
    down = stack.checkout.run("down")
    assert down.returncode == 0, down.stderr
    assert "none is left" in down.stdout
    assert stack.checkout.run("down").stdout == "Nothing was running.\n"
    started = stack.checkout.run("docker")
    assert started.returncode == 0, started.stderr
    assert stack.rows("select count(*) from ps_trace.span") >= spans
    check(stack, exporters, collector_may_lose=False)
