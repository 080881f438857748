"""The local stack with the Collector and the Jaeger of the full stack, which it takes where they are on the PATH."""

import os
import signal

import pytest
import requests

from tests import built
from tests.stack.checkout import wait_for
from tests.stack.exporter import check, exporting, wait_for_more


@pytest.fixture(scope="module")
def real_parts(stack, tmp_path_factory):
    """The stack, which the tests may disturb; only its start has the two on the PATH."""
    if not stack.checkout:
        pytest.skip("the stack at STACK_GENERATOR_URL is not the tests' own, and this would disturb it")
    folder = tmp_path_factory.mktemp("programs")
    for program in (built.jaeger(), built.otelcol()):
        (folder / program.name).symlink_to(program)
    stack.start_anew(PATH=f"{folder}:{os.environ['PATH']}")
    yield stack
    stack.start_anew()


def test_jaeger_shows_a_passwords_trace(real_parts):
    assert "jaeger" in wait_for(real_parts.pids, "health")
    trace_id = requests.get(real_parts.generator, timeout=60).json()["trace_id"]
    link = f"http://localhost:16686/api/traces/{trace_id}"
    (trace,) = wait_for(lambda: requests.get(link, timeout=60).json()["data"], "the trace")
    assert {span["traceID"] for span in trace["spans"]} == {trace_id}


@pytest.mark.parametrize("name", ["postgres", "promscale", "collector", "jaeger"])
def test_whatever_is_killed_comes_back_and_nothing_acknowledged_is_lost(real_parts, name):
    """The Collector keeps its queue on disk, unlike rotel."""
    with exporting() as exporters:
        before = wait_for(real_parts.pids, "health")[name]
        wait_for_more(exporters)
        os.kill(int(before), signal.SIGKILL)
        wait_for(lambda: real_parts.pids().get(name, before) != before, f"another {name}, and health")
        wait_for_more(exporters)
        check(real_parts, exporters, collector_may_lose=False)
