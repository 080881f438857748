"""Processes are killed while spans come in; then the spans are counted: none acknowledged is missing, none doubled."""

import os
import re
import signal
import time

import psutil
import pytest

from tests.stack.checkout import wait_for
from tests.stack.exporter import check, exporting, wait_for_more


@pytest.fixture
def exporters(own_stack):
    """One that sends to promscale itself, and one to the Collector."""
    with exporting() as both:
        yield both


# What the Collector has acknowledged it has in memory only: killing it loses that. And rotel gives up what it was just
# sending when promscale is killed.
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
def test_a_killed_part_comes_back_and_nothing_acknowledged_is_lost(own_stack, exporters, name, collector_may_lose):
    before = wait_for(own_stack.pids, "health")[name]
    wait_for_more(exporters)
    os.kill(int(before), signal.SIGKILL)
    wait_for(lambda: own_stack.pids().get(name, before) != before, f"another {name}, and health")
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose)


def test_a_killed_process_of_postgresql_comes_back_too(own_stack, exporters):
    """PostgreSQL then restarts all others."""
    part = psutil.Process(int(wait_for(own_stack.pids, "health")["postgres"]))
    wait_for_more(exporters)
    children = part.children()
    oldest = min(children, key=psutil.Process.create_time)  # the youngest may be a connection, and end by itself
    oldest.kill()
    wait_for(lambda: not any(child.is_running() for child in children), "their end")
    wait_for(own_stack.pids, "health")
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose=False)


def test_a_database_away_for_a_while_loses_nothing(own_stack, exporters):
    """Held, not ended: connections stay open and nothing answers."""
    database = psutil.Process(int(wait_for(own_stack.pids, "health")["postgres"]))
    wait_for_more(exporters)
    database.suspend()  # before its children, for then it neither starts nor buries any
    held = [*database.children(), database]
    for process in held:
        process.suspend()
    time.sleep(5)
    for process in held:
        process.resume()
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose=False)


def test_without_supervisord_all_goes_on_and_the_next_start_takes_over(own_stack):
    supervisord = wait_for(own_stack.pids, "health")["supervisord"]
    os.kill(int(supervisord), signal.SIGKILL)
    wait_for(
        lambda: re.search("^supervisord +not running", own_stack.checkout.run("status").stdout, re.MULTILINE), "its end"
    )
    assert own_stack.checkout.run("status").returncode == 1
    started = own_stack.checkout.run("local")
    assert started.returncode == 0, started.stderr
    assert wait_for(own_stack.pids, "health")["supervisord"] != supervisord


@pytest.mark.parametrize("without_supervisord", [False, True])
def test_down_leaves_no_process_and_keeps_the_data(own_stack, without_supervisord):
    spans = own_stack.rows("select count(*) from ps_trace.span")
    if without_supervisord:
        os.kill(int(wait_for(own_stack.pids, "health")["supervisord"]), signal.SIGKILL)
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
