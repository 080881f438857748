"""generator: a random password. It fetches each character from another service."""

from pathlib import Path
from typing import Any

from flask import Response, render_template, request
from werkzeug.exceptions import BadRequest

from frame import add_frame, static_path
from generator.fetching import URLS, fetch_all
from serving import beside
from telemetry import services
from telemetry.instrumentation import current_span, tracer
from telemetry.randomness import random_source
from telemetry.service import create_app, error_response
from telemetry.tracing import trace_reference

DEFAULT_LENGTH, MIN_LENGTH, MAX_LENGTH = 16, 8, 128

app = create_app(__name__, static_path(Path(__file__).with_name("static")))
add_frame(app, "generator")


@app.get("/")
def password() -> dict[str, str] | str:
    result = {"password": generate(requested_length()), **trace_reference()}
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
    trace = result.get("trace_id")
    return render_template(
        "password.html",
        trace_url=f"{beside(services.EXPLORER['traces'])}/trace/{trace}" if trace else None,
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
    current_span().set_attribute("pwlen", length)
    source = random_source()
    # At least one character of each kind, the others of random kinds.
    chars = fetch_all([*URLS, *source.choices([*URLS], k=length - len(URLS))], source)
    source.shuffle(chars)
    return "".join(chars)
