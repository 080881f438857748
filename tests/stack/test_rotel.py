"""The Collector of the local stack, rotel: what it takes is stored, and it stays within its memory."""

import gzip
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    TraceServiceStub,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from local import health
from local import stack as local_stack
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 without being told")
def test_what_can_never_be_stored_is_given_up_and_counted(monkeypatch, tmp_path):
    """With a store that takes 1 MiB at most, and rotel trying for 2 seconds instead of ten minutes."""
    monkeypatch.setattr(local_stack, "_variables", lambda: {"BIND_ADDRESS": "127.0.0.77", "PATH": str(tmp_path)})
    monkeypatch.setattr(local_stack, "LOGS", tmp_path)
    names = []

    class Store(TraceServiceServicer):
        def Export(self, request, context):
            scopes = [scope for each in request.resource_spans for scope in each.scope_spans]
            names.extend(span.name for scope in scopes for span in scope.spans)
            return ExportTraceServiceResponse()

    store = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 2**20)])
    add_TraceServiceServicer_to_server(Store(), store)
    store.add_insecure_port("127.0.0.77:9202")
    store.start()
    collector = next(part for part in local_stack.parts() if part.name == "collector")
    command = [word.replace("max-elapsed-time=600s", "max-elapsed-time=2s") for word in collector.command]
    with (tmp_path / "collector.log").open("w") as log, subprocess.Popen(command, stdout=log) as rotel:
        try:
            wait_for(lambda: health.accepts("127.0.0.77", 4317), "its start")
            with grpc.insecure_channel("127.0.0.77:4317") as channel:
                stub = TraceServiceStub(channel)
                stub.Export(a_request(Exporter(COLLECTOR), 1, "x" * 2 * 2**20), timeout=60)
                wait_for(lambda: "batches given up: 1" in local_stack.collector_report(), "its end")
                stub.Export(a_request(Exporter(COLLECTOR), 1, "small"), timeout=60)
                wait_for(lambda: names == ["small"], "what can be stored")
        finally:
            rotel.terminate()
            store.stop(None)
