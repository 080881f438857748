"""A trace as lines of text for a language model: a tree of the spans that matter most, within limits. No I/O.

Texts of spans can have any length, so each is cut; SQL has all of them.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from explorer.trace import Interval, Span, Trace
from explorer.waterfall import cut
from promscale.otlp import SPAN_KINDS, plain

MAX_TEXT, MAX_LINE = 200, 2_000  # characters of a name or a value, and of all of a span
MAX_ATTRIBUTES, MAX_EVENTS = 20, 5  # of a span
MAX_RESOURCES = 20  # of a trace
MAX_INDENTATION = 40  # levels: deeper spans are not indented further


class Outline(NamedTuple):
    """`lines`: one per span, depth first, siblings by their start. `omitted`: how many spans have no line."""

    lines: list[str]
    omitted: int


def outline(trace: Trace, max_spans: int, max_characters: int) -> Outline:
    """The most important spans of the trace, each with all spans above it.

    Failed spans come first, then those with the most time on the critical path, then the longest.
    """
    lines: dict[Span, str] = {}
    chosen: set[Span] = set()
    characters = 0
    for span in sorted(trace.spans, key=_importance, reverse=True):
        if len(chosen) == max_spans or characters > max_characters - MAX_LINE:
            break
        added = _missing(span, chosen, max_spans - len(chosen))
        lines |= {missing: _line(missing, trace) for missing in added if missing not in lines}
        size = sum(len(lines[missing]) for missing in added)
        if characters + size <= max_characters:
            chosen.update(added)
            characters += size
    return Outline([lines[span] for span in trace.spans if span in chosen], len(trace.spans) - len(chosen))


def resources(trace: Trace) -> list[str]:
    """The attributes of each resource, of at most MAX_RESOURCES."""
    texts = dict.fromkeys(_attributes(process.resource.attributes) for process in trace.processes)
    return [cut(text, MAX_LINE) for text in texts][:MAX_RESOURCES]


def _attributes(items: Sequence[KeyValue]) -> str:
    """As {key=value, ...}, with the values as JSON."""
    values = ((item.key, json.dumps(plain(item.value), ensure_ascii=False)) for item in items[:MAX_ATTRIBUTES])
    shown = [f"{_text(key)}={cut(value, MAX_TEXT)}" for key, value in values]
    if len(items) > MAX_ATTRIBUTES:
        shown.append(f"{len(items) - MAX_ATTRIBUTES} more")
    return "{" + ", ".join(shown) + "}" if shown else ""


def _missing(span: Span, chosen: set[Span], most: int) -> list[Span]:
    """The span and those above it that are not chosen; nothing if these are more than `most`."""
    missing: list[Span] = []
    above: Span | None = span
    while above is not None and above not in chosen:
        if len(missing) == most:
            return []
        missing.append(above)
        above = above.parent
    return missing


def _importance(span: Span) -> tuple[bool, int, int]:
    return span.failed, _length(span.critical), span.end - span.start


def _length(intervals: Iterable[Interval]) -> int:
    return sum(end - start for start, end in intervals)


def _line(span: Span, trace: Trace) -> str:
    otlp = span.otlp
    parts = [
        _text(span.process.service),
        _text(otlp.name),
        f"[{SPAN_KINDS[otlp.kind]}]" if 0 < otlp.kind < len(SPAN_KINDS) else "",
        f"+{_ms(span.start - trace.start)} ms",
        f"{_ms(span.end - span.start)} ms",
        f"self {_ms(_length(span.own))} ms",
        f"critical {100 * _length(span.critical) / (trace.end - trace.start or 1):.0f} %",
        "(its parent span is not stored)" if span.is_orphan else "",
        f"ERROR {_text(otlp.status.message)}".strip() if span.failed else "",
        _attributes(otlp.attributes),
        *(_event(event, trace.start) for event in otlp.events[:MAX_EVENTS]),
        f"{len(otlp.events) - MAX_EVENTS} more events" if len(otlp.events) > MAX_EVENTS else "",
    ]
    return cut("  " * min(span.depth, MAX_INDENTATION) + " | ".join(filter(None, parts)), MAX_LINE)


def _event(event: OtlpSpan.Event, trace_start: int) -> str:
    time = f"+{_ms(event.time_unix_nano - trace_start)} ms"
    return " ".join(filter(None, ("event", _text(event.name), time, _attributes(event.attributes))))


def _ms(nanos: int) -> str:
    """Milliseconds with three decimals at most."""
    return f"{nanos / 1e6:.3f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    """On one line, so that no text looks like a line of its own."""
    return cut(" ".join(text.split()), MAX_TEXT)
