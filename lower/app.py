"""lower: a random small letter. Its fault is that it calls digit for no good reason; besides, it can lose the trace
context of its caller, and put a unique id into the name of a span."""

import string

from telemetry import services
from telemetry.call import fetch_character
from telemetry.flags import fault
from telemetry.instrumentation import current_span
from telemetry.randomness import random_source
from telemetry.service import create_app, lose_context, serve_characters, step
from telemetry.work import work, work_on_slow_characters

DIGIT_URL = services.url("digit")

app = create_app(__name__)
lose_context(app, "lower.lost_context")


@step
def random_lower() -> str:
    return random_source().choice(string.ascii_lowercase)


@step
def process_lower(char: str) -> None:
    if (names := fault("lower.high_cardinality")) and names.happens():
        current_span().update_name(f"process_lower {random_source().getrandbits(64):016x}")
        names.record()
    work(4, char)
    work_on_slow_characters(char)


@step
def render_lower(char: str) -> str:
    if (calls := fault("lower.needless_calls")) and calls.happens():
        calls.record()
        fetch_character(DIGIT_URL, random_source(), nested=True)
    work(1, char)
    return char


serve_characters(app, random_lower, process_lower, render_lower)
