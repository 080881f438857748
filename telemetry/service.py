"""How a service answers: Flask, traced, with every error as JSON."""

import functools
import logging
import random
from collections.abc import Callable

from flask import Flask, Response, current_app, jsonify
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import Status, StatusCode
from werkzeug.exceptions import HTTPException

from telemetry.tracing import trace_id, tracer
from telemetry.work import work

# HTTP status codes of requests that this service is not to blame for.
_CALLERS_FAULT = range(400, 500)


def create_app(import_name: str) -> Flask:
    """A Flask app whose requests are traced, all but /healthz, and whose errors are {"error", "trace_id"}."""
    app = Flask(import_name)
    FlaskInstrumentor().instrument_app(app, excluded_urls="/healthz$")
    if not RequestsInstrumentor().is_instrumented_by_opentelemetry:
        RequestsInstrumentor().instrument()

    @app.get("/healthz")
    def healthz():
        return {"status": "ok"}

    app.register_error_handler(Exception, failed)
    return app


def failed(error: Exception) -> Response:
    """The answer to a request that has failed. Logged and recorded in the trace, unless the caller is to blame."""
    code = error.code if isinstance(error, HTTPException) else 500
    if code not in _CALLERS_FAULT:
        logging.getLogger(current_app.name).error("%s: %s", type(error).__name__, error)
        span = trace.get_current_span()
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    answer = jsonify(error=error.description if isinstance(error, HTTPException) else str(error), trace_id=trace_id())
    answer.status_code = code
    if isinstance(error, HTTPException):
        answer.headers.extend(
            (name, value) for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")
        )
    return answer


def step(function: Callable) -> Callable:
    """Each call of the function is a span of its name; an exception is recorded there, and goes on."""

    @functools.wraps(function)
    def traced(*args):
        with tracer.start_as_current_span(function.__name__):
            return function(*args)

    return traced


def serve_characters(app: Flask, choose: Callable[[], str], process: Callable, render: Callable[[str], str]) -> None:
    """GET / takes a character through the three steps of a character service."""

    @app.get("/")
    def character():
        char = choose()
        trace.get_current_span().set_attribute("char", char)
        process(char)
        if random.random() < 0.2:
            extra_work(f"extra_{process.__name__}", char)
        return {"char": render(char)}

    def extra_work(name: str, char: str) -> None:
        with tracer.start_as_current_span(name):
            work(0.002, char)
            if name.startswith("extra_process") and random.random() < 0.3:
                extra_work(f"extra_{name}", char)
