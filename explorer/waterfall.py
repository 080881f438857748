"""What the browser needs to draw a trace and to show each of its spans, as plain JSON. No I/O.

Everything is untrusted text: it is cut to what a person may want to read; the rest is in Jaeger's API.
"""

import json
from collections.abc import Iterable, Sequence

import orjson
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from explorer.trace import Interval, Process, Span, Trace
from promscale.otlp import SPAN_KINDS, STATUS_CODES, plain

# How many characters all values of a page may have together; how many a value has at the least, and at the most.
PAGE_CHARACTERS = 20_000_000
MIN_CHARACTERS, MAX_CHARACTERS = 100, 10_000
MAX_NAME = 500
MAX_ITEMS = 200  # attributes, events, links of one span


def waterfall(trace: Trace, colours: dict[str, int]) -> bytes:
    """JSON; times are nanoseconds since the trace's start, intervals are flat: from, to, from, to, ..."""
    numbers = {process: number for number, process in enumerate(trace.processes)}
    longest = max(MIN_CHARACTERS, min(MAX_CHARACTERS, PAGE_CHARACTERS // (1 + _count_values(trace.spans))))
    page = {
        "duration": trace.end - trace.start,
        "processes": [_process(process, colours, longest) for process in numbers],
        "spans": [_span(span, trace.start, numbers[span.process], longest) for span in trace.spans],
    }
    return orjson.dumps(page)


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _count_values(spans: Iterable[Span]) -> int:
    return sum(len(part.attributes) for span in spans for part in (span.otlp, *span.otlp.events, *span.otlp.links))


def _process(process: Process, colours: dict[str, int], longest: int) -> dict:
    return {
        "service": cut(process.service, MAX_NAME),
        "colour": colours[process.service],
        "resource": _attributes(process.resource.attributes, longest),
        "scope": " ".join(filter(None, (cut(process.scope.name, MAX_NAME), cut(process.scope.version, MAX_NAME)))),
        "scopeAttributes": _attributes(process.scope.attributes, longest),
    }


def _span(span: Span, start: int, process: int, longest: int) -> dict:
    otlp = span.otlp
    return {
        "id": otlp.span_id.hex(),
        "parent": otlp.parent_span_id.hex(),
        "orphan": span.is_orphan,
        "name": cut(otlp.name, MAX_NAME),
        "process": process,
        "depth": span.depth,
        "start": span.start - start,
        "duration": span.end - span.start,
        "own": _flat(span.own, start),
        "critical": _flat(sorted(span.critical), start),
        "failed": span.failed,
        "kind": SPAN_KINDS[otlp.kind] if 0 < otlp.kind < len(SPAN_KINDS) else "",
        "status": STATUS_CODES[otlp.status.code] if 0 < otlp.status.code < len(STATUS_CODES) else "",
        "message": _shown(otlp.status.message, longest),
        "attributes": _attributes(otlp.attributes, longest),
        "events": [
            {
                "name": cut(event.name, MAX_NAME),
                "time": event.time_unix_nano - start,
                "attributes": _attributes(event.attributes, longest),
            }
            for event in otlp.events[:MAX_ITEMS]
        ],
        "links": [
            {
                "trace": link.trace_id.hex(),
                "span": link.span_id.hex(),
                "attributes": _attributes(link.attributes, longest),
            }
            for link in otlp.links[:MAX_ITEMS]
        ],
        "left": [max(len(items) - MAX_ITEMS, 0) for items in (otlp.attributes, otlp.events, otlp.links)],
    }


def _flat(intervals: Iterable[Interval], start: int) -> list[int]:
    return [time - start for interval in intervals for time in interval]


def _attributes(items: Sequence[KeyValue], longest: int) -> list[list]:
    """[key, value as text, how many characters it has in all]"""
    return [[cut(item.key, MAX_NAME), *_shown(plain(item.value), longest)] for item in items[:MAX_ITEMS]]


def _shown(value: object, longest: int) -> tuple[str, int]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:longest], len(text)
