"""A fault of the clock: the spans of a service are exported with times that are ahead."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from telemetry.flags import Fault, fault, labels_are_on


class SkewedExporter(SpanExporter):
    """Exports spans as they are, or ahead of their time by the flag's parameter `ahead_ms`."""

    def __init__(self, exporter: SpanExporter, flag: str) -> None:
        self._exporter = exporter
        self._flag = flag

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if skew := fault(self._flag):
            spans = [_ahead(span, skew) for span in spans]
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _ahead(span: ReadableSpan, skew: Fault) -> ReadableSpan:
    nanoseconds = round(skew["ahead_ms"] * 1e6)
    attributes = span.attributes or {}
    events = [Event(event.name, event.attributes, event.timestamp + nanoseconds) for event in span.events]
    if labels_are_on():
        attributes = {**attributes, **skew.labels(attributes)}
        events.append(Event("feature_flag.evaluation", skew.event(), (span.start_time or 0) + nanoseconds))
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=(span.start_time or 0) + nanoseconds,
        end_time=(span.end_time or 0) + nanoseconds,
        instrumentation_scope=span.instrumentation_scope,
    )
