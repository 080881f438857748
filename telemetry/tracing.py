"""OpenTelemetry's SDK, set up once in each process that creates spans.

OpenTelemetry's standard variables (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_SCHEDULE_DELAY, ...)
configure it: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. Two variables have
another default here.
"""

import os
import tomllib
import uuid
from pathlib import Path

from flask import current_app
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from telemetry.clock import SkewedExporter
from telemetry.sampling import FlagSampler

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
VERSION: str = tomllib.loads(_PROJECT.read_text())["project"]["version"]

# Use the stable names of HTTP attributes (http.request.method and so on). The instrumentations read this variable when
# they are imported, so it is set before.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
# Export every 500 ms instead of the SDK's default of 5 s, so that a trace is visible almost at once.
os.environ.setdefault("OTEL_BSP_SCHEDULE_DELAY", "500")

tracer = trace.get_tracer("tracing-demo", VERSION)


def start(service_name: str) -> None:
    """Export the spans of this process, as this service unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES differ."""
    own = Resource.create(
        {
            "service.name": service_name,
            "service.version": VERSION,
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.sampler = FlagSampler(otherwise=provider.sampler)
    exporter = SkewedExporter(OTLPSpanExporter(), f"{service_name}.clock_skew")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def stop() -> None:
    """Export the remaining spans, which takes at most the exporter's time-out, and stop."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def service_name() -> str:
    """The service whose Flask app handles the current request."""
    return current_app.name.partition(".")[0]


def trace_id() -> str:
    """The current trace's id, 32 hex digits."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
