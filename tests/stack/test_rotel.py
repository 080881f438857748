"""rotel, the Collector of the local stack: what it accepts is stored, and its memory is limited."""

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

from telemetry.services import OTLP_HTTP_PORT
from tests.stack.exporter import COLLECTOR, Exporter, stored, wait_for_more
from tests.waiting import wait_until

TRACES_URL = f"http://127.0.0.1:{OTLP_HTTP_PORT}/v1/traces"


@pytest.fixture
def channel(own_stack):
    with grpc.insecure_channel(COLLECTOR, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def export_request(exporter: Exporter, spans: int, name: str = "counted") -> ExportTraceServiceRequest:
    sent = [
        Span(
            trace_id=exporter.trace_id,
            span_id=number.to_bytes(8, "big"),
            name=name,
            start_time_unix_nano=exporter.began,
            end_time_unix_nano=exporter.began + number,
        )
        for number in range(1, spans + 1)
    ]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=sent)])])


def test_a_message_of_many_spans_is_stored_completely(own_stack, channel):
    exporter = Exporter(COLLECTOR)
    TraceServiceStub(channel).Export(export_request(exporter, 30_000), timeout=60)
    wait_until(lambda: len(stored(own_stack, exporter)) == 30_000, "all of its spans are stored")


def test_an_oversized_message_is_refused(channel):
    with pytest.raises(grpc.RpcError) as refusal:
        TraceServiceStub(channel).Export(export_request(Exporter(COLLECTOR), 1, "x" * 5 * 2**20), timeout=60)
    assert refusal.value.code() == grpc.StatusCode.OUT_OF_RANGE


def test_metrics_are_refused(channel):
    with pytest.raises(grpc.RpcError) as refusal:
        MetricsServiceStub(channel).Export(ExportMetricsServiceRequest(), timeout=60)
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of rotel")
def test_a_compression_bomb_ends_rotel_which_is_then_restarted(own_stack):
    """20 kB that decompress to 19 MB of empty messages, which would take more than 1 GB of memory."""
    before = psutil.Process(int(own_stack.healthy_pids()["collector"]))
    bomb = gzip.compress(b"\x0a\x00" * (19 * 2**20 // 2))
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    with pytest.raises(requests.ConnectionError):
        requests.post(TRACES_URL, data=bomb, headers=headers, timeout=60)
    wait_until(lambda: not before.is_running(), "the end of rotel")
    own_stack.healthy_pids()
    assert "crashes for lack of memory: 1" in own_stack.checkout.run("status").stdout
    exporter = Exporter(COLLECTOR)
    exporter.start()
    wait_for_more([exporter])
    exporter.stop()
    wait_until(lambda: stored(own_stack, exporter), "spans that were exported afterwards")


def test_a_batch_that_promscale_refuses_is_dropped_and_counted(own_stack):
    """rotel accepts up to 20 MiB by HTTP, which no option changes, and promscale 16 MiB."""
    report = re.compile(r"batches dropped: (\d+)")

    def dropped() -> int:
        return int(report.findall(own_stack.checkout.run("status").stdout)[0])

    before = dropped()
    data = export_request(Exporter(COLLECTOR), 1, "x" * 17 * 2**20).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    assert requests.post(TRACES_URL, data=data, headers=headers, timeout=60).ok
    wait_until(lambda: dropped() == before + 1, "one more batch dropped")
