"""Spans that are exported while a part is killed, and then counted in the database."""

import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from telemetry.services import OTLP_GRPC_PORT, PROMSCALE_GRPC_PORT
from tests.waiting import wait_until

PROMSCALE, COLLECTOR = f"127.0.0.1:{PROMSCALE_GRPC_PORT}", f"127.0.0.1:{OTLP_GRPC_PORT}"
BATCH = 20


class Exporter(threading.Thread):
    """Exports spans of one trace in small batches, and retries each batch until it is acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.trace_id = secrets.token_bytes(16)  # not seeded: the database keeps the spans of earlier runs
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
    """An exporter to promscale and one to the Collector, both running."""
    exporters = Exporter(PROMSCALE), Exporter(COLLECTOR)
    for exporter in exporters:
        exporter.start()
    try:
        yield exporters
    finally:
        for exporter in exporters:
            exporter.stop()


def wait_for_more(exporters: Iterable[Exporter]) -> None:
    """Wait until each exporter has had another batch acknowledged."""

    def more_than(exporter: Exporter, count: int) -> Callable[[], bool]:
        return lambda: len(exporter.acknowledged) > count

    for exporter in exporters:
        more = more_than(exporter, len(exporter.acknowledged))
        wait_until(more, f"{exporter.address} acknowledges another batch")


def stored(stack, exporter: Exporter) -> list[int]:
    statement = "select span_id from ps_trace.span where trace_id = %s"
    return [span_id for (span_id,) in stack.rows(statement, exporter.trace_id.hex())]


counts: list[str] = []  # lines for the summary at the end of the tests' output


def check(stack, exporters: tuple[Exporter, Exporter], collector_may_lose: bool) -> None:
    """Every acknowledged span is stored, once; `collector_may_lose` allows the Collector to have lost some."""
    for exporter in exporters:
        exporter.stop()
    through_collector = exporters[1]
    if not collector_may_lose:
        wait_until(
            lambda: through_collector.acknowledged <= set(stored(stack, through_collector)),
            "all spans that the Collector acknowledged",
        )
    for exporter in exporters:
        span_ids = stored(stack, exporter)
        missing = exporter.acknowledged - set(span_ids)
        duplicates = len(span_ids) - len(set(span_ids))
        counts.append(
            f"{os.environ['PYTEST_CURRENT_TEST'].partition('::')[2]}: {exporter.address} acknowledged"
            f" {len(exporter.acknowledged)} spans; missing: {len(missing)}, duplicates: {duplicates}"
        )
        assert not missing or (exporter is through_collector and collector_may_lose)
        assert not duplicates
