"""Processes are killed while spans come in; then the spans are counted: none acknowledged is missing, none doubled."""

import itertools
import os
import re
import secrets
import signal
import threading
import time

import grpc
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.stack.checkout import wait_for

PROMSCALE, COLLECTOR = "127.0.0.1:9202", "127.0.0.1:4317"
BATCH = 20


class Exporter(threading.Thread):
    """Sends spans of one trace in small batches, each again and again until it is acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.trace_id = secrets.token_bytes(16)
        self.began = time.time_ns()
        self.acknowledged: set[int] = set()
        self.stopping = threading.Event()

    def run(self) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        with grpc.insecure_channel(self.address, options=options) as channel:
            for first in itertools.count(1, BATCH):
                ids = range(first, first + BATCH)
                while not self._export(channel, ids):
                    if self.stopping.wait(0.1):
                        return
                self.acknowledged.update(ids)
                if self.stopping.wait(0.02):
                    return

    def _export(self, channel: grpc.Channel, ids: range) -> bool:
        spans = [
            Span(
                trace_id=self.trace_id,
                span_id=number.to_bytes(8, "big"),
                name="counted",
                start_time_unix_nano=self.began,
                end_time_unix_nano=self.began + number,
            )
            for number in ids
        ]
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
        try:
            answer = TraceServiceStub(channel).Export(request, timeout=10)
        except grpc.RpcError:
            return False
        return answer.partial_success.rejected_spans == 0

    def stop(self) -> None:
        self.stopping.set()
        self.join()


@pytest.fixture
def exporters(own_stack):
    """One that sends to promscale itself, and one to the Collector."""
    both = Exporter(PROMSCALE), Exporter(COLLECTOR)
    for exporter in both:
        exporter.start()
    yield both
    for exporter in both:
        exporter.stop()


def wait_for_more(exporters) -> None:
    """Until each exporter has had something acknowledged since now."""
    for exporter in exporters:
        before = len(exporter.acknowledged)
        wait_for(lambda exporter=exporter, before=before: len(exporter.acknowledged) > before, exporter.address)


def stored(stack, exporter) -> list[int]:
    statement = "select span_id from ps_trace.span where trace_id = %s"
    return [span_id for (span_id,) in stack.rows(statement, exporter.trace_id.hex())]


def check(stack, exporters, collector_may_lose: bool) -> None:
    """Count."""
    direct, collected = exporters
    for exporter in exporters:
        exporter.stop()
    assert direct.acknowledged <= set(stored(stack, direct))
    if not collector_may_lose:
        wait_for(lambda: collected.acknowledged <= set(stored(stack, collected)), "what the Collector acknowledged")
    for exporter in exporters:
        span_ids = stored(stack, exporter)
        assert len(span_ids) == len(set(span_ids))


# What the Collector has acknowledged it has in memory only: killing it loses that. And rotel gives up what it was just
# sending when promscale is killed.
@pytest.mark.parametrize(
    "name, collector_may_lose",
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


@pytest.mark.parametrize("name", ["postgres", "generator"])
def test_a_killed_child_of_a_part_comes_back_too(own_stack, exporters, name):
    """A PostgreSQL that loses a process restarts all others; gunicorn starts another worker."""
    part = psutil.Process(int(wait_for(own_stack.pids, "health")[name]))
    wait_for_more(exporters)
    child = part.children()[-1]
    child.kill()
    wait_for(lambda: not child.is_running() and own_stack.pids(), "health")
    wait_for_more(exporters)
    check(own_stack, exporters, collector_may_lose=False)


def test_a_database_away_for_a_while_loses_nothing(own_stack, exporters):
    """Held, not ended: connections stay open and nothing answers."""
    database = psutil.Process(int(wait_for(own_stack.pids, "health")["postgres"]))
    wait_for_more(exporters)
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
    wait_for(lambda: re.search("^supervisord +not running", own_stack.checkout.run("status").stdout, re.M), "its end")
    assert own_stack.checkout.run("status").returncode == 1
    started = own_stack.checkout.run("local")
    assert started.returncode == 0, started.stderr
    assert own_stack.pids()["supervisord"] != supervisord


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
