"""Traces of passwords made at noon, for tests that compare exact numbers."""

from datetime import UTC, datetime, timedelta

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.store.otlp_messages import add_service, span

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALL = {"time_from": NOON, "time_to": NOON + timedelta(minutes=3)}
DIGIT = ALL | {"service": "digit", "operation": "GET /"}
GENERATE = ALL | {"service": "generator", "operation": "generator.generate"}

INTERNAL, SERVER, CLIENT = Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT

# The trace of a password, as trees of spans: service, name, kind, duration in ms, children.
DIGIT_CALLED: tuple = ("digit", "GET /", SERVER, 18, [("digit", "render_digit", INTERNAL, 5, [])])
DIGIT_BY_LOWER = ("lower", "GET", CLIENT, 20, [DIGIT_CALLED])
LOWER_CALLED = ("lower", "GET /", SERVER, 38, [("lower", "random_lower", INTERNAL, 10, []), DIGIT_BY_LOWER])
CALLS = [("generator", "GET", CLIENT, 40, [LOWER_CALLED]), ("generator", "GET", CLIENT, 30, [DIGIT_CALLED])]
GENERATOR_CALLED = ("generator", "GET /", SERVER, 96, [("generator", "generator.generate", INTERNAL, 90, CALLS)])
PASSWORD = ("load", "load.request", INTERNAL, 100, [("load", "GET", CLIENT, 98, [GENERATOR_CALLED])])

FAILED = ("render_digit", "generator.generate", "load.request")


class Export:
    """An export request under construction."""

    def __init__(self) -> None:
        self.message = ExportTraceServiceRequest()

    def add(self, service: str, name: str, start: datetime, duration_ms: int = 1, failed=False, **fields) -> Span:
        start_ms = round(start.timestamp() * 1000)
        added = span(
            name,
            start_time_unix_nano=start_ms * 1_000_000,
            end_time_unix_nano=(start_ms + duration_ms) * 1_000_000,
            status=Status(code=Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET),
            **fields,
        )
        add_service(self.message, added, service=service)
        return added

    def add_trace(self, tree: tuple, start: datetime, slowness: int = 1, failed: tuple = (), **fields) -> Span:
        """Add a tree of spans like PASSWORD, each starting 1 ms after its parent; spans named in `failed` have errors.

        Durations are multiplied by `slowness`. Returns the root span.
        """
        service, name, kind, duration_ms, children = tree
        added = self.add(service, name, start, duration_ms * slowness, name in failed, kind=kind, **fields)
        parent = {"trace_id": added.trace_id, "parent_span_id": added.span_id}
        for child in children:
            self.add_trace(child, start + timedelta(milliseconds=1), slowness, failed, **parent)
        return added


def export_passwords(promscale) -> list[Span]:
    """Store three passwords: at 12:00:10, at 12:00:40 (2 times slower) and at 12:02:05 (4 times slower, with errors).

    Returns their root spans.
    """
    export = Export()
    roots = [
        export.add_trace(PASSWORD, NOON + timedelta(seconds=10)),
        export.add_trace(PASSWORD, NOON + timedelta(seconds=40), slowness=2),
        export.add_trace(PASSWORD, NOON + timedelta(seconds=125), slowness=4, failed=FAILED),
    ]
    promscale.export(export.message)
    return roots
