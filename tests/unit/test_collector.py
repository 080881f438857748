"""OpenTelemetry's Collector with collector/config.yaml: which spans it passes on, and which it drops."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector import running_collector
from tests.waiting import wait_until

UNDECIDED = "other=1,demo_tail_latency_ms=500"
BEGIN = 1_700_000_000 * 10**9


@pytest.fixture
def collector(receiver, tmp_path) -> Iterator[Callable[..., trace_service_pb2_grpc.TraceServiceStub]]:
    """A function that starts the Collector with some environment variables, and returns a client."""
    with ExitStack() as running:

        def collector(**environment: str) -> trace_service_pb2_grpc.TraceServiceStub:
            variables = {"PROMSCALE_ENDPOINT": f"127.0.0.1:{receiver.port}", **environment}
            address = running.enter_context(running_collector(tmp_path, **variables))
            return trace_service_pb2_grpc.TraceServiceStub(running.enter_context(grpc.insecure_channel(address)))

        yield collector


def span(trace: int, number: int, milliseconds: int = 1, failed: bool = False, trace_state: str = "") -> Span:
    return Span(
        trace_id=trace.to_bytes(16),
        span_id=(trace * 100 + number).to_bytes(8),
        parent_span_id=b"" if number == 1 else (trace * 100 + 1).to_bytes(8),
        name="test",
        trace_state=trace_state,
        start_time_unix_nano=BEGIN,
        end_time_unix_nano=BEGIN + milliseconds * 10**6,
        status=Status(code=Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET),
    )


def export(client: trace_service_pb2_grpc.TraceServiceStub, *spans: Span) -> None:
    request = trace_service_pb2.ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    client.Export(request, timeout=60)


def test_tail_sampling_keeps_complete_traces_with_an_error_or_a_slow_span(collector, receiver):
    client = collector()
    both = {"trace_state": UNDECIDED}
    failed = [span(2, 1, **both), span(2, 2, failed=True, **both), span(2, 3, **both)]
    slow = [span(3, 1, milliseconds=500, **both), span(3, 2, **both)]
    late = span(2, 4, **both)
    # The trace that is dropped comes first, and is decided before the others.
    export(client, span(1, 1, milliseconds=499, **both), span(1, 2, **both))
    export(client, failed[0], slow[0])
    export(client, *failed[1:], *slow[1:])
    kept = [*failed, *slow]
    wait_until(lambda: len(receiver.spans()) >= len(kept), "the traces that are kept")
    export(client, span(1, 3, **both), late)
    wait_until(lambda: len(receiver.spans()) > len(kept), "the span that came after the decision")
    assert sorted(map(str, receiver.spans())) == sorted(map(str, [*kept, late]))


def test_all_other_spans_are_passed_on_unchanged(collector, receiver):
    client = collector(COLLECTOR_PROCESSORS="[memory_limiter]")
    states = ["", "vendor=1", "no trace state", "demo_tail_latency_m=5", "other=demo_tail_latency_ms"]
    spans = [span(number, 1, trace_state=state) for number, state in enumerate(states, 1)]
    export(client, *spans, span(9, 1, trace_state=UNDECIDED))
    wait_until(lambda: len(receiver.spans()) >= len(spans), "the spans")
    assert sorted(map(str, receiver.spans())) == sorted(map(str, spans))


def test_a_latency_that_is_no_number_keeps_errors_only(collector, receiver):
    client = collector()
    state = {"trace_state": "demo_tail_latency_ms=soon"}
    failed = span(2, 1, failed=True, **state)
    export(client, span(1, 1, milliseconds=5000, **state), failed)
    wait_until(receiver.spans, "the trace with an error")
    assert receiver.spans() == [failed]


def test_a_percentage_keeps_complete_traces(collector, receiver):
    """TRACE_SAMPLING_PERCENT, with which docker-compose.yaml and local/stack.py name the sampler."""
    client = collector(TRACE_SAMPLING_PERCENT="30", COLLECTOR_PROCESSORS="[memory_limiter, probabilistic_sampler]")
    export(client, *(span(trace, number) for number in (1, 2) for trace in range(1, 401)))
    wait_until(receiver.spans, "the traces that are kept")  # one message stays one
    counts = Counter(span.trace_id for span in receiver.spans())
    assert 60 < len(counts) < 180 and set(counts.values()) == {2}
