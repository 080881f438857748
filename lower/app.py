"""lower: a random small letter. Half of the time it calls digit first, for no good reason."""

import random
import string

from telemetry import services
from telemetry.call import fetch_character
from telemetry.service import create_app, serve_characters, step
from telemetry.work import work

DIGIT_URL = services.url("digit")
SLOW_LETTERS = "jkw"
CALL_PROBABILITY = 0.5

app = create_app(__name__)


@step
def random_lower() -> str:
    return random.choice(string.ascii_lowercase)


@step
def process_lower(char: str) -> None:
    work(0.004 * (5 if char in SLOW_LETTERS else 1), char)


@step
def render_lower(char: str) -> str:
    if random.random() < CALL_PROBABILITY:
        fetch_character(DIGIT_URL, nested=True)
    work(0.001, char)
    return char


serve_characters(app, random_lower, process_lower, render_lower)
