"""The random numbers and the clock of a request.

All that is random in a request comes from one generator. Its seed reaches a service as baggage
(https://www.w3.org/TR/baggage/), and each call that the service makes carries a seed of its own. Thus the same first
seed makes the same characters, faults and durations, in whatever order the calls are made. A request that carries a
time takes it for the present, because some faults depend on the time.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from flask import g
from opentelemetry import baggage, context
from werkzeug.exceptions import BadRequest

_SEED, _TIME = "demo.seed", "demo.time"


def random_source() -> Random:
    """The generator of the current request to a service."""
    if "random_source" not in g:
        seed = baggage.get_baggage(_SEED)
        g.random_source = Random(seed if isinstance(seed, str) else None)
    source: Random = g.random_source
    return source


def now() -> float:
    """Unix time, in seconds, or the time that the request carries. Raises BadRequest if it carries something else."""
    carried = baggage.get_baggage(_TIME)
    if carried is None:
        return time.time()
    try:
        seconds = float(str(carried))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e10:
        raise BadRequest(f"{_TIME} in the baggage is {carried!r}, not a Unix time in seconds")
    return seconds


def split(source: Random) -> Random:
    """A generator of its own for a part of the work, so that the parts may run in any order."""
    return Random(source.getrandbits(64))


@contextmanager
def seeded_call(source: Random, seconds: float | None = None) -> Iterator[None]:
    """Requests that are made within it carry a seed that is drawn from `source`, and this time if there is one."""
    carrying = baggage.set_baggage(_SEED, f"{source.getrandbits(64):016x}")
    if seconds is not None:
        carrying = baggage.set_baggage(_TIME, f"{seconds:.3f}", carrying)
    token = context.attach(carrying)
    try:
        yield
    finally:
        context.detach(token)
