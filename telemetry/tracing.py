"""OpenTelemetry's SDK, set up once in each process that creates spans.

OpenTelemetry's standard variables (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_SCHEDULE_DELAY, ...)
configure it: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. Two variables have
another default in telemetry/instrumentation.py.
"""

from flask import current_app
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from telemetry.clock import SkewedExporter
from telemetry.instrumentation import MODE, resource
from telemetry.sampling import FlagSampler


def start(service_name: str) -> None:
    """Export the spans of this process, as this service unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES differ.

    With DEMO_INSTRUMENTATION=auto, opentelemetry-instrument has done that; with off, there are no spans.
    """
    if MODE != "on":
        return
    own = Resource.create(resource(service_name))
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.sampler = FlagSampler(otherwise=provider.sampler)
    exporter = SkewedExporter(OTLPSpanExporter(), f"{service_name}.clock_skew")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def trace_calls() -> None:
    """Make a span of each HTTP call that this process makes, where the demo itself sets up OpenTelemetry."""
    if MODE == "on" and not RequestsInstrumentor().is_instrumented_by_opentelemetry:
        RequestsInstrumentor().instrument()


def stop() -> None:
    """Export the remaining spans, which takes at most the exporter's time-out, and stop."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def service_name() -> str:
    """The service whose Flask app handles the current request."""
    return current_app.name.partition(".")[0]


def trace_reference() -> dict[str, str]:
    """The current trace's id, {"trace_id": 32 hex digits}, for the answer to a request; {} if it is not traced."""
    context = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}
