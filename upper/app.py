"""upper: a random capital letter. It gets slower through the hour, and one time in twenty it fails on an A or an E."""

import random
import string
import time

from telemetry.service import create_app, serve_characters, step
from telemetry.work import work

SLOW_LETTERS = "QXZ"
FAILING_LETTERS = "AE"
FAILURE_PROBABILITY = 0.05

app = create_app(__name__)


def seconds_at(now: float) -> float:
    """How long a letter takes at a Unix time: 2 ms at the full hour, rising to 12 ms at its end."""
    return 0.002 + 0.010 * (now % 3600) / 3600


@step
def random_upper() -> str:
    return random.choice(string.ascii_uppercase)


@step
def process_upper(char: str) -> None:
    work(seconds_at(time.time()) * (5 if char in SLOW_LETTERS else 1), char)
    if char in FAILING_LETTERS and random.random() < FAILURE_PROBABILITY:
        raise RuntimeError(f"upper does not like the letter {char} today")


@step
def render_upper(char: str) -> str:
    work(0.001, char)
    return char


serve_characters(app, random_upper, process_upper, render_upper)
