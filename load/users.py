"""Simulated users, and the statistics of their requests."""

import logging
import random
import statistics
import threading
import time

import requests
from opentelemetry.trace import Status, StatusCode

from load.traffic import Requests, Traffic
from telemetry.instrumentation import tracer
from telemetry.randomness import seeded_call

log = logging.getLogger("load")

# Jitter: each interval is multiplied by a random factor, so that users who started together drift apart.
JITTER = (0.5, 1.5)
TIMEOUT_SECONDS = 30
STOP_SECONDS = 5
# Exponential backoff while the generator does not answer.
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 10


class Statistics:
    """Counts and durations of the requests since the last `report`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: list[float] = []
        self._failures = 0
        self._unreachable = False

    def record_answer(self, seconds: float, ok: bool) -> None:
        with self._lock:
            self._seconds.append(seconds)
            self._failures += not ok
            if self._unreachable:
                log.info("The generator answers again")
            self._unreachable = False

    def record_no_answer(self, error: Exception) -> None:
        """Count a request without a response. Only the first one after an answer is logged."""
        with self._lock:
            self._failures += 1
            if not self._unreachable:
                log.warning("The generator does not answer; retrying: %s", error)
            self._unreachable = True

    def report(self, period_seconds: float) -> str:
        """One line about the period that ends now; the next period begins."""
        with self._lock:
            seconds, failures = self._seconds, self._failures
            self._seconds, self._failures = [], 0
        p50, p95 = percentiles(seconds)
        return (
            f"requests={len(seconds)} req/s={len(seconds) / period_seconds:.1f} "
            f"p50={p50 * 1000:.0f}ms p95={p95 * 1000:.0f}ms failures={failures}"
        )


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """The 50th and the 95th percentile; 0 if the list is empty."""
    if len(seconds) < 2:
        return (seconds or [0.0])[0], (seconds or [0.0])[0]
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return cuts[9], cuts[18]


class Crowd:
    """The users of a traffic, each in a thread, from now until `stop`."""

    def __init__(self, url: str, traffic: Traffic, statistics: Statistics) -> None:
        self.traffic = traffic
        self._stopping = threading.Event()
        requests = Requests(traffic)
        users = [
            User(url, traffic.users / traffic.rate, requests, statistics, self._stopping) for _ in range(traffic.users)
        ]
        self._threads = [threading.Thread(target=user.run, daemon=True) for user in users]
        for thread in self._threads:
            thread.start()
        log.info("%s to %s", traffic, url)

    def stop(self) -> None:
        """Send no more requests; wait for those on their way, within 5 s."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(deadline - time.monotonic(), 0))


class User:
    """Asks for a password about every `interval_seconds`, one request at a time."""

    def __init__(
        self,
        url: str,
        interval_seconds: float,
        requests: Requests,
        statistics: Statistics,
        stopping: threading.Event,
    ) -> None:
        self.url = url
        self.interval_seconds = interval_seconds
        self.backoff_seconds = 0.0  # the shortest pause before the next request
        self._requests = requests
        self._statistics = statistics
        self._stopping = stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            next_at = time.monotonic() + self.interval_seconds * random.uniform(*JITTER)
            self.request_password()
            self._stopping.wait(max(next_at - time.monotonic(), self.backoff_seconds))

    def request_password(self) -> None:
        """The next request, in a trace of its own. No answer lengthens the backoff; any answer ends it."""
        source, length, seconds = self._requests.next()
        began = time.monotonic()
        with (
            tracer.start_as_current_span("load.request", attributes={"pwlen": length}) as span,
            seeded_call(source, seconds),
        ):
            try:
                answer = requests.get(self.url, params={"length": length}, timeout=TIMEOUT_SECONDS)
            except requests.RequestException as error:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                self._statistics.record_no_answer(error)
                self.backoff_seconds = min(2 * self.backoff_seconds or FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
                return
            if not answer.ok:
                span.set_status(Status(StatusCode.ERROR, f"the generator answered {answer.status_code}"))
        self.backoff_seconds = 0.0
        self._statistics.record_answer(time.monotonic() - began, answer.ok)
