"""What makes the spans of this process: the setting DEMO_INSTRUMENTATION.

`on`, the default: the demo sets up OpenTelemetry (tracing.start), and has spans, attributes and events of its own.
`off`: nothing is traced. `auto`: OpenTelemetry's program `opentelemetry-instrument` starts the process, and its
instrumentations of Flask and requests make all spans. docs/workshop/instrumentation.md then adds others by hand.
"""

import os
import sys
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation import auto_instrumentation
from opentelemetry.trace import Span, Tracer

MODES = ("on", "off", "auto")
MODE = os.environ.get("DEMO_INSTRUMENTATION") or "on"

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
VERSION: str = tomllib.loads(_PROJECT.read_text())["project"]["version"]

# Regular expressions of the URLs whose requests are not traced.
EXCLUDED_URLS = "/healthz$,/static/"

# Use the stable names of HTTP attributes (http.request.method and so on). The instrumentations read this variable when
# they are imported, so it is set before.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
# Export every 500 ms instead of the SDK's default of 5 s, so that a trace is visible almost at once.
os.environ.setdefault("OTEL_BSP_SCHEDULE_DELAY", "500")


class _NoTracer(trace.NoOpTracer):
    """Makes no spans. Unlike its base class, it leaves the current span in its place, for who adds to it by hand."""

    @contextmanager
    def start_as_current_span(self, *_: Any, **__: Any) -> Iterator[Span]:  # type: ignore[override]  # also a decorator
        yield trace.INVALID_SPAN


# The demo's own spans; none, unless DEMO_INSTRUMENTATION is on.
tracer: Tracer = trace.get_tracer("tracing-demo", VERSION) if MODE == "on" else _NoTracer()


def current_span() -> Span:
    """The current span, for attributes, events and errors of the demo's own. What is written to it has no effect,
    unless DEMO_INSTRUMENTATION is on."""
    return trace.get_current_span() if MODE == "on" else trace.INVALID_SPAN


def resource(service_name: str) -> dict[str, str]:
    """The attributes by which a process of the demo is known, where OpenTelemetry's variables do not change them."""
    return {"service.name": service_name, "service.version": VERSION, "service.instance.id": str(uuid.uuid4())}


def prepare(service_name: str) -> None:
    """Call this first in a process that is traced. With `auto`, opentelemetry-instrument starts the process again.

    Ends the process with one line if DEMO_INSTRUMENTATION has another value.
    """
    if MODE not in MODES:
        sys.exit(f"DEMO_INSTRUMENTATION={MODE!r} is none of {', '.join(MODES)}")
    if MODE == "auto" and not _is_started_by_opentelemetry_instrument():
        given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
        own = [f"{name}={value}" for name, value in resource(service_name).items()]
        # Of two values of one attribute, the last one counts.
        os.environ["OTEL_RESOURCE_ATTRIBUTES"] = ",".join([*own, *([given] if given else [])])
        os.environ.setdefault("OTEL_METRICS_EXPORTER", "none")
        os.environ.setdefault("OTEL_LOGS_EXPORTER", "none")
        os.environ.setdefault("OTEL_PYTHON_EXCLUDED_URLS", EXCLUDED_URLS)
        sys.argv = ["opentelemetry-instrument", sys.executable, *sys.orig_argv[1:]]
        auto_instrumentation.run()


def _is_started_by_opentelemetry_instrument() -> bool:
    """Whether its folder is on PYTHONPATH, by which Python imports its set-up before everything else."""
    folder = str(Path(auto_instrumentation.__file__).parent.absolute())
    return folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)
