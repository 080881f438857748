"""What a user does, and what came of it."""

import logging
import random
import statistics
import threading
import time

import requests
from opentelemetry.trace import Status, StatusCode

from telemetry.tracing import tracer

log = logging.getLogger("load")

# Of the pause, so that users who started together do not stay together.
PAUSES = (0.5, 1.5)
LENGTHS = (8, 32)
TIMEOUT_SECONDS = 30
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 10


class Statistics:
    """Requests since the last `line`. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: list[float] = []
        self._failures = 0
        self._absent = False

    def answered(self, seconds: float, ok: bool) -> None:
        with self._lock:
            self._seconds.append(seconds)
            self._failures += not ok
            if self._absent:
                log.info("The generator is there again")
            self._absent = False

    def absent(self, error: Exception) -> None:
        """No answer at all. Said once, until there is one again."""
        with self._lock:
            self._failures += 1
            if not self._absent:
                log.warning("The generator is away, trying again: %s", error)
            self._absent = True

    def line(self, period_seconds: float) -> str:
        """What happened in the period that ends now, and a new beginning."""
        with self._lock:
            seconds, failures = self._seconds, self._failures
            self._seconds, self._failures = [], 0
        p50, p95 = percentiles(seconds)
        return (
            f"requests={len(seconds)} req/s={len(seconds) / period_seconds:.1f} "
            f"p50={p50 * 1000:.0f}ms p95={p95 * 1000:.0f}ms failures={failures}"
        )


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """The 50th and the 95th; 0 of nothing."""
    if len(seconds) < 2:
        return (seconds or [0.0])[0], (seconds or [0.0])[0]
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return cuts[9], cuts[18]


class User:
    """Asks for a password, again and again. `pause` is the time from one request to the next, on average."""

    def __init__(
        self, url: str, pause: float, statistics: Statistics, stopping: threading.Event, chance: random.Random
    ) -> None:
        self._url = url
        self._pause = pause
        self._statistics = statistics
        self._stopping = stopping
        self._chance = chance
        self._backoff = 0.0

    def run(self) -> None:
        while not self._stopping.is_set():
            next_at = time.monotonic() + self._pause * self._chance.uniform(*PAUSES)
            self.ask()
            self._stopping.wait(max(next_at - time.monotonic(), self._backoff))

    def ask(self) -> None:
        length = self._chance.randint(*LENGTHS)
        began = time.monotonic()
        with tracer.start_as_current_span("load.request", attributes={"pwlen": length}) as span:
            try:
                answer = requests.get(self._url, params={"length": length}, timeout=TIMEOUT_SECONDS)
            except requests.RequestException as error:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                self._statistics.absent(error)
                self._backoff = min(2 * self._backoff or FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
                return
            if not answer.ok:
                span.set_status(Status(StatusCode.ERROR, f"the generator answered {answer.status_code}"))
        self._backoff = 0.0
        self._statistics.answered(time.monotonic() - began, answer.ok)
