"""lower: a random small letter. Before it gives one away it asks digit for a digit, for no good reason."""

import os
import random
import string

from telemetry.call import fetch_character
from telemetry.service import create_app, serve_characters, step
from telemetry.work import work

DIGIT_URL = os.environ.get("DIGIT_URL") or "http://localhost:5051"
SLOW_LETTERS = "jkw"

app = create_app(__name__)


@step
def random_lower() -> str:
    return random.choice(string.ascii_lowercase)


@step
def process_lower(char: str) -> None:
    work(0.004 * (5 if char in SLOW_LETTERS else 1), char)


@step
def render_lower(char: str) -> str:
    if random.random() < 0.5:
        fetch_character(DIGIT_URL, is_called=True)
    work(0.001, char)
    return char


serve_characters(app, random_lower, process_lower, render_lower)
