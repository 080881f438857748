"""Processes are killed while spans are exported: no acknowledged span is lost, and none is stored twice."""

import os
import re
import signal

import psutil
import pytest

from local import health
from telemetry.services import PROMSCALE_HTTP_PORT
from tests.stack.exporter import check, exporting, wait_for_more
from tests.waiting import wait_until

READYZ = f"http://127.0.0.1:{PROMSCALE_HTTP_PORT}/readyz"


@pytest.fixture
def exporters(own_stack):
    """An exporter to promscale and one to the Collector."""
    with exporting() as exporters:
        yield exporters


# rotel keeps acknowledged spans in memory, so that SIGKILL loses them. It also drops the batch that it is sending when
# promscale is killed.
@pytest.mark.parametrize(
    ("name", "collector_may_lose"),
    [
        ("postgres", False),
        ("promscale", True),
        ("collector", True),
        ("generator", False),
        ("digit", False),
        ("load", False),
    ],
)
def test_a_killed_part_is_restarted_and_no_acknowledged_span_is_lost(own_stack, exporters, name, collector_may_lose):
    before = own_stack.healthy_pids()[name]
    wait_for_more(exporters)
    os.kill(int(before), signal.SIGKILL)
    own_stack.wait_until_replaced(name, before)
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose)


def test_postgresql_recovers_when_one_of_its_processes_is_killed(own_stack, exporters):
    """PostgreSQL then restarts all of them."""
    server = psutil.Process(int(own_stack.healthy_pids()["postgres"]))
    wait_for_more(exporters)
    children = server.children()
    oldest = min(children, key=psutil.Process.create_time)  # the newest may be a session, which ends by itself
    oldest.kill()
    wait_until(lambda: not any(child.is_running() for child in children), "the end of all its processes")
    own_stack.healthy_pids()
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose=False)


def test_a_database_that_hangs_for_a_while_loses_nothing(own_stack, exporters):
    """Its processes are suspended: connections stay open, and nothing answers."""
    database = psutil.Process(int(own_stack.healthy_pids()["postgres"]))
    wait_for_more(exporters)
    database.suspend()  # first, so that it starts no other processes
    processes = [*database.children(), database]
    for process in processes:
        process.suspend()
    try:
        wait_until(lambda: not health.answers(READYZ), "promscale notices that the database hangs")
    finally:
        for process in processes:
            process.resume()
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose=False)


def test_when_supervisord_is_killed_status_says_so_and_the_next_start_repairs_it(own_stack):
    supervisord = own_stack.healthy_pids()["supervisord"]
    process = psutil.Process(int(supervisord))
    process.kill()
    process.wait()
    status = own_stack.checkout.run("status")
    assert status.returncode == 1
    assert re.findall(r"^(\w+) +not running", status.stdout, re.MULTILINE) == ["supervisord"]
    started = own_stack.checkout.run("local")
    assert started.returncode == 0, started.stderr
    assert own_stack.healthy_pids()["supervisord"] != supervisord


@pytest.mark.parametrize("without_supervisord", [False, True])
def test_down_leaves_no_process_and_keeps_the_data(own_stack, without_supervisord):
    spans = own_stack.rows("select count(*) from ps_trace.span")
    if without_supervisord:
        os.kill(int(own_stack.healthy_pids()["supervisord"]), signal.SIGKILL)
    down = own_stack.checkout.run("down")
    try:
        assert down.returncode == 0, down.stderr
        assert "none is left" in down.stdout
        assert own_stack.checkout.processes() == []
        assert own_stack.checkout.run("status").returncode == 1
        assert own_stack.checkout.run("down").stdout == "Nothing was running.\n"
    finally:
        started = own_stack.checkout.run("local")
    assert started.returncode == 0, started.stderr
    assert own_stack.rows("select count(*) from ps_trace.span") >= spans
