"""special: a random special character. Its fault is that it fails on some characters at times; besides, it can call
digit once for each of several candidates (N+1 calls)."""

from telemetry import services
from telemetry.call import fetch_character
from telemetry.flags import fault
from telemetry.randomness import random_source
from telemetry.service import create_app, serve_characters, step
from telemetry.work import work, work_on_slow_characters

DIGIT_URL = services.url("digit")
CHARACTERS = "!#$%&()*+,-./:;<=>?@[]^_{|}~"

app = create_app(__name__)


@step
def random_special() -> str:
    return random_source().choice(CHARACTERS)


@step
def process_special(char: str) -> None:
    work(5, char)
    work_on_slow_characters(char)
    if (errors := fault("special.errors")) and char in errors["characters"] and errors.happens():
        raise errors.error(ValueError(f"special cannot escape {char}"))


@step
def render_special(char: str) -> str:
    if candidates := fault("special.n_plus_one"):
        candidates.record()
        for _ in range(candidates["calls"]):
            fetch_character(DIGIT_URL, random_source(), nested=True)
    work(1, char)
    return char


serve_characters(app, random_special, process_special, render_special)
