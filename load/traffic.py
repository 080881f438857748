"""How many requests there are, and what each of them is."""

import itertools
import os
import random
import sys
import threading
from typing import NamedTuple, TypeVar

from faults.flags import DEFAULT_RATE, DEFAULT_USERS, FlagError, seed_of
from telemetry.flags import state

MAX_SETTING = 1_000_000
LENGTHS = (8, 32)

Number = TypeVar("Number", int, float)


class Traffic(NamedTuple):
    """So many simulated users send `rate` requests per second together. The same seed makes the same requests."""

    users: int
    rate: float
    seed: int | None

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" seed={self.seed}"
        return f"users={self.users} rate={self.rate:g}/s{seed}"


def default_traffic() -> Traffic:
    """The traffic by the environment variables. Ends the process with one line for an invalid value."""
    try:
        seed = seed_of(os.environ)
    except FlagError as error:
        sys.exit(f"load: {error}")
    return Traffic(_setting("LOAD_USERS", DEFAULT_USERS, int), _setting("LOAD_RATE", DEFAULT_RATE, float), seed)


def current_traffic(default: Traffic) -> Traffic:
    """The traffic by the flag `load`, and by default what the flag does not say."""
    return default._replace(**state("load").parameters)


class Request(NamedTuple):
    """`source` makes all random numbers of the request, `seconds` is its Unix time if that is simulated."""

    source: random.Random
    length: int
    seconds: float | None


class Requests:
    """The requests of all users, in their order. With a seed, each is made by the seed and its number, and its time
    counts from 0 at the traffic's rate."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def next(self) -> Request:
        with self._lock:
            number = next(self._numbers)
        seed = self._traffic.seed
        source = random.Random(None if seed is None else f"{seed}/{number}")
        return Request(source, source.randint(*LENGTHS), None if seed is None else number / self._traffic.rate)


def _setting(name: str, default: Number, kind: type[Number]) -> Number:
    """The number above 0 in an environment variable."""
    text = os.environ.get(name) or str(default)
    try:
        value = kind(text)
    except ValueError:
        value = kind(0)
    if not 0 < value < MAX_SETTING:  # also excludes NaN
        article = "a whole" if kind is int else "a"
        sys.exit(f"load: {name}={text!r} is not {article} number above 0 and below {MAX_SETTING}")
    return value
