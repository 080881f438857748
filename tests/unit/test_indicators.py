"""Whether a fault has changed its indicator: the test against published and hand-computed values, and faults in
simulated traces of the demo."""

import math

import pytest

from experiments.indicators import (
    CHANGED,
    INDICATORS,
    NO_EFFECT,
    TOO_FEW_TRACES,
    Measurements,
    change,
    mann_whitney,
)
from faults.flags import DEFINITIONS, FlagFile
from telemetry.services import SERVICES


def test_published_examples_of_the_test():
    # The example of scipy.stats.mannwhitneyu: ages at the diagnosis of diabetes, by the asymptotic method.
    men, women = [19, 22, 16, 29, 24], [20, 11, 17, 12]
    found = mann_whitney(women, men)
    assert (found.u, found.p_value) == (17, pytest.approx(0.11134688653314041))
    assert mann_whitney(men, women) == (3, found.p_value, pytest.approx(-found.effect))
    # Hollander and Wolfe, Nonparametric Statistical Methods (1973), 69: permeability, W = 35.
    term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    earlier = [1.15, 0.88, 0.90, 0.74, 1.21]
    found = mann_whitney(earlier, term)
    assert found.u == 35
    assert found.p_value == pytest.approx(math.erfc(9.5 / math.sqrt(10 * 5 * 16 / 12) / math.sqrt(2)))


def test_ties():
    # 4 of 10 against 8 of 10: U = (8 * 6 + (2 * 6 + 8 * 4) / 2), ties of 8 zeros and 12 ones among 20 numbers.
    found = mann_whitney([0] * 6 + [1] * 4, [0] * 2 + [1] * 8)
    variance = 100 / 12 * (21 - (8**3 - 8 + 12**3 - 12) / (20 * 19))
    assert found.u == 70
    assert found.effect == pytest.approx(0.4)
    assert found.p_value == pytest.approx(math.erfc(19.5 / math.sqrt(2 * variance)))


def test_no_difference_and_no_numbers():
    assert mann_whitney([1] * 30, [1] * 40) == (600, 1, 0)
    assert mann_whitney([], [1]) == mann_whitney([1], []) == (0, 1, 0)


def test_each_fault_has_an_indicator():
    faults = {name for name, flag in FlagFile(DEFINITIONS).flags().items() if flag.is_fault}
    assert set(INDICATORS) == faults
    assert {indicator.service for indicator in INDICATORS.values()} <= set(SERVICES)


USUAL = Measurements(
    durations_ms=[2.0, 4.0], calls=2, errors=0, outside_ms=0.0, service_names=3, handled_errors=0, begins=False
)


@pytest.mark.parametrize(
    ("flag", "with_fault", "before", "during"),
    [
        ("digit.wave", {"durations_ms": [5.0, 10.0]}, 4, 10),
        ("generator.parallel_fetching", {"durations_ms": [1.0, 1.0]}, 4, 1),
        ("digit.errors", {"errors": 1}, 0, 50),
        ("special.n_plus_one", {"calls": 6}, 2, 6),
        ("generator.retry_storm", {"handled_errors": 2}, 0, 2),
        ("generator.stale_cache", {"calls": 1}, 2, 1),
        ("upper.clock_skew", {"outside_ms": 30.0}, 0, 30),
        ("lower.high_cardinality", {"service_names": 9}, 3, 9),
        ("generator.swallowed_errors", {"handled_errors": 1}, 0, 1),
        ("lower.lost_context", {"begins": True}, 0, 100),
    ],
)
def test_each_kind_of_indicator(flag, with_fault, before, during):
    normal, faulty = [USUAL] * 30, [USUAL._replace(**with_fault)] * 30
    found = change(INDICATORS[flag], normal, faulty)
    assert (found.verdict, found.before, found.during) == (CHANGED, pytest.approx(before), pytest.approx(during))
    assert (found.traces_before, found.traces_during, abs(found.test.effect)) == (30, 30, 1)
    assert change(INDICATORS[flag], normal, normal).verdict == NO_EFFECT
    assert change(INDICATORS[flag], faulty, normal).verdict == NO_EFFECT, "the opposite of what the fault does"


def test_an_indicator_in_words():
    found = change(INDICATORS["digit.errors"], [], [])
    assert found.indicator == "failed spans of digit render_digit, %"
    assert (found.verdict, found.before, found.during) == (TOO_FEW_TRACES, None, None)


def test_few_traces_and_traces_without_the_operation_prove_nothing():
    without = USUAL._replace(durations_ms=None, calls=0)
    normal, faulty = [USUAL] * 30, [USUAL._replace(durations_ms=[90.0])] * 19 + [without] * 30
    found = change(INDICATORS["digit.wave"], normal, faulty)
    assert (found.verdict, found.traces_during) == (TOO_FEW_TRACES, 19)


def test_the_percentage_of_errors_is_that_of_all_spans():
    ended, complete = USUAL._replace(calls=1, errors=1), USUAL._replace(calls=9)
    found = change(INDICATORS["digit.errors"], [USUAL] * 30, [ended, complete] * 15)
    assert (found.before, found.during) == (0, 10)


def test_more_tests_need_a_smaller_p_value():
    normal, faulty = [USUAL] * 100, [USUAL] * 91 + [USUAL._replace(errors=1)] * 9
    assert 0.001 < change(INDICATORS["digit.errors"], normal, faulty).test.p_value < 0.01
    assert change(INDICATORS["digit.errors"], normal, faulty).verdict == CHANGED
    assert change(INDICATORS["digit.errors"], normal, faulty, tests=10).verdict == NO_EFFECT
