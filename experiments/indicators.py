"""Indicators: what each fault should change, and whether it has changed it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, quantiles
from typing import NamedTuple

SIGNIFICANCE = 0.01  # divided by the number of the tests of an experiment (Bonferroni's correction)
CHANGED, NO_EFFECT, TOO_FEW_TRACES = "changed", "no effect", "too few traces"  # verdicts
MIN_TRACES = 20  # of each phase: with fewer the normal approximation of the test does not hold


class Measurements(NamedTuple):
    """What the statement `measurements` says of a trace, about the spans of an operation of a service."""

    durations_ms: list[float] | None  # one for each span
    calls: int
    errors: int
    outside_ms: float | None  # by how much a span exceeds the time of its parent
    service_names: int  # names of spans that the service has in the trace
    handled_errors: int  # failed spans whose parent, of the service, has not failed
    begins: bool  # the trace begins in the service


class Measure(NamedTuple):
    """`number` is one number per trace, for the test; `value` describes all traces of a phase."""

    words: str
    number: Callable[[Measurements], float | None]
    value: Callable[[Sequence[Measurements]], float | None]


def _mean_of(number: Callable[[Measurements], float | None]) -> Callable[[Sequence[Measurements]], float | None]:
    def mean(traces: Sequence[Measurements]) -> float | None:
        return fmean(numbers) if (numbers := _numbers(number, traces)) else None

    return mean


def _numbers(number: Callable[[Measurements], float | None], traces: Sequence[Measurements]) -> list[float]:
    return [value for trace in traces if (value := number(trace)) is not None]


def _p95_ms(traces: Sequence[Measurements]) -> float | None:
    """Of all spans, as PostgreSQL's percentile_cont."""
    durations = list(chain.from_iterable(trace.durations_ms or () for trace in traces))
    return quantiles(durations, n=20, method="inclusive")[-1] if len(durations) > 1 else next(iter(durations), None)


def _error_percent(traces: Sequence[Measurements]) -> float | None:
    """Of all spans: the mean of the traces would count those more that end at the first error."""
    calls = sum(trace.calls for trace in traces)
    return 100 * sum(trace.errors for trace in traces) / calls if calls else None


def _mean(words: str, number: Callable[[Measurements], float | None]) -> Measure:
    return Measure(words, number, _mean_of(number))


DURATION = Measure(
    "p95 of the durations of {service} {operation}, ms",
    lambda trace: max(trace.durations_ms) if trace.durations_ms else None,
    _p95_ms,
)
ERRORS = Measure(
    "failed spans of {service} {operation}, %",
    lambda trace: 100 * trace.errors / trace.calls if trace.calls else None,
    _error_percent,
)
CALLS = _mean("spans of {service} {operation} per trace", lambda trace: trace.calls)
OUTSIDE = _mean(
    "time of {service} {operation} before or after its parent's, ms per trace", lambda trace: trace.outside_ms
)
NAMES = _mean("names of spans of {service} per trace", lambda trace: trace.service_names)
HANDLED = _mean("errors of calls of {service} that it does not pass on, per trace", lambda trace: trace.handled_errors)
BEGINS = _mean("traces that begin in {service}, %", lambda trace: 100.0 * trace.begins)


@dataclass(frozen=True)
class Indicator:
    """What a fault should change: a measure of the spans of an operation, which rises or falls."""

    measure: Measure
    service: str
    operation: str = ""
    rises: bool = True

    def __str__(self) -> str:
        return self.measure.words.format(service=self.service, operation=self.operation)


