"""Any valid OTLP, for tests of what must not change it: strategies of hypothesis."""

import math

from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

# All characters, NUL included, but surrogates, which are not valid in protobuf.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
any_values = st.recursive(
    st.one_of(
        st.just(AnyValue()),
        st.builds(AnyValue, string_value=text),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        # One NaN: JSON has no others.
        st.builds(AnyValue, double_value=st.just(math.nan) | st.floats(allow_nan=False)),
        st.builds(AnyValue, bytes_value=st.binary(max_size=20)),
    ),
    lambda inner: st.one_of(
        st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3))),
        st.builds(
            AnyValue,
            kvlist_value=st.builds(
                KeyValueList, values=st.lists(st.builds(KeyValue, key=text, value=inner), max_size=3)
            ),
        ),
    ),
    max_leaves=6,
)
attributes = st.lists(st.builds(KeyValue, key=text, value=any_values), max_size=4)
events = st.builds(Span.Event, time_unix_nano=uint64, name=text, attributes=attributes, dropped_attributes_count=uint32)
links = st.builds(
    Span.Link,
    trace_id=st.binary(min_size=16, max_size=16),
    span_id=st.binary(min_size=8, max_size=8),
    trace_state=text,
    attributes=attributes,
    dropped_attributes_count=uint32,
    flags=uint32,
)
spans = st.builds(
    Span,
    trace_state=text,
    parent_span_id=st.one_of(st.just(b""), st.binary(min_size=8, max_size=8)),
    flags=uint32,
    name=text,
    kind=st.integers(0, 5),
    start_time_unix_nano=uint64,
    end_time_unix_nano=uint64,
    attributes=attributes,
    dropped_attributes_count=uint32,
    events=st.lists(events, max_size=3),
    dropped_events_count=uint32,
    links=st.lists(links, max_size=3),
    dropped_links_count=uint32,
    status=st.one_of(st.none(), st.builds(Status, message=text, code=st.integers(0, 2))),
)
scopes = st.one_of(
    st.none(),
    st.builds(InstrumentationScope, name=text, version=text, attributes=attributes, dropped_attributes_count=uint32),
)
scope_spans = st.builds(ScopeSpans, scope=scopes, spans=st.lists(spans, max_size=4), schema_url=text)
resource = st.one_of(st.none(), st.builds(Resource, attributes=attributes, dropped_attributes_count=uint32))
resource_spans = st.builds(
    ResourceSpans, resource=resource, scope_spans=st.lists(scope_spans, max_size=3), schema_url=text
)
requests = st.builds(ExportTraceServiceRequest, resource_spans=st.lists(resource_spans, max_size=3))


def assign_ids(trace_ids: list[bytes], message: ExportTraceServiceRequest) -> None:
    """Distribute the spans over these traces, with different span ids."""
    number = 0
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                number += 1
                span.trace_id = trace_ids[number % len(trace_ids)]
                span.span_id = number.to_bytes(8)
