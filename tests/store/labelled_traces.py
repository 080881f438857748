"""Simulated traces with the labels that the services put on spans on which a fault took effect."""

from datetime import datetime

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from explorer.analysis.spans import Trace
from tests.demo_traces import export
from tests.store.otlp_messages import attributes

ADDED_MS = 12.5


def labelled(
    traces: list[Trace], begin: datetime, flag: str, service: str, characters: str
) -> ExportTraceServiceRequest:
    """The traces as a request; the flag's variant `strong` took effect when the service processed these characters."""
    message = export(traces, begin)
    for resource_spans in message.resource_spans:
        for span in resource_spans.scope_spans[0].spans:
            values = {attribute.key: attribute.value.string_value for attribute in span.attributes}
            if span.name == f"process_{service}" and values["char"] in [*characters]:
                span.attributes.extend(attributes({"demo.fault.name": [flag], "demo.fault.added_ms": ADDED_MS}))
                event = span.events.add(name="feature_flag.evaluation", time_unix_nano=span.start_time_unix_nano)
                evaluation = {"feature_flag.key": flag, "feature_flag.result.variant": "strong"}
                event.attributes.extend(attributes(evaluation | {"demo.fault.added_ms": ADDED_MS}))
    return message
