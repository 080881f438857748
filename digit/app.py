"""digit: a random digit. Its latency is a sine wave of five minutes; every fifth minute, rendering sometimes fails."""

import math
import random
import string
import time

from telemetry.service import create_app, serve_characters, step
from telemetry.work import work

SLOW_DIGITS = "47"
WAVE_SECONDS = 300
FAILURE_PROBABILITY = 0.03  # in a bad minute

app = create_app(__name__)


def seconds_at(now: float) -> float:
    """How long a digit takes at a Unix time: between 1 and 9 ms."""
    return 0.005 + 0.004 * math.sin(2 * math.pi * now / WAVE_SECONDS)


def is_bad_minute(now: float) -> bool:
    return now // 60 % 5 == 4


@step
def random_digit() -> str:
    return random.choice(string.digits)


@step
def process_digit(char: str) -> None:
    work(seconds_at(time.time()) * (4 if char in SLOW_DIGITS else 1), char)


@step
def render_digit(char: str) -> str:
    work(0.001, char)
    if is_bad_minute(time.time()) and random.random() < FAILURE_PROBABILITY:
        raise RuntimeError(f"digit has run out of ink, rendering {char}")
    return char


serve_characters(app, random_digit, process_digit, render_digit)
