"""load: simulated users who keep asking the generator for passwords."""

import logging
import os
import random
import signal
import sys
import threading
from typing import TypeVar

from opentelemetry.instrumentation.requests import RequestsInstrumentor

from load.users import Statistics, User
from load.waiting import wait_for_generator
from telemetry import services, tracing

REPORT_SECONDS = 10
MAX_SETTING = 1_000_000

Number = TypeVar("Number", int, float)


def setting(name: str, default: str, kind: type[Number]) -> Number:
    """The number above 0 in an environment variable. Ends the process with one line for any other value."""
    text = os.environ.get(name) or default
    try:
        value = kind(text)
    except ValueError:
        value = kind(0)
    if not 0 < value < MAX_SETTING:  # also excludes NaN
        article = "a whole" if kind is int else "a"
        sys.exit(f"load: {name}={text!r} is not {article} number above 0 and below {MAX_SETTING}")
    return value


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    users, rate = setting("LOAD_USERS", "3", int), setting("LOAD_RATE", "1", float)
    url = services.url("generator")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    wait_for_generator(url, stopping)
    RequestsInstrumentor().instrument()
    tracing.start("load")
    statistics = Statistics()
    threads = [
        threading.Thread(target=User(url, users / rate, statistics, stopping, random.Random()).run, daemon=True)
        for _ in range(users)
    ]
    for thread in threads:
        thread.start()
    log = logging.getLogger("load")
    log.info("%d users send %g requests per second together to %s", users, rate, url)
    while not stopping.wait(REPORT_SECONDS):
        log.info("%s", statistics.report(REPORT_SECONDS))
    for thread in threads:
        thread.join(timeout=5)
    tracing.stop()


if __name__ == "__main__":
    main()
