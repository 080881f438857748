"""Simulated work: a sleep of random length, recorded in the current span."""

import random
import time

from opentelemetry import trace

SLOW_PROBABILITY = 0.01
SLOW_FACTOR = 20  # how many times as long a slow call takes


def work(seconds: float, char: str) -> None:
    """Sleep for about `seconds` in one to three rounds, each of which is an event `loop` of the current span.

    Sets the span's attributes `char` and `iteration`, the number of rounds.
    """
    span = trace.get_current_span()
    span.set_attribute("char", char)
    if random.random() < SLOW_PROBABILITY:
        seconds *= SLOW_FACTOR
    rounds = random.randint(1, 3)
    span.set_attribute("iteration", rounds)
    for iteration in range(rounds):
        span.add_event("loop", {"iteration": iteration})
        time.sleep(random.uniform(0.5, 1.5) * seconds / rounds)
