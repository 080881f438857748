"""Traces like those of the demo's services, made without running them: the same operations, attributes, slow characters
and failures, in simulated time. The same seed makes the same traces."""

import contextlib
import math
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from explorer.analysis.spans import Span, Trace, traces
from faults.flags import DEFINITIONS, FlagFile
from special.app import CHARACTERS
from tests.store.otlp_messages import add_service, span

SPAN_KINDS = {"GET": OtlpSpan.SPAN_KIND_CLIENT, "GET /": OtlpSpan.SPAN_KIND_SERVER}  # by the names of operations

FLAGS = {name: flag.variants[flag.default] for name, flag in FlagFile(DEFINITIONS).flags().items()}
# Each service's characters, the slow ones and how many times as long they take, and those that fail at times.
KINDS = {
    "digit": ("0123456789", FLAGS["digit.slow_characters"]["characters"], 4, ""),
    "lower": ("abcdefghijklmnopqrstuvwxyz", FLAGS["lower.slow_characters"]["characters"], 5, ""),
    "special": (
        CHARACTERS,
        FLAGS["special.slow_characters"]["characters"],
        6,
        FLAGS["special.errors"]["characters"],
    ),
    "upper": (
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        FLAGS["upper.slow_characters"]["characters"],
        5,
        FLAGS["upper.errors"]["characters"],
    ),
}
SLOW_FACTOR, SLOW_PROBABILITY = 20, FLAGS["upper.slow_calls"]["probability"]
CALL_MS = 4  # a mean: of each side of an HTTP call, besides the work


class Fault(NamedTuple):
    """A fault of one service's processing: for which calls, how many times as slow they are, and whether they fail."""

    service: str
    applies: Callable[[str, int], bool]  # to a character in a password of a length
    slowness: float = 1
    fails: bool = False
    caller: str = ""  # whose requests only have the fault


class _Failed(Exception):
    pass


class _Password:
    """The spans of one password: (parent's index, service, name, start, end, tags, failed), times in ms."""

    def __init__(self, source: random.Random, start_ms: float, fault: Fault | None) -> None:
        self.spans: list[Any] = []
        self._random, self._now, self._fault = source, start_ms, fault
        self._length = source.randint(8, 32)
        with contextlib.suppress(_Failed):
            self._span(None, "load", "load.request", {"pwlen": self._length}, self._request)

    def _span(self, parent: int | None, service: str, name: str, tags: dict, body: Callable[[int, dict], None]) -> None:
        index, start, failed = len(self.spans), self._now, True
        self.spans.append(None)
        try:
            body(index, tags)
            failed = False
        finally:
            self._now += self._random.uniform(0.05, 0.3)
            self.spans[index] = (parent, service, name, start, self._now, tags, failed)

    def _call(self, parent: int, caller: str, url: str, served: Callable[[int, dict], None], callee: str) -> None:
        def with_status(body: Callable[[int, dict], None]) -> Callable[[int, dict], None]:
            def answered(index: int, tags: dict) -> None:
                self._now += self._random.expovariate(1 / CALL_MS)
                tags["http.response.status_code"] = 500
                body(index, tags)
                tags["http.response.status_code"] = 200

            return answered

        server = {"http.request.method": "GET", "client.port": self._random.randint(32768, 61000)}
        client = {"http.request.method": "GET", "url.full": url}
        serve = with_status(served)
        self._span(
            parent, caller, "GET", client, with_status(lambda i, _: self._span(i, callee, "GET /", server, serve))
        )

    def _request(self, index: int, _: dict) -> None:
        url = f"http://generator/?length={self._length}"
        self._call(index, "load", url, self._password, "generator")

    def _password(self, index: int, tags: dict) -> None:
        tags["url.query"] = f"length={self._length}"
        self._span(index, "generator", "generator.generate", {"pwlen": self._length}, self._generate)

    def _generate(self, index: int, _: dict) -> None:
        kinds = [*KINDS, *self._random.choices([*KINDS], k=self._length - len(KINDS))]
        for kind in KINDS:

            def fetch(parent: int, tags: dict, kind: str = kind) -> None:
                for iteration in range(kinds.count(kind)):
                    tags["iteration"] = iteration
                    self._character(parent, "generator", kind)

            self._span(index, "generator", f"generator.{kind}s", {}, fetch)

    def _character(self, parent: int, caller: str, kind: str) -> None:
        char = self._random.choice(KINDS[kind][0])

        def serve(index: int, tags: dict) -> None:
            self._span(index, kind, f"random_{kind}", {}, lambda *_: None)
            tags["char"] = char
            self._span(index, kind, f"process_{kind}", {}, lambda _, tags: self._process(caller, kind, char, tags))
            self._span(index, kind, f"render_{kind}", {}, lambda index, tags: self._render(index, kind, char, tags))

        self._call(parent, caller, f"http://{kind}/", serve, kind)

    def _process(self, caller: str, kind: str, char: str, tags: dict) -> None:
        _, slow, factor, failing = KINDS[kind]
        seconds = self._now / 1000
        usual = {"digit": 5 + 4 * math.sin(seconds / 48), "lower": 4, "special": 5, "upper": 2 + seconds % 3600 / 360}
        fault = self._fault if self._fault and self._fault.service == kind else None
        faulty = fault is not None and fault.caller in ("", caller) and fault.applies(char, self._length)
        if faulty:
            tags |= {"demo.fault.name": [f"{kind}.fault"], "demo.fault.added_ms": usual[kind]}
        slowness = (factor if char in slow else 1) * (fault.slowness if fault and faulty else 1)
        self._work(usual[kind] * slowness, char, tags)
        if (char in failing and self._random.random() < 0.05) or (fault and faulty and fault.fails):
            raise _Failed

    def _render(self, index: int, kind: str, char: str, tags: dict) -> None:
        if kind == "lower" and self._random.random() < FLAGS["lower.needless_calls"]["probability"]:
            self._character(index, "lower", "digit")
        self._work(1, char, tags)

    def _work(self, duration_ms: float, char: str, tags: dict) -> None:
        rounds = self._random.randint(1, 3)
        tags |= {"char": char, "iteration": rounds}
        duration_ms *= SLOW_FACTOR if self._random.random() < SLOW_PROBABILITY else 1
        self._now += sum(self._random.uniform(0.5, 1.5) * duration_ms / rounds for _ in range(rounds))


