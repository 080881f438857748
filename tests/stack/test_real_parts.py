"""The local stack with the full stack's Collector and Jaeger, which it uses when they are on the PATH."""

import os
import signal

import pytest
import requests

from telemetry.services import PAGES
from tests import built
from tests.stack.exporter import check, exporting, wait_for_more
from tests.stack.stacks import OwnStack
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def real_parts(stack, tmp_path_factory):
    """The stack of the tests, started with the two programs on the PATH."""
    if not isinstance(stack, OwnStack):
        pytest.skip("the test would disturb the stack at STACK_GENERATOR_URL")
    folder = tmp_path_factory.mktemp("programs")
    for program in (built.jaeger(), built.otelcol()):
        (folder / program.name).symlink_to(program)
    stack.restart(PATH=f"{folder}:{os.environ['PATH']}")
    yield stack
    stack.restart()


def test_jaeger_shows_a_passwords_trace(real_parts):
    assert "jaeger" in real_parts.healthy_pids()
    trace_id = requests.get(real_parts.generator, timeout=60).json()["trace_id"]
    link = f"http://localhost:{PAGES['traces']}/api/traces/{trace_id}"
    (trace,) = wait_until(lambda: requests.get(link, timeout=60).json()["data"], "the trace")
    assert {span["traceID"] for span in trace["spans"]} == {trace_id}


@pytest.mark.parametrize("name", ["postgres", "promscale", "collector", "jaeger"])
def test_a_killed_part_is_restarted_and_no_acknowledged_span_is_lost(real_parts, name):
    """OpenTelemetry's Collector keeps its queue on disk, unlike rotel."""
    with exporting() as exporters:
        before = real_parts.healthy_pids()[name]
        wait_for_more(exporters)
        os.kill(int(before), signal.SIGKILL)
        real_parts.wait_until_replaced(name, before)
        wait_for_more(exporters)
        check(real_parts, exporters, collector_may_lose=False)
