"""Fixtures with spans in memory: those of this process, and those that another process exports; and with flags."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from faults.flags import OFF
from telemetry import flags
from tests.demo_services import Processes


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], tuple[ReadableSpan, ...]]:
    """A function that returns the spans that have ended in this test."""
    exporter.clear()
    return exporter.get_finished_spans


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP/gRPC server that keeps the requests in memory."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request, context):
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def resource_spans(self) -> list[ResourceSpans]:
        return [resource_spans for request in list(self.requests) for resource_spans in request.resource_spans]

    def spans(self) -> list[Span]:
        return [
            span
            for resource_spans in self.resource_spans()
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        ]

    def instances(self) -> dict[str, dict[str, str]]:
        """The resource attributes of each service instance that has exported spans, by its service.instance.id."""
        resources = [
            {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
            for resource_spans in self.resource_spans()
        ]
        return {resource["service.instance.id"]: resource for resource in resources}

    def close(self) -> None:
        self.server.stop(None)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def processes(receiver: Receiver, tmp_path: Path) -> Iterator[Processes]:
    """Services in processes of their own, which export their spans to `receiver` when they are stopped."""
    processes = Processes(tmp_path, receiver.port)
    yield processes
    processes.kill()


@pytest.fixture
def switch(flag_file, monkeypatch) -> Iterator[Callable[..., None]]:
    """A function that switches faults to a variant, or to other parameters of their variant `strong`, at once. All
    others are off."""
    everything_off = {name: OFF for name, flag in flag_file.flags().items() if flag.is_fault}
    monkeypatch.setenv("FAULTS_FILE", str(flag_file.path))

    def switch(variants: Mapping[str, str | Mapping[str, Any]]) -> None:
        content = json.loads(flag_file.path.read_text())
        for name, variant in variants.items():
            if not isinstance(variant, str):
                content["flags"][name]["variants"]["strong"] = variant
        flag_file.path.write_text(json.dumps(content))
        flag_file.set({name: variant if isinstance(variant, str) else "strong" for name, variant in variants.items()})
        flags.start()

    switch(everything_off)
    yield switch
    flag_file.reset()
    switch(everything_off)
