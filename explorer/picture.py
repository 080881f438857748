"""A small picture of a trace, which other pages show as an image: a waterfall without details. No I/O."""

from collections.abc import Mapping
from typing import Any

from explorer.trace import Span, Trace
from explorer.waterfall import cut
from explorer.web import duration
from queries import COLOURS

_MAX_ROWS = 30
_WIDTH, _ROW_HEIGHT = 720, 18  # pixels
_LABEL_WIDTH, _TIME_WIDTH = 240, 60  # pixels, beside the bars
_LABEL_CHARACTERS = 34
_MIN_BAR, _PADDING, _INDENT = 2, 4, 12  # pixels
# Texts are one of two colours, because an image does not see the colours of the page around it.
_SCHEMES = {"light": {"text": "#1b1f24", "error": "#c0232c"}, "dark": {"text": "#e6e9ec", "error": "#ff8087"}}


def template_values(trace: Trace, colours: Mapping[str, int], scheme: str) -> dict[str, Any]:
    """What templates/picture.svg needs. `scheme` is `light` or `dark`; anything else is `light`."""
    shown = _shown(trace)
    scale = (_WIDTH - _LABEL_WIDTH - _TIME_WIDTH) / ((trace.end - trace.start) or 1)
    return {
        "width": _WIDTH,
        "height": _ROW_HEIGHT * len(shown) + 2 * _PADDING,
        "rows": [
            _row(span, trace.start, scale, colours) | {"top": _PADDING + _ROW_HEIGHT * number}
            for number, span in enumerate(shown)
        ],
        **_SCHEMES.get(scheme, _SCHEMES["light"]),
    }


def _shown(trace: Trace) -> list[Span]:
    """All spans up to the deepest level for which there is room; of the first level, as many as there is room for."""
    depths = sorted(span.depth for span in trace.spans)
    deepest = depths[_MAX_ROWS] - 1 if len(depths) > _MAX_ROWS else depths[-1]
    return [span for span in trace.spans if span.depth <= max(deepest, 0)][:_MAX_ROWS]


def _row(span: Span, start: int, scale: float, colours: Mapping[str, int]) -> dict[str, Any]:
    service, name = span.operation
    return {
        "label": cut(f"{service} {name}", _LABEL_CHARACTERS - 2 * span.depth),
        "time": duration(span.end - span.start),
        "indent": _INDENT * span.depth,
        "left": round(_LABEL_WIDTH + scale * (span.start - start), 1),
        "width": round(max(scale * (span.end - span.start), _MIN_BAR), 1),
        "colour": COLOURS[colours[service]],
        "failed": span.failed,
    }
