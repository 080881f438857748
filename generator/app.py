"""generator: a random password, each character of which it fetches from another service, one call at a time."""

import os
import random

from flask import render_template, request
from opentelemetry import trace
from werkzeug.exceptions import BadRequest

from serving import beside
from telemetry.call import CallFailed, fetch_character
from telemetry.service import create_app, failed
from telemetry.tracing import trace_id, tracer

URLS = {
    "uppers": os.environ.get("UPPER_URL") or "http://localhost:5054",
    "lowers": os.environ.get("LOWER_URL") or "http://localhost:5053",
    "digits": os.environ.get("DIGIT_URL") or "http://localhost:5051",
    "specials": os.environ.get("SPECIAL_URL") or "http://localhost:5052",
}
JAEGER_URL = os.environ.get("JAEGER_URL")  # this machine's, unless it says otherwise
DEFAULT_LENGTH, MIN_LENGTH, MAX_LENGTH = 16, 8, 128

app = create_app(__name__)


@app.get("/")
def password():
    made = {"password": generate(asked_length()), "trace_id": trace_id()}
    return page(**made) if wants_page() else made


@app.errorhandler(CallFailed)
def no_password(error: CallFailed):
    answer = failed(error)
    return (page(**answer.json), answer.status_code) if wants_page() else answer


def wants_page() -> bool:
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def page(**made: str) -> str:
    return render_template("password.html", jaeger_url=JAEGER_URL or beside(16686), **made)


def asked_length() -> int:
    match request.args.getlist("length"):
        case []:
            return DEFAULT_LENGTH
        # Not every string that int() takes is one that a person would call a number.
        case [text] if text.isascii() and text.isdecimal() and MIN_LENGTH <= int(text) <= MAX_LENGTH:
            return int(text)
        case _:
            raise BadRequest(f"length must be given once, as a whole number from {MIN_LENGTH} to {MAX_LENGTH}")


@tracer.start_as_current_span("generator.generate")
def generate(length: int) -> str:
    trace.get_current_span().set_attribute("pwlen", length)
    # One of each kind at least; the rest as it comes.
    kinds = [*URLS, *random.choices([*URLS], k=length - len(URLS))]
    chars = [char for kind in URLS for char in fetch(kind, kinds.count(kind))]
    random.shuffle(chars)
    return "".join(chars)


def fetch(kind: str, count: int) -> list[str]:
    """So many characters of one kind. Raises CallFailed."""
    with tracer.start_as_current_span(f"generator.{kind}") as span:
        chars = []
        for iteration in range(count):
            span.add_event("loop", {"iteration": iteration})
            span.set_attribute("iteration", iteration)
            chars.append(fetch_character(URLS[kind]))
        return chars
