"""How one service calls another."""

import requests

# Seconds: to connect, and to wait for the answer.
TIMEOUT = (1, 3)
# For a service that is called itself: it gives up before its caller does, and so can say whom it waited for.
SHORTER_TIMEOUT = (1, 2)


class CallFailed(Exception):
    """Another service gave no character; the message says which one, and why."""


def fetch_character(url: str, is_called: bool = False) -> str:
    """One character from the character service at `url`; `is_called`: for a service that is called itself.

    Raises CallFailed.
    """
    try:
        answer = requests.get(url, timeout=SHORTER_TIMEOUT if is_called else TIMEOUT)
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
