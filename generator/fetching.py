"""How the generator fetches characters from the other services: one call after the other, and it trusts them all.
Its faults are retries without a pause, a stale cache, swallowed errors, and calls in parallel instead."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from random import Random
from typing import TypeVar

from telemetry import services
from telemetry.call import CallFailed, fetch_character
from telemetry.flags import fault
from telemetry.instrumentation import current_span, tracer
from telemetry.randomness import now, split

# By the kind of character, which names the operation: `generator.digits` calls the service digit.
URLS = {f"{name}s": services.url(name) for name in services.CHARACTER_SERVICES}
PLACEHOLDER = "?"

Result = TypeVar("Result")

_cached: dict[str, tuple[str, float]] = {}  # by kind: a character, and when it was fetched


def fetch_all(kinds: list[str], source: Random) -> list[str]:
    """A character of each of these kinds, sorted by kind. Raises CallFailed."""
    threads, threads_per_kind = 1, 1
    if parallel := fault("generator.parallel_fetching"):
        threads, threads_per_kind = parallel["kinds"], parallel["characters"]
        parallel.record()
    calls = [partial(fetch_kind, kind, kinds.count(kind), split(source), threads_per_kind) for kind in URLS]
    return [char for chars in _run(calls, threads) for char in chars]


def fetch_kind(kind: str, count: int, source: Random, threads: int) -> list[str]:
    """That many characters of one kind. Raises CallFailed."""
    with tracer.start_as_current_span(f"generator.{kind}"):
        return _run([partial(fetch, kind, iteration, split(source)) for iteration in range(count)], threads)


def fetch(kind: str, iteration: int, source: Random) -> str:
    """One character. Raises CallFailed."""
    span = current_span()
    span.add_event("loop", {"iteration": iteration})
    span.set_attribute("iteration", iteration)
    if cache := fault("generator.stale_cache"):
        char, fetched = _cached.get(kind, ("", 0.0))
        if char and 0 <= now() - fetched < cache["seconds"]:
            cache.record()
            return char
    char = call(kind, source)
    _cached[kind] = char, now()
    return char


def call(kind: str, source: Random) -> str:
    """One character from its service. Raises CallFailed."""
    storm = fault("generator.retry_storm")
    for retries_left in range(storm["retries"] if storm else 0, -1, -1):
        try:
            return fetch_character(URLS[kind], source)
        except CallFailed as error:
            failure = error
            if storm and retries_left:
                storm.record()
    swallowed = fault("generator.swallowed_errors")
    if not (swallowed and swallowed.happens(source)):
        raise failure
    swallowed.record()
    return PLACEHOLDER


def _run(calls: Iterable[Callable[[], Result]], threads: int) -> list[Result]:
    """The results of the calls, in their order. Raises the first call's error."""
    if threads == 1:
        return [call() for call in calls]
    with ThreadPoolExecutor(threads) as pool:
        # Each call in a copy of the context, so that its spans belong to the current one.
        results = [pool.submit(copy_context().run, call) for call in calls]
    return [result.result() for result in results]
