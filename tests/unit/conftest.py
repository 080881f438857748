"""Spans, kept in memory: those of this process, and those that another one sends."""

from concurrent import futures

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture(scope="session")
def exporter():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter):
    """A function that returns the finished spans of this test."""
    exporter.clear()
    return exporter.get_finished_spans


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.requests = []
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request, context):
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Span]:
        return [
            span
            for request in list(self.requests)
            for resource_spans in request.resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        ]

    def instances(self) -> dict[str, dict[str, str]]:
        """Resource attributes by service.instance.id, of those that sent spans."""
        resources = [
            {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
            for request in list(self.requests)
            for resource_spans in request.resource_spans
        ]
        return {resource["service.instance.id"]: resource for resource in resources}

    def close(self) -> None:
        self._server.stop(None)


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()
