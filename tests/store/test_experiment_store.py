"""What an experiment reads from a real PostgreSQL: indicators, affected spans and baselines of simulated traces."""

from datetime import timedelta
from statistics import quantiles

import pytest
from psycopg.conninfo import make_conninfo

from experiments.indicators import CHANGED, DURATION, INDICATORS, NO_EFFECT, Indicator, change
from experiments.store import Period, Store
from experiments.truth import affected_spans
from tests.databases import new_database
from tests.demo_traces import Fault, export, passwords
from tests.store.known_traces import NOON, Export
from tests.store.labelled_traces import ADDED_MS, labelled
from tests.store.running import Promscale

HALF = timedelta(minutes=5)
BEFORE, DURING = Period(NOON, NOON + HALF), Period(NOON + HALF, NOON + 2 * HALF)
COUNT = 60
SLOW = Fault("digit", lambda char, _: char in "47", slowness=8)
FAILING = Fault("special", lambda char, _: char in "$<%&", fails=True)


@pytest.fixture(scope="module")
def normal():
    return passwords(1, COUNT, minutes=5)


@pytest.fixture(scope="module")
def slow():
    return passwords(2, COUNT, SLOW, minutes=5)


@pytest.fixture(scope="module")
def store(postgres_uri, superuser_uri, migrated, normal, slow):
    """Normal traces, and then those with the slow digits."""
    with new_database(postgres_uri, superuser_uri, template=migrated) as dsn:
        promscale = Promscale(dsn)
        promscale.export(export(normal, BEFORE.start))
        promscale.export(labelled(slow, DURING.start, "digit.slow_characters", "digit", "47"))
        promscale.close()
        with Store(make_conninfo(dsn, user="explorer")) as store:
            yield store


def test_a_fault_changes_its_indicator_and_no_other_one(store, normal, slow):
    def changed(flag: str):
        indicator = INDICATORS[flag]
        return change(indicator, store.measurements(BEFORE, indicator), store.measurements(DURING, indicator))

    found = changed("digit.slow_characters")
    assert (found.verdict, found.traces_before) == (CHANGED, COUNT)
    for value, traces in ((found.before, normal), (found.during, slow)):
        durations = [span.duration / 1e6 for trace in traces for span in trace.spans if span.name == "process_digit"]
        assert value == pytest.approx(quantiles(durations, n=20, method="inclusive")[-1])
    others = ("upper.slow_calls", "special.errors", "lower.needless_calls", "lower.lost_context", "upper.clock_skew")
    assert {changed(flag).verdict for flag in others} == {NO_EFFECT}


def test_counts_and_operations(store, normal, slow):
    counts = store.counts(BEFORE)
    assert counts == (
        COUNT,
        sum(len(trace.spans) for trace in normal),
        sum(span.failed for trace in normal for span in trace.spans),
    )
    assert store.operations(DURING) == sorted({span.operation for trace in slow for span in trace.spans})
    assert store.counts(Period(NOON - HALF, NOON)) == (0, 0, 0)


def test_affected_spans_with_their_paths(store, slow):
    found = list(affected_spans(store.affected(DURING), "slow", {"digit.slow_characters": "strong"}))
    expected = [
        span
        for trace in slow
        for span in trace.spans
        if span.name == "process_digit" and span.tags.get("char", "-") in "47"
    ]
    assert sorted((one.trace_id, int(one.span_id, 16)) for one in found) == sorted(
        (span.trace_id, span.span_id) for span in expected
    )
    assert {(one.fault, one.variant, one.injected, one.added_ms, one.cause) for one in found} == {
        ("digit.slow_characters", "strong", True, ADDED_MS, "digit/process_digit")
    }
    assert all(one.reaches_root and one.path[-1] == "load/load.request" for one in found)
    assert all(one.path[1] == "digit/GET /" for one in found)
    assert list(store.affected(BEFORE)) == []


def test_the_baseline_of_self_time_finds_the_slow_operation(store):
    assert store.baseline("self_time", BEFORE, DURING)[0] == "digit/process_digit"


def test_the_baseline_of_errors_finds_where_they_begin(promscale, normal):
    promscale.export(export(normal, BEFORE.start))
    promscale.export(export(passwords(3, COUNT, FAILING, minutes=5), DURING.start))
    with Store(make_conninfo(promscale.dsn, user="explorer")) as store:
        assert store.baseline("error_origins", BEFORE, DURING)[0] == "special/process_special"


def test_measurements_of_a_trace(promscale):
    """Calls, errors that are handled or not, times outside of the parent's, names of spans, and where traces begin."""
    made = Export()
    for number in range(2):
        start = NOON + timedelta(seconds=number)
        root = made.add("generator", "generate", start, 100)
        inside = {"trace_id": root.trace_id, "parent_span_id": root.span_id}
        made.add("digit", "GET /", start - timedelta(milliseconds=30), 20, **inside)
        made.add("digit", "GET /", start + timedelta(milliseconds=90), 60, failed=True, **inside)
        made.add("digit", "GET 7", start, 5, **inside)
    made.add("digit", "GET /", NOON + timedelta(seconds=2), 8)
    made.add("digit", "GET /", NOON + HALF - timedelta(milliseconds=5), 10)  # does not end in the period
    promscale.export(made.message)
    with Store(make_conninfo(promscale.dsn, user="explorer")) as store:
        digit, generator = Indicator(DURATION, "digit", "GET /"), INDICATORS["generator.swallowed_errors"]
        first, second, alone = sorted(store.measurements(BEFORE, digit), key=lambda trace: -trace.calls)
        assert first == second == ([20, 60], 2, 1, 50, 2, 0, False)
        assert alone == ([8], 1, 0, 0, 1, 0, True)
        handled = [trace.handled_errors for trace in store.measurements(BEFORE, generator)]
        assert sorted(handled) == [0, 1, 1]
