"""How long ./run.sh waits: while there is progress."""

import itertools
import time

import pytest

from local import Trouble, health


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(health, "MAX_WAIT_SECONDS", 2)


@pytest.fixture
def waits_for():
    """The part "postgres", for 5 times the patience."""
    healthy_at = time.monotonic() + 5 * health.PATIENCE_SECONDS
    return lambda: "postgres" if time.monotonic() < healthy_at else None


@pytest.fixture
def lines():
    numbers = itertools.count()
    return lambda name: f"line {next(numbers)}"


def wait(waits_for, last_line, store_status=lambda: "ok"):
    health.wait_until_healthy(waits_for, lambda name: False, last_line, store_status)


def test_a_part_that_goes_on_writing_is_waited_for(waits_for, lines):
    wait(waits_for, lines)


def test_a_part_that_shows_no_progress_is_given_up(waits_for):
    with pytest.raises(Trouble, match="postgres is not healthy after .* its last word: 'nothing new'") as trouble:
        wait(waits_for, lambda name: "nothing new")
    advice = str(trouble.value)
    assert advice.index("./run.sh logs postgres") < advice.index("./run.sh down") < advice.index("./run.sh reset")


def test_a_part_that_only_goes_on_writing_is_given_up_in_the_end(lines):
    with pytest.raises(Trouble, match="upper is not healthy after"):
        wait(lambda: "upper", lines)


def test_an_upgrade_that_goes_on_is_waited_for(lines):
    steps = itertools.chain((f"upgrading: step {number}" for number in range(10)), itertools.repeat("ok"))
    statuses = []

    def store_status():
        statuses.append(next(steps))
        return statuses[-1]

    wait(lambda: "promscale" if "ok" not in statuses else None, lambda name: "nothing new", store_status)
