"""HTTP calls from one service to another."""

from random import Random

import requests

from telemetry.instrumentation import VERSION
from telemetry.randomness import seeded_call
from telemetry.tracing import service_name

# Seconds: to connect, and between bytes of the response.
TIMEOUT = (1, 3)
# For a call within a call: the inner time-out ends first, so that the error message names the service that is slow.
NESTED_TIMEOUT = (1, 2)


class CallFailed(Exception):
    """Another service returned no character. The message has its URL and the reason."""


def fetch_character(url: str, source: Random, nested: bool = False) -> str:
    """One character from the character service at `url`, whose random numbers depend on `source`.

    `nested`: the caller is itself a service that another one is waiting for. Raises CallFailed.
    """
    caller = {"User-Agent": f"{service_name()}/{VERSION}"}
    try:
        with seeded_call(source):
            answer = requests.get(url, headers=caller, timeout=NESTED_TIMEOUT if nested else TIMEOUT)
    except requests.RequestException as error:
        raise CallFailed(f"{url} did not answer: {type(error).__name__}") from error
    try:
        content = answer.json()
    except requests.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise CallFailed(f"{url} answered {answer.status_code} with something that is no JSON object")
    if answer.status_code != 200:
        raise CallFailed(f"{url} answered {answer.status_code}: {content.get('error')}")
    char = content.get("char")
    if not isinstance(char, str) or len(char) != 1:
        raise CallFailed(f"{url} answered with no character")
    return char
