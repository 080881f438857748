"""Spans that are counted: sent while something is killed, and looked for in the database afterwards."""

import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.stack.checkout import wait_for

PROMSCALE, COLLECTOR = "127.0.0.1:9202", "127.0.0.1:4317"
BATCH = 20


class Exporter(threading.Thread):
    """Sends spans of one trace in small batches, each again and again until it is acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.trace_id = secrets.token_bytes(16)
        self.began = time.time_ns()
        self.acknowledged: set[int] = set()
        self.stopping = threading.Event()

    def run(self) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        with grpc.insecure_channel(self.address, options=options) as channel:
            for first in itertools.count(1, BATCH):
                ids = range(first, first + BATCH)
                while not self._export(channel, ids):
                    if self.stopping.wait(0.1):
                        return
                self.acknowledged.update(ids)
                if self.stopping.wait(0.02):
                    return

    def _export(self, channel: grpc.Channel, ids: range) -> bool:
        spans = [
            Span(
                trace_id=self.trace_id,
                span_id=number.to_bytes(8, "big"),
                name="counted",
                start_time_unix_nano=self.began,
                end_time_unix_nano=self.began + number,
            )
            for number in ids
        ]
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
        try:
            answer = TraceServiceStub(channel).Export(request, timeout=10)
        except grpc.RpcError:
            return False
        return answer.partial_success.rejected_spans == 0

    def stop(self) -> None:
        self.stopping.set()
        self.join()


@contextmanager
def exporting() -> Iterator[tuple[Exporter, Exporter]]:
    """One that sends to promscale itself, and one to the Collector."""
    both = Exporter(PROMSCALE), Exporter(COLLECTOR)
    for exporter in both:
        exporter.start()
    try:
        yield both
    finally:
        for exporter in both:
            exporter.stop()


def wait_for_more(exporters) -> None:
    """Until each exporter has had something acknowledged since now."""
    for exporter in exporters:
        before = len(exporter.acknowledged)
        wait_for(lambda exporter=exporter, before=before: len(exporter.acknowledged) > before, exporter.address)


def stored(stack, exporter) -> list[int]:
    statement = "select span_id from ps_trace.span where trace_id = %s"
    return [span_id for (span_id,) in stack.rows(statement, exporter.trace_id.hex())]


counts: list[str] = []  # what `check` has counted so far, for the end of the tests' output


def check(stack, exporters, collector_may_lose: bool) -> None:
    """Every acknowledged span is there, once."""
    direct, collected = exporters
    for exporter in exporters:
        exporter.stop()
    if not collector_may_lose:
        wait_for(lambda: collected.acknowledged <= set(stored(stack, collected)), "what the Collector acknowledged")
    for exporter in exporters:
        span_ids = stored(stack, exporter)
        missing = exporter.acknowledged - set(span_ids)
        counts.append(
            f"{os.environ['PYTEST_CURRENT_TEST'].partition('::')[2]}: {exporter.address} acknowledged"
            f" {len(exporter.acknowledged)} spans; missing: {len(missing)}, twice: {len(span_ids) - len(set(span_ids))}"
        )
        assert not missing or (exporter is collected and collector_may_lose)
        assert len(span_ids) == len(set(span_ids))