INDICATORS: Mapping[str, Indicator] = {
    "generator.parallel_fetching": Indicator(DURATION, "generator", "generator.generate", rises=False),
    "generator.retry_storm": Indicator(HANDLED, "generator"),
    "generator.stale_cache": Indicator(CALLS, "generator", "GET", rises=False),
    "generator.swallowed_errors": Indicator(HANDLED, "generator"),
    "upper.clock_skew": Indicator(OUTSIDE, "upper", "GET /"),
    "upper.errors": Indicator(ERRORS, "upper", "process_upper"),
    "upper.slow_calls": Indicator(DURATION, "upper", "GET /"),
    "upper.slow_characters": Indicator(DURATION, "upper", "process_upper"),
    "upper.slowdown": Indicator(DURATION, "upper", "process_upper"),
    "lower.high_cardinality": Indicator(NAMES, "lower"),
    "lower.lost_context": Indicator(BEGINS, "lower"),
    "lower.needless_calls": Indicator(CALLS, "lower", "GET"),
    "lower.slow_calls": Indicator(DURATION, "lower", "GET /"),
    "lower.slow_characters": Indicator(DURATION, "lower", "process_lower"),
    "digit.errors": Indicator(ERRORS, "digit", "render_digit"),
    "digit.pool_of_one": Indicator(DURATION, "digit", "process_digit"),
    "digit.slow_calls": Indicator(DURATION, "digit", "GET /"),
    "digit.slow_characters": Indicator(DURATION, "digit", "process_digit"),
    "digit.slow_for_lower": Indicator(DURATION, "digit", "process_digit"),
    "digit.wave": Indicator(DURATION, "digit", "process_digit"),
    "special.errors": Indicator(ERRORS, "special", "process_special"),
    "special.n_plus_one": Indicator(CALLS, "special", "GET"),
    "special.slow_calls": Indicator(DURATION, "special", "GET /"),
    "special.slow_characters": Indicator(DURATION, "special", "process_special"),
}


class MannWhitney(NamedTuple):
    """The result of a Mann-Whitney U test.

    `effect` is the rank-biserial correlation: the probability that a number of the second sample is larger than one of
    the first, minus the probability of the opposite.
    """

    u: float
    p_value: float  # two-sided
    effect: float


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> MannWhitney:
    """Whether one of two samples tends to have larger numbers.

    Mann and Whitney, Annals of Mathematical Statistics 18 (1947), 50-60, by the normal approximation, corrected for
    ties (Siegel, Nonparametric Statistics, 1956, 123-126) and for continuity. `u` counts the pairs whose second number
    is larger, a tie as a half.
    """
    pairs, size = len(first) * len(second), len(first) + len(second)
    if not pairs:
        return MannWhitney(0.0, 1.0, 0.0)
    counts, in_second = Counter(chain(first, second)), Counter(second)
    u, below = 0.0, 0
    for number in sorted(counts):
        in_first = counts[number] - in_second[number]
        u += in_second[number] * (below + in_first / 2)
        below += in_first
    ties = sum(count**3 - count for count in counts.values())
    variance = pairs / 12 * (size + 1 - ties / (size * (size - 1)))
    distance = max(abs(u - pairs / 2) - 0.5, 0.0)
    p_value = math.erfc(distance / math.sqrt(2 * variance)) if variance > 0 else 1.0
    return MannWhitney(u, p_value, 2 * u / pairs - 1)


@dataclass(frozen=True)
class Change:
    """An indicator in the normal phase (`before`) and in a phase with the fault (`during`).

    The values are None without spans; `traces` are those that have a number for the test.
    """

    indicator: str
    before: float | None
    during: float | None
    traces_before: int
    traces_during: int
    test: MannWhitney
    verdict: str


def change(
    indicator: Indicator, before: Sequence[Measurements], during: Sequence[Measurements], tests: int = 1
) -> Change:
    """Whether the indicator has changed in the direction that it should, as one of so many tests."""
    measure = indicator.measure
    first, second = _numbers(measure.number, before), _numbers(measure.number, during)
    test = mann_whitney(first, second)
    if min(len(first), len(second)) < MIN_TRACES:
        verdict = TOO_FEW_TRACES
    elif test.p_value < SIGNIFICANCE / tests and (test.effect > 0) == indicator.rises:
        verdict = CHANGED
    else:
        verdict = NO_EFFECT
    return Change(
        indicator=str(indicator),
        before=measure.value(before),
        during=measure.value(during),
        traces_before=len(first),
        traces_during=len(second),
        test=test,
        verdict=verdict,
    )
