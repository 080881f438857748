"""The full stack: what the README says of it, and that no acknowledged span is lost when containers are killed."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import requests

from local import CHECKOUT
from telemetry.services import PAGES, SERVICES
from tests.compose.images import docker
from tests.stack.exporter import check, exporting, wait_for_more
from tests.stack.stacks import checked
from tests.waiting import wait_until


@pytest.fixture
def exporters(stack):
    with exporting() as exporters:
        yield exporters


def test_the_smoke_tests_pass(stack):
    environment = os.environ | {"STACK_GENERATOR_URL": stack.generator, "STACK_DSN": stack.dsn}
    command = [sys.executable, "-m", "pytest", "-q", "tests/stack/test_smoke.py"]
    pytest_run = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert pytest_run.returncode == 0, pytest_run.stdout


def test_status_says_that_all_parts_are_healthy(stack):
    parts = stack.healthy_pids().keys()
    assert parts >= {"postgres", "promscale", "collector", "load", *SERVICES}
    file = stack.checkout.folder / "docker-compose.yaml"
    assert parts == set(docker("compose", "--file", str(file), "config", "--services").stdout.split())
    assert stack.stored_spans() > 0
    assert "encoder: rust\n" in stack.checkout.run("status").stdout


def test_another_start_changes_nothing(stack):
    before = stack.healthy_pids()
    again = stack.checkout.run()
    assert again.returncode == 0, again.stderr
    assert stack.healthy_pids() == before


def test_the_local_stack_does_not_start_beside_it(stack):
    beside = stack.checkout.run("local")
    assert beside.returncode == 1
    assert "the full stack is running on the same ports" in beside.stderr


def test_psql_and_logs_find_the_full_stack(stack):
    assert "timescaledb" in stack.psql("-Atc", "select extname from pg_extension")
    listing = stack.checkout.run("logs", "nobody")
    assert listing.returncode == 1
    assert "collector, dashboards, digit, faults, generator" in listing.stderr


def test_the_commands_switch_faults(stack):
    shown = checked(stack.checkout.run("faults", "set", "digit.errors", "strong")).stdout
    assert re.search(r"^\* digit\.errors +strong +mild ", shown, re.MULTILINE)
    file = docker("exec", stack.container("digit"), "cat", "/var/lib/faults/flags.json").stdout
    assert json.loads(file)["flags"]["digit.errors"]["defaultVariant"] == "strong"
    assert "10 users, 2 requests per second" in checked(stack.checkout.run("load", "--users=10", "--rate=2")).stdout
    assert "All faults are at their defaults." in checked(stack.checkout.run("faults", "reset")).stdout


def test_the_percentage_that_the_collector_samples_is_a_setting(stack):
    """tests/unit/test_collector.py tests what the Collector does with it."""
    file = str(stack.checkout.folder / "docker-compose.yaml")
    environment = os.environ | {"TRACE_SAMPLING_PERCENT": "30"}
    config = docker("compose", "--file", file, "config", "--format", "json", env=environment).stdout
    variables = json.loads(config)["services"]["collector"]["environment"]
    assert variables["TRACE_SAMPLING_PERCENT"] == "30"
    assert variables["COLLECTOR_PROCESSORS"] == "[memory_limiter, probabilistic_sampler]"


def test_tail_sampling_without_a_restart(stack):
    """Without it, spans have no trace state."""
    undecided = """
        select bool_and(coalesce(trace_state, '') like 'demo_tail_latency_ms=%%') from ps_trace.span where trace_id = %s
    """
    assert stack.rows("select count(*) from ps_trace.span where trace_state is not null") == [(0,)]
    before = stack.healthy_pids()
    # Every trace is left to the Collector, which keeps all.
    shown = checked(stack.checkout.run("sampling", "--percent=0", "--tail-latency-ms=0")).stdout
    assert "sampling: 0 %; and others with an error, or that last 0 ms or more" in shown

    def is_left_to_the_collector():
        trace_id = requests.get(stack.generator, timeout=60).json()["trace_id"]
        wait_until(lambda: stack.rows(undecided, trace_id)[0][0] is not None, "the trace")
        return stack.rows(undecided, trace_id) == [(True,)]

    wait_until(is_left_to_the_collector, "a trace for which the services know it")
    checked(stack.checkout.run("faults", "reset"))
    assert stack.healthy_pids() == before


def test_jaeger_shows_a_trace_and_who_calls_whom(stack):
    if "jaeger" not in stack.healthy_pids():
        pytest.skip("Jaeger's image is not available, and there is no stand-in for it")
    trace_id = requests.get(stack.generator, timeout=60).json()["trace_id"]
    jaeger = f"http://localhost:{PAGES['traces']}/api"

    def number_of_spans():
        answer = requests.get(f"{jaeger}/traces/{trace_id}", timeout=60)
        return len(answer.json()["data"][0]["spans"]) if answer.ok else None

    stored = "select count(*) from ps_trace.span where trace_id = %s"
    wait_until(lambda: number_of_spans() == stack.rows(stored, trace_id)[0][0], "the same number of spans in Jaeger")

    def callers():
        period = {"endTs": int(time.time() * 1000), "lookback": 3_600_000}
        return {call["parent"] for call in requests.get(f"{jaeger}/dependencies", period, timeout=60).json()["data"]}

    wait_until(lambda: {"generator", "lower"} <= callers(), "calls by generator and by lower")


def test_the_pages_lead_to_the_explorer_beside_grafana_and_jaeger(stack):
    password = requests.get(stack.generator, headers={"Accept": "text/html"}, timeout=60).text
    links = dict(reversed(link) for link in re.findall(r'href="(http://localhost:[^"]*)"[^>]*>([^<]+)</a>', password))
    parts = stack.healthy_pids()
    for title, url in links.items():
        if title.lower() in parts or title not in ("Grafana", "Jaeger"):
            # A password may fail, and its trace is stored a moment later.
            assert title.startswith(("Password", "The trace")) or requests.get(url, timeout=60).ok, url
    assert links.keys() >= {"Grafana", "Jaeger", "Tracing demo", "SQL", "Service map"}
    [picture] = re.findall(r'data-source="([^"]*)"', password)
    wait_until(lambda: requests.get(picture, timeout=60).ok, "the picture of the trace")
    home = links["Tracing demo"]
    wait_until(lambda: "generator calls upper" in requests.get(home, timeout=60).text, "the service map")


def test_all_containers_stay_under_2500_megabytes(stack):
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    parts = stack.healthy_pids()
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *map(stack.container, parts)).stdout
    amounts = re.findall(r"^([\d.]+)(\w+) /", used, re.MULTILINE)
    assert sum(float(number) * factor[unit] for number, unit in amounts) < 2500 * 10**6


@pytest.mark.parametrize("name", ["postgres", "promscale", "collector"])
@pytest.mark.parametrize("how", ["kill", "restart_container"])
def test_no_acknowledged_span_is_lost_or_duplicated(stack, exporters, how, name):
    before = stack.healthy_pids()[name]
    wait_for_more(exporters)
    getattr(stack, how)(name)
    stack.wait_until_replaced(name, before)
    wait_for_more(exporters)
    check(stack, exporters, collector_may_lose=False)


@pytest.mark.parametrize("name", ["generator", "digit", "load"])
def test_every_other_part_is_restarted_too(stack, name):
    before = stack.healthy_pids()[name]
    stack.kill(name)
    stack.wait_until_replaced(name, before)


def test_down_keeps_the_stored_spans_and_the_collectors_queue(stack):
    """Without promscale, all new spans are in that queue."""
    stack.healthy_pids()
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
