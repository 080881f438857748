"""load: users who want passwords, all the time."""

import logging
import os
import random
import signal
import sys
import threading

from opentelemetry.instrumentation.requests import RequestsInstrumentor

from load.users import Statistics, User
from load.waiting import wait_for_generator
from telemetry import tracing

REPORT_SECONDS = 10


def setting(name: str, default: str, kind: type):
    """The environment's value, a number above 0. Ends the process with one line where it is none."""
    text = os.environ.get(name) or default
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < 1_000_000:
        sys.exit(f"load: {name}={text!r} is not {'a whole' if kind is int else 'a'} number above 0")
    return value


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    users, rate = setting("LOAD_USERS", "3", int), setting("LOAD_RATE", "1", float)
    url = os.environ.get("GENERATOR_URL") or "http://localhost:5050"
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
    log.info("%d users ask %s for passwords, %g times a second in all", users, url, rate)
    while not stopping.wait(REPORT_SECONDS):
        log.info("%s", statistics.line(REPORT_SECONDS))
    for thread in threads:
        thread.join(timeout=5)
    tracing.stop()


if __name__ == "__main__":
    main()
