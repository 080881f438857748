"""The benchmarks' senders: what was sent, and what they do when a store refuses it."""

import time
from collections import Counter

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from benchmarks.recording import Replay
from benchmarks.senders import Busy, export_until_stored


def test_the_traces_of_a_request():
    replay = Replay(500)
    request = replay.request(time.time_ns())
    sent = Counter(
        span.trace_id
        for resource_spans in ExportTraceServiceRequest.FromString(request).resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )
    assert dict(replay.traces(request)) == sent
    assert sent.total() == replay.spans


def test_an_export_is_repeated_during_backpressure():
    answers = [Busy(0), Busy(0), ExportTraceServiceResponse()]
    received = []

    def export(request: bytes) -> ExportTraceServiceResponse:
        received.append(request)
        answer = answers.pop(0)
        if isinstance(answer, Busy):
            raise answer
        return answer

    assert export_until_stored(export, b"request") == 2
    assert received == [b"request"] * 3


def test_refused_spans_are_an_error():
    refusal = ExportTracePartialSuccess(rejected_spans=1, error_message="the trace id is invalid")
    with pytest.raises(RuntimeError, match="the trace id is invalid"):
        export_until_stored(lambda _: ExportTraceServiceResponse(partial_success=refusal), b"request")
