"""special: a random special character. One time in twenty it fails on a $ or a <."""

import random

from telemetry.service import create_app, serve_characters, step
from telemetry.work import work

CHARACTERS = "!#$%&()*+,-./:;<=>?@[]^_{|}~"
SLOW_CHARACTERS = "%@"
FAILING_CHARACTERS = "$<"
FAILURE_PROBABILITY = 0.05

app = create_app(__name__)


@step
def random_special() -> str:
    return random.choice(CHARACTERS)


@step
def process_special(char: str) -> None:
    work(0.005 * (6 if char in SLOW_CHARACTERS else 1), char)
    if char in FAILING_CHARACTERS and random.random() < FAILURE_PROBABILITY:
        raise ValueError(f"special cannot escape {char}")


@step
def render_special(char: str) -> str:
    work(0.001, char)
    return char


serve_characters(app, random_special, process_special, render_special)
