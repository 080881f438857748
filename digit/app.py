"""digit: a random digit. Its faults are a latency that is a sine wave, and a render step that fails at times; besides,
it can be slow for one caller, and its requests can wait for each other."""

import math
import string
import threading

from flask import request

from telemetry.flags import fault
from telemetry.randomness import now, random_source
from telemetry.service import create_app, serve_characters, step
from telemetry.work import work, work_on_slow_characters

app = create_app(__name__)
the_only_connection = threading.Lock()


@step
def random_digit() -> str:
    return random_source().choice(string.digits)


@step
def process_digit(char: str) -> None:
    work(1, char)
    work_on_slow_characters(char)
    if wave := fault("digit.wave"):
        phase = 2 * math.pi * now() / wave["period_seconds"]
        wave.delay(wave["added_ms"] * (1 + math.sin(phase)) / 2)
    if (slow := fault("digit.slow_for_lower")) and request.user_agent.string.startswith(f"{slow['caller']}/"):
        slow.delay(slow["added_ms"])
    if pool := fault("digit.pool_of_one"):
        pool.delay(pool["held_ms"], holding=the_only_connection)


@step
def render_digit(char: str) -> str:
    work(1, char)
    if (errors := fault("digit.errors")) and is_bad_minute(errors["every_minutes"]) and errors.happens():
        raise errors.error(RuntimeError(f"digit has run out of ink, rendering {char}"))
    return char


def is_bad_minute(every_minutes: int) -> bool:
    return now() // 60 % every_minutes == every_minutes - 1


serve_characters(app, random_digit, process_digit, render_digit)
