"""The Collector of the local stack, rotel: what it takes is stored, and it stays within its memory."""

import gzip
import re
import sys

import grpc
import psutil
import pytest
import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.stack.checkout import wait_for
from tests.stack.exporter import COLLECTOR, Exporter, stored, wait_for_more


@pytest.fixture
def channel(own_stack):
    with grpc.insecure_channel(COLLECTOR, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def a_request(exporter: Exporter, spans: int, name: str = "counted") -> ExportTraceServiceRequest:
    made = [
        Span(
            trace_id=exporter.trace_id,
            span_id=number.to_bytes(8, "big"),
            name=name,
            start_time_unix_nano=exporter.began,
            end_time_unix_nano=exporter.began + number,
        )
        for number in range(1, spans + 1)
    ]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=made)])])


def test_a_message_of_many_spans_is_stored_whole(own_stack, channel):
    exporter = Exporter(COLLECTOR)
    TraceServiceStub(channel).Export(a_request(exporter, 30_000), timeout=60)
    wait_for(lambda: len(stored(own_stack, exporter)) == 30_000, "all of its spans")


def test_what_is_too_large_is_refused_at_once(channel):
    with pytest.raises(grpc.RpcError) as refusal:
        TraceServiceStub(channel).Export(a_request(Exporter(COLLECTOR), 1, "x" * 5 * 2**20), timeout=60)
    assert refusal.value.code() in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_metrics_which_nobody_stores_are_refused(channel):
    with pytest.raises(grpc.RpcError) as refusal:
        MetricsServiceStub(channel).Export(ExportMetricsServiceRequest(), timeout=60)
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_message_that_needs_much_memory_ends_it_and_it_comes_back(own_stack):
    """20 kB that become 19 MB of empty messages, and these more than 1 GB in memory."""
    before = psutil.Process(int(wait_for(own_stack.pids, "health")["collector"]))
    bomb = gzip.compress(b"\x0a\x00" * (19 * 2**20 // 2))
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    with pytest.raises(requests.ConnectionError):
        requests.post("http://127.0.0.1:4318/v1/traces", data=bomb, headers=headers, timeout=60)
    wait_for(lambda: not before.is_running(), "its end")
    wait_for(own_stack.pids, "another, and health")
    assert "ends for want of memory: 1" in own_stack.checkout.run("status").stdout
    exporter = Exporter(COLLECTOR)
    exporter.start()
    wait_for_more([exporter])
    exporter.stop()
    wait_for(lambda: stored(own_stack, exporter), "spans that came afterwards")


def test_what_can_never_be_stored_is_given_up_at_once_and_counted(own_stack):
    """rotel takes up to 20 MiB by HTTP, which cannot be set, and promscale 16."""
    report = re.compile(r"batches given up: (\d+)")

    def given_up() -> int:
        return int(report.search(own_stack.checkout.run("status").stdout)[1])

    before = given_up()
    data = a_request(Exporter(COLLECTOR), 1, "x" * 17 * 2**20).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    assert requests.post("http://127.0.0.1:4318/v1/traces", data=data, headers=headers, timeout=60).ok
    wait_for(lambda: given_up() == before + 1, "its end")
