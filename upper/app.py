"""upper: a random capital letter. Its faults are that it gets slower through the hour, and that it fails on some
letters at times; besides, its clock can be ahead, which telemetry/clock.py simulates."""

import string

from telemetry.flags import fault
from telemetry.randomness import now, random_source
from telemetry.service import create_app, serve_characters, step
from telemetry.work import work, work_on_slow_characters

app = create_app(__name__)


@step
def random_upper() -> str:
    return random_source().choice(string.ascii_uppercase)


@step
def process_upper(char: str) -> None:
    work(2, char)
    work_on_slow_characters(char)
    if slowdown := fault("upper.slowdown"):
        slowdown.delay(slowdown["added_ms"] * (now() % 3600) / 3600)
    if (errors := fault("upper.errors")) and char in errors["characters"] and errors.happens():
        raise errors.error(RuntimeError(f"upper does not like the letter {char} today"))


@step
def render_upper(char: str) -> str:
    work(1, char)
    return char


serve_characters(app, random_upper, process_upper, render_upper)