def passwords(seed: int, count: int, fault: Fault | None = None, minutes: float = 60) -> list[Trace]:
    """So many traces, evenly distributed over a time that begins at 1970-01-01 00:00. Their ids depend on the seed."""
    source = random.Random(seed)
    rows = (
        Span(
            trace_id=f"{seed + 1:016x}{number:016x}",
            span_id=index + 1,
            parent_span_id=None if parent is None else parent + 1,
            service=service,
            name=name,
            start=round(start * 1e6),
            end=round(end * 1e6),
            failed=failed,
            tags=tags,
            resource_tags={"service.name": service, "service.version": "1.0.0"},
        )
        for number in range(count)
        for index, (parent, service, name, start, end, tags, failed) in enumerate(
            _Password(source, number * minutes * 60_000 / count, fault).spans
        )
    )
    return traces(rows)


def export(made: list[Trace], begin: datetime) -> ExportTraceServiceRequest:
    """The traces as a request, moved to a time that begins at `begin`."""
    message = ExportTraceServiceRequest()
    offset = round(begin.timestamp() * 10**6) * 1000
    for trace in made:
        by_service: dict[str, list[OtlpSpan]] = {}
        for made_span in trace.spans:
            added = span(
                made_span.name,
                made_span.tags,
                kind=SPAN_KINDS.get(made_span.name, OtlpSpan.SPAN_KIND_INTERNAL),
                trace_id=bytes.fromhex(made_span.trace_id),
                span_id=made_span.span_id.to_bytes(8, "big"),
                parent_span_id=made_span.parent_span_id.to_bytes(8, "big") if made_span.parent_span_id else b"",
                start_time_unix_nano=made_span.start + offset,
                end_time_unix_nano=made_span.end + offset,
                status=Status(code=Status.STATUS_CODE_ERROR if made_span.failed else Status.STATUS_CODE_UNSET),
            )
            by_service.setdefault(made_span.service, []).append(added)
        for service, spans in by_service.items():
            add_service(message, *spans, service=service)
    return message
