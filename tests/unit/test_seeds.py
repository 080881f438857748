"""The same seed makes the same requests, characters, faults and errors."""

import threading
from collections import Counter
from types import SimpleNamespace

import pytest

import telemetry.flags
import telemetry.work
from faults.flags import DEFINITIONS, FlagFile
from load.traffic import Requests, Traffic
from load.users import Statistics, User
from tests.demo_services import Services, app

# The caches and the pool depend on other requests too, and so on the order in which requests arrive.
EVERYTHING = {name: "strong" for name, flag in FlagFile(DEFINITIONS).flags().items() if flag.is_fault} | {
    "generator.stale_cache": "off",
    "digit.pool_of_one": "off",
}
DEFAULTS = {name: flag.default for name, flag in FlagFile(DEFINITIONS).flags().items() if flag.is_fault}
# Errors often end a request early, so that little of the others would be seen.
NO_ERRORS = EVERYTHING | {"digit.errors": "mild", "special.errors": "mild", "upper.errors": "mild"}


@pytest.fixture
def run(serve, monkeypatch, exporter, spans):
    Services(serve, monkeypatch)
    url = serve(app("generator"))
    for module in (telemetry.flags, telemetry.work):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: 0.0))

    def run(seed: int | None, count: int = 4) -> Counter:
        """How often there is each combination of operation, character, faults and error."""
        exporter.clear()
        user = User(url, 0, Requests(Traffic(1, 0.01, seed)), Statistics(), threading.Event())
        for _ in range(count):
            user.request_password()
        return Counter(
            (
                span.name,
                span.attributes.get("char"),
                span.attributes.get("pwlen"),
                tuple(sorted(span.attributes.get("demo.fault.name", ()))),
                span.attributes.get("demo.fault.error"),
                span.status.status_code,
            )
            for span in spans()
        )

    return run


@pytest.mark.parametrize("variants", [DEFAULTS, EVERYTHING, NO_ERRORS], ids=["defaults", "everything", "few errors"])
def test_two_runs_with_the_same_seed_are_the_same(run, switch, variants):
    switch(variants)
    first = run(7)
    assert sum(first.values()) > 100
    assert run(7) == first


def test_another_seed_or_none_makes_other_requests(run, switch):
    first = run(7, 1)
    assert run(8, 1) != first
    assert run(None, 1) != run(None, 1)


@pytest.mark.parametrize("time", ["soon", "nan", "-1", "1e99"])
def test_a_time_that_is_none_is_refused(switch, time):
    switch({"digit.wave": "mild"})
    answer = app("digit").test_client().get("/", headers={"baggage": f"demo.time={time}"})
    assert answer.status_code == 400
    assert f"demo.time in the baggage is '{time}'" in answer.json["error"]
