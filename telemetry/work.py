"""Work, simulated."""

import random
import time

from opentelemetry import trace

SLOW_CALLS = 0.01  # one call in a hundred ...
SLOWNESS = 20  # ... takes so many times as long


def work(seconds: float, char: str) -> None:
    """Take about this long over a character, in a few rounds; each is an event of the current span."""
    span = trace.get_current_span()
    span.set_attribute("char", char)
    if random.random() < SLOW_CALLS:
        seconds *= SLOWNESS
    rounds = random.randint(1, 3)
    span.set_attribute("iteration", rounds)
    for iteration in range(rounds):
        span.add_event("loop", {"iteration": iteration})
        time.sleep(random.uniform(0.5, 1.5) * seconds / rounds)
