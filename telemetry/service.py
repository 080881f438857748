"""The HTTP side of a service: a traced Flask app that returns every error as JSON."""

import functools
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ParamSpec, TypeVar

from flask import Flask, Response, current_app, jsonify, request
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.trace import Status, StatusCode
from werkzeug.exceptions import HTTPException, InternalServerError

from telemetry.flags import fault
from telemetry.instrumentation import EXCLUDED_URLS, MODE, current_span, tracer
from telemetry.randomness import random_source
from telemetry.tracing import trace_calls, trace_reference
from telemetry.work import work

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

EXTRA_WORK_PROBABILITY = 0.2
EXTRA_EXTRA_WORK_PROBABILITY = 0.3


def create_app(import_name: str, static_path: str | None = None) -> Flask:
    """A Flask app that traces each request except GET /healthz, and answers errors with {"error", "trace_id"}; without
    the latter if nothing is traced.

    `static_path` is the URL path of its static files, which are not traced either.
    """
    app = Flask(import_name, static_url_path=static_path)
    if MODE == "on":
        FlaskInstrumentor().instrument_app(app, excluded_urls=EXCLUDED_URLS)  # type: ignore[no-untyped-call]  # has no types
    trace_calls()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.register_error_handler(Exception, error_response)
    return app


def error_response(error: Exception) -> Response:
    """The JSON response to a failed request. A server error (5xx) is also logged and recorded in the current span."""
    http_error = error if isinstance(error, HTTPException) else InternalServerError(str(error))
    code = http_error.code or 500
    if code >= 500:
        logging.getLogger(current_app.name).error("%s: %s", type(error).__name__, error)
        span = current_span()
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    response = jsonify(error=http_error.description, **trace_reference())
    response.status_code = code
    # Keep headers such as Allow (with 405); these two describe werkzeug's HTML page.
    response.headers.extend(
        (name, value) for name, value in http_error.get_headers() if name not in ("Content-Type", "Content-Length")
    )
    return response


def lose_context(app: Flask, flag: str) -> None:
    """Let the fault with this name make the app lose the trace context of requests: their spans begin a new trace."""
    traced_app = app.wsgi_app

    def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # The request's random generator exists only when its context has been read, from the same headers.
        baggage = environ.get("HTTP_BAGGAGE")
        if (lost := fault(flag)) and Random(baggage).random() < lost["probability"]:
            environ.pop("HTTP_TRACEPARENT", None)
            environ[flag] = lost
        return traced_app(environ, start_response)

    @app.before_request
    def record() -> None:
        if lost := request.environ.get(flag):
            lost.record()

    app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # as Flask documents it


def step(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A decorator: each call is a span with the function's name, which records an exception that leaves it."""

    @functools.wraps(function)
    def traced(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with tracer.start_as_current_span(function.__name__):
            return function(*args, **kwargs)

    return traced


def serve_characters(
    app: Flask, choose: Callable[[], str], process: Callable[[str], None], render: Callable[[str], str]
) -> None:
    """Add GET / to the app, which takes a character through the three steps of a character service."""

    @app.get("/")
    def character() -> dict[str, str]:
        char = choose()
        current_span().set_attribute("char", char)
        process(char)
        if random_source().random() < EXTRA_WORK_PROBABILITY:
            extra_work(f"extra_{process.__name__}", char)
        return {"char": render(char)}

    def extra_work(name: str, char: str) -> None:
        with tracer.start_as_current_span(name):
            work(2, char)
            if name.startswith("extra_process") and random_source().random() < EXTRA_EXTRA_WORK_PROBABILITY:
                extra_work(f"extra_{name}", char)
