"""generator: a random password. It fetches each character from another service, one call at a time."""

import random
from pathlib import Path
from typing import Any

from flask import Response, render_template, request
from opentelemetry import trace
from werkzeug.exceptions import BadRequest

from frame import add_frame, static_path
from serving import beside
from telemetry import services
from telemetry.call import fetch_character
from telemetry.service import create_app, error_response
from telemetry.tracing import trace_id, tracer

# By the kind of character, which names the operation: `generator.digits` calls the service digit.
URLS = {f"{name}s": services.url(name) for name in services.CHARACTER_SERVICES}
DEFAULT_LENGTH, MIN_LENGTH, MAX_LENGTH = 16, 8, 128

app = create_app(__name__, static_path(Path(__file__).with_name("static")))
add_frame(app, "generator")


@app.get("/")
def password() -> dict[str, str] | str:
    result = {"password": generate(requested_length()), "trace_id": trace_id()}
    return render_page(**result) if prefers_html() else result


@app.errorhandler(Exception)
def failed(error: Exception) -> Response:
    response = error_response(error)
    if prefers_html():
        response.data, response.mimetype = render_page(status=response.status_code, **response.get_json()), "text/html"
    return response


def prefers_html() -> bool:
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def render_page(**result: Any) -> str:
    return render_template(
        "password.html",
        trace_url=f"{beside(services.EXPLORER['traces'])}/trace/{result['trace_id']}",
        lengths=(MIN_LENGTH, request.args.get("length", DEFAULT_LENGTH, int), MAX_LENGTH),
        **result,
    )


def requested_length() -> int:
    match request.args.getlist("length"):
        case []:
            return DEFAULT_LENGTH
        # int() also takes " 16", "+16", "1_6" and other scripts' digits.
        case [text] if text.isascii() and text.isdecimal() and MIN_LENGTH <= int(text) <= MAX_LENGTH:
            return int(text)
        case _:
            raise BadRequest(f"length must be given once, as a whole number from {MIN_LENGTH} to {MAX_LENGTH}")


@tracer.start_as_current_span("generator.generate")
def generate(length: int) -> str:
    trace.get_current_span().set_attribute("pwlen", length)
    # At least one character of each kind, the others of random kinds.
    kinds = [*URLS, *random.choices([*URLS], k=length - len(URLS))]
    chars = [char for kind in URLS for char in fetch(kind, kinds.count(kind))]
    random.shuffle(chars)
    return "".join(chars)


def fetch(kind: str, count: int) -> list[str]:
    """That many characters of one kind. Raises CallFailed."""
    with tracer.start_as_current_span(f"generator.{kind}") as span:
        chars = []
        for iteration in range(count):
            span.add_event("loop", {"iteration": iteration})
            span.set_attribute("iteration", iteration)
            chars.append(fetch_character(URLS[kind]))
        return chars
