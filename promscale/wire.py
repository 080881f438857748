"""OTLP's trace messages, read only as deep as a step needs.

The messages have OTLP's field numbers and so the same wire format, but what is nested or text is declared as plain
`bytes`. Reading an export then touches no span, reading a span touches no attribute, and a malformed part spoils
nothing around it. Written back, every part is what it was, fields that today's OTLP does not know included.

Source of the numbers: opentelemetry/proto/trace/v1/trace.proto and opentelemetry/proto/collector/trace/v1.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_TYPES = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    # Also OTLP's ExportTraceServiceRequest, which has the same one field.
    "TracesData": [("resource_spans", 1, "*ResourceSpans")],
    "ResourceSpans": [
        ("resource", 1, "bytes"),
        ("scope_spans", 2, "*ScopeSpans"),
        ("schema_url", 3, "bytes"),
        # Of OTLP before 0.15: the same as scope_spans, by another name.
        ("instrumentation_library_spans", 1000, "*ScopeSpans"),
    ],
    "ScopeSpans": [("scope", 1, "bytes"), ("spans", 2, "*bytes"), ("schema_url", 3, "bytes")],
    "Span": [
        ("trace_id", 1, "bytes"),
        ("span_id", 2, "bytes"),
        ("trace_state", 3, "bytes"),
        ("parent_span_id", 4, "bytes"),
        ("name", 5, "bytes"),
        ("kind", 6, "int32"),
        ("start_time_unix_nano", 7, "fixed64"),
        ("end_time_unix_nano", 8, "fixed64"),
        ("attributes", 9, "*bytes"),
        ("dropped_attributes_count", 10, "uint32"),
        ("events", 11, "*Event"),
        ("dropped_events_count", 12, "uint32"),
        ("links", 13, "*Link"),
        ("dropped_links_count", 14, "uint32"),
        ("status", 15, "Status"),
    ],
    "Event": [
        ("time_unix_nano", 1, "fixed64"),
        ("name", 2, "bytes"),
        ("attributes", 3, "*bytes"),
        ("dropped_attributes_count", 4, "uint32"),
    ],
    "Link": [
        ("trace_id", 1, "bytes"),
        ("span_id", 2, "bytes"),
        ("trace_state", 3, "bytes"),
        ("attributes", 4, "*bytes"),
        ("dropped_attributes_count", 5, "uint32"),
    ],
    "Status": [("message", 2, "bytes"), ("code", 3, "int32")],
}


def message_classes(package: str, messages: dict[str, list[tuple[str, int, str]]]) -> dict[str, type[Message]]:
    """Classes, by name, for messages whose fields are given as name, number and type ("*": repeated)."""
    # proto2, because there every field knows whether it was sent: an empty resource stays an empty resource.
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind in fields:
            repeated, kind = kind.startswith("*"), kind.removeprefix("*")
            field = message.field.add(name=name, number=number)
            field.label = _TYPES.LABEL_REPEATED if repeated else _TYPES.LABEL_OPTIONAL
            if kind in messages:
                field.type, field.type_name = _TYPES.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = _TYPES.Type.Value(f"TYPE_{kind.upper()}")
    classes = message_factory.GetMessages([file], pool=descriptor_pool.DescriptorPool())
    return {name: classes[f"{package}.{name}"] for name in messages}


_classes = message_classes("promscale.wire", _MESSAGES)
TracesData = _classes["TracesData"]
ResourceSpans = _classes["ResourceSpans"]
ScopeSpans = _classes["ScopeSpans"]
Span = _classes["Span"]
