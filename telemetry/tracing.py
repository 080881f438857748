"""OpenTelemetry, set up once for each process that makes spans.

Everything is configured by OpenTelemetry's standard variables (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_BSP_SCHEDULE_DELAY, ...). Where this demo wants another default than the standard's, it is set here.
"""

import os
import uuid

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

VERSION = "1.0.0"

# Before the instrumentations are imported, for they read it then: today's names for HTTP's attributes.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
# A trace is to be seen while one still thinks of it: half a second, where the standard waits five.
os.environ.setdefault("OTEL_BSP_SCHEDULE_DELAY", "500")

tracer = trace.get_tracer("tracing-demo", VERSION)


def start(service_name: str) -> None:
    """Export this process's spans."""
    own = Resource.create(
        {
            "service.name": service_name,
            "service.version": VERSION,
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def stop() -> None:
    """Export what is left, as far as the Collector takes it in OTLP's time-out, and stop."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def trace_id() -> str:
    """The current trace's id, 32 hex digits."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
