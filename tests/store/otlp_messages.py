"""Builders of OTLP messages. Ids are random, because several processes and runs may write to one store."""

import os
import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span

# Nanoseconds.
SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

# NUL, control characters, and what SQL, JSON, HTML and Python's formatting could misread.
HOSTILE_TEXT = "a\0b\x01c\x1fd\x7f\u2028'\"\\{}%s $1 <script> \U0001f600"


def any_value(value: object) -> AnyValue:
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=attributes(value)))
        case _:
            raise TypeError(f"OTLP has no attributes of type {type(value).__name__}")


def attributes(values: dict) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in values.items()]


def span(name: str = "work", tags: dict | None = None, **fields) -> Span:
    """A span of a new trace, which starts now and takes 1 ms unless `fields` say otherwise."""
    start = fields.setdefault("start_time_unix_nano", time.time_ns())
    fields.setdefault("end_time_unix_nano", start + 1_000_000)
    fields.setdefault("trace_id", os.urandom(16))
    fields.setdefault("span_id", os.urandom(8))
    return Span(name=name, attributes=attributes(tags or {}), **fields)


def child(parent: Span, name: str = "work", **fields) -> Span:
    """A child span of `parent`, which starts with it unless `fields` say otherwise."""
    fields.setdefault("start_time_unix_nano", parent.start_time_unix_nano)
    return span(name, trace_id=parent.trace_id, parent_span_id=parent.span_id, **fields)


def request(*spans: Span, service: str = "shop") -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    add_service(message, *spans, service=service)
    return message


def add_service(message: ExportTraceServiceRequest, *spans: Span, service: str) -> None:
    """Add spans with a resource of their own to the request."""
    resource_spans = message.resource_spans.add()
    resource_spans.resource.attributes.extend(attributes({"service.name": service}))
    resource_spans.scope_spans.add(spans=spans)
