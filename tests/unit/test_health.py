"""How long ./run.sh waits for a part: as long as there is progress."""

import itertools
import re
import time

import pytest

from local import CommandError, health


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(health, "MAX_WAIT_SECONDS", 2)


@pytest.fixture
def first_unhealthy():
    """A function that names "postgres" until five times PATIENCE_SECONDS have passed."""
    healthy_at = time.monotonic() + 5 * health.PATIENCE_SECONDS
    return lambda: "postgres" if time.monotonic() < healthy_at else None


@pytest.fixture
def growing_log():
    """A function that returns another last line each time."""
    numbers = itertools.count()
    return lambda name: f"line {next(numbers)}"


def wait(first_unhealthy, last_log_line, store_status=lambda: "ok"):
    health.wait_until_healthy(first_unhealthy, lambda name: False, last_log_line, store_status)


def test_a_part_that_writes_to_its_log_is_given_more_time(first_unhealthy, growing_log):
    wait(first_unhealthy, growing_log)


def test_a_part_without_progress_fails_the_start():
    with pytest.raises(CommandError) as failure:
        wait(lambda: "postgres", lambda name: "nothing new")
    message = str(failure.value)
    assert re.match(r"postgres is not healthy after \d+ s; last log line: 'nothing new'", message)
    assert message.index("./run.sh logs postgres") < message.index("./run.sh down") < message.index("./run.sh reset")


def test_a_part_that_only_writes_to_its_log_fails_the_start_in_the_end(growing_log):
    with pytest.raises(CommandError, match="upper is not healthy after"):
        wait(lambda: "upper", growing_log)


def test_a_part_that_crashes_repeatedly_fails_the_start_at_once(growing_log):
    with pytest.raises(CommandError, match="upper crashes repeatedly; last log line: 'line"):
        health.wait_until_healthy(lambda: "upper", lambda name: name == "upper", growing_log, lambda: "ok")


def test_a_schema_upgrade_is_given_more_time_with_each_step(capsys):
    statuses = []

    def store_status():
        statuses.append(f"upgrading: step {len(statuses)}")
        return statuses[-1]

    wait(lambda: "promscale" if len(statuses) < 10 else None, lambda name: "nothing new", store_status)
    assert "promscale: upgrading: step 9\n" in capsys.readouterr().out
