"""Simulated work: a sleep of random length, recorded in the current span."""

import time

from telemetry.flags import Fault, fault
from telemetry.instrumentation import current_span
from telemetry.randomness import random_source
from telemetry.tracing import service_name


def work(milliseconds: float, char: str) -> None:
    """Sleep for about so long in one to three rounds, each of which is an event `loop` of the current span.

    Sets the span's attributes `char` and `iteration`, the number of rounds.
    """
    span, source = current_span(), random_source()
    rounds = source.randint(1, 3)
    span.set_attributes({"char": char, "iteration": rounds})
    for iteration in range(rounds):
        span.add_event("loop", {"iteration": iteration})
        time.sleep(source.uniform(0.5, 1.5) * milliseconds / rounds / 1000)
    if (slow := _own_fault("slow_calls")) and slow.happens():
        slow.delay(slow["added_ms"])


def work_on_slow_characters(char: str) -> None:
    """Take longer for the characters that are slow in this service."""
    if (slow := _own_fault("slow_characters")) and char in slow["characters"]:
        slow.delay(slow["added_ms"])


def _own_fault(name: str) -> Fault | None:
    """A fault that several services have, each by a flag of its own."""
    return fault(f"{service_name()}.{name}")
