"""Traces on which each exercise of the workshop has an answer: what the exercise wants switched on is on in them."""

from datetime import UTC, datetime, timedelta

import psycopg

from faults.recorder import State, record
from tests.demo_traces import Fault, export, passwords
from tests.store.running import Promscale

NORMAL, FAULTY = timedelta(minutes=8), timedelta(seconds=200)  # the one after the other, until now
_FAULTS = {
    3: Fault("special", lambda char, length: char in "$<%&" and length % 2 == 0, fails=True),
    8: Fault("digit", lambda char, length: True, slowness=20),
    9: Fault("digit", lambda char, length: True, slowness=40, caller="lower"),
    10: Fault("special", lambda char, length: char in "$<%&" and length % 2 == 0, fails=True),
}


def store_passwords(promscale: Promscale, database: psycopg.Connection, exercise: int) -> None:
    """Store the passwords of the last minutes, without labels, and when the fault of the exercise was switched on."""
    changed = datetime.now(UTC) - FAULTY
    variants = {
        changed - NORMAL: {"digit.wave": "mild"},
        changed: {"digit.wave": "mild", "digit.pool_of_one": "strong"},
    }
    record(database, [State(time, None, on) for time, on in variants.items()])
    # With this second seed, special alone fails in that time, as the text of exercise 10 says.
    for seed, count, begin, duration, fault in (
        (1, 192, changed - NORMAL, NORMAL, None),
        (4, 80, changed, FAULTY, _FAULTS.get(exercise)),
    ):
        made = passwords(seed, count, fault, minutes=duration / timedelta(minutes=1))
        promscale.export(export(made, begin))
