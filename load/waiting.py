"""Waits for the generator before the first request."""

import logging
import sys
import threading
from urllib.parse import urljoin

import requests

log = logging.getLogger("load")

TRIES = 240
PAUSE_SECONDS = 0.5
TRIES_PER_LOG_LINE = 10
TIMEOUT_SECONDS = 2


def wait_for_generator(url: str, stopping: threading.Event) -> None:
    """Return when the generator is healthy or `stopping` is set. Ends the process with one line after the last try.

    Call it before requests are traced: a generator that is still starting is no error to show in a trace.
    """
    for number in range(TRIES):
        if stopping.is_set() or _is_healthy(url):
            return
        if number % TRIES_PER_LOG_LINE == 0:
            log.info("Waiting until the generator at %s is healthy", url)
        stopping.wait(PAUSE_SECONDS)
    sys.exit(f"load: the generator at {url} is not healthy after {TRIES} tries")


def _is_healthy(url: str) -> bool:
    try:
        return requests.get(urljoin(url, "/healthz"), timeout=TIMEOUT_SECONDS).ok
    except requests.RequestException:
        return False
