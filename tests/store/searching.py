"""Requests of Jaeger's protocol, and what they return."""

from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from promscale import jaeger_pb2 as messages
from tests.store.otlp_messages import SECOND, attributes
from tests.store.running import Promscale


def search_request(**fields) -> bytes:
    """A serialized FindTracesRequest. FindTraceIDsRequest and FindTraceSummariesRequest have the same bytes.

    `fields` are those of TraceQueryParameters, but `attributes` a dict, and times and durations nanoseconds.
    """
    key_values = attributes(fields.pop("attributes", {}))
    for name, message in {
        "start_time_min": messages.Timestamp,
        "start_time_max": messages.Timestamp,
        "duration_min": messages.Duration,
        "duration_max": messages.Duration,
    }.items():
        if name in fields:
            seconds, nanos = divmod(fields[name], SECOND)
            fields[name] = message(seconds=seconds, nanos=nanos)
    serialized = [key_value.SerializeToString() for key_value in key_values]
    parameters = messages.TraceQueryParameters(attributes=serialized, **fields)
    return messages.FindTracesRequest(query=parameters).SerializeToString()


def found_trace_ids(promscale: Promscale, **fields) -> list[bytes]:
    """The trace ids that FindTraceIDs returns. Asserts that the other searches return the same ones in this order."""
    (answer,) = promscale.read("FindTraceIDs", search_request(**fields))
    trace_ids = [trace.trace_id for trace in answer.trace_ids]
    summaries = promscale.read("FindTraceSummaries", search_request(**fields))
    assert [summary.trace_id for part in summaries for summary in part.summaries] == trace_ids
    chunks = promscale.read("FindTraces", search_request(**fields))
    assert list(dict.fromkeys(map(trace_id_of, chunks))) == trace_ids
    return trace_ids


def traces_request(*trace_ids: bytes) -> messages.GetTracesRequest:
    return messages.GetTracesRequest(query=[messages.GetTraceParams(trace_id=trace_id) for trace_id in trace_ids])


def trace_id_of(chunk: TracesData) -> bytes:
    """The trace id of all spans of a chunk, which must be of one trace."""
    (trace_id,) = {span.trace_id for span in spans_of(chunk)}
    return trace_id


def spans_of(*chunks: TracesData) -> list[Span]:
    return [
        span
        for chunk in chunks
        for resource_spans in chunk.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
