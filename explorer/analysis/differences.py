"""What differs between selected traces and a baseline. No I/O. docs/analysis.md explains the method.

A finding is something that traces of one side have more often than those of the other, or numbers that are larger on
one side. Its score is the part of the difference that chance does not explain.
"""

import bisect
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from statistics import median, quantiles
from typing import Any, NamedTuple

from explorer.analysis.spans import Operation, Span, Trace
from explorer.analysis.statistics import rank_difference, share_difference, wilson, z_of

MAX_FINDINGS = 50  # of each list
# A span is slow if its self time exceeds this percentile of its operation in the baseline, which needs so many spans.
SLOW_PERCENTILE, MIN_SPANS = 95, 50
SIZES = 10  # divisions of traces by their numbers of spans
MIN_TRACES = 5  # of both sides together that have a value or an operation
MAX_VALUES = 1_000  # of an attribute of a service
MAX_VALUE_LENGTH = 500  # characters
# Attributes that say how a call ended: of failed traces, they are what was asked for, and not a cause.
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/
OUTCOMES = frozenset(
    {
        *("error", "error.type", "http.response.status_code", "http.status_code", "http.status_text"),
        *("otel.status_code", "otel.status_description", "rpc.grpc.status_code", "rpc.response.status_code"),
        *("db.response.status_code", "exception.type", "exception.message", "exception.stacktrace"),
    }
)

# By these, the demo's services say which fault made a span slow or fail: the answer, which the analysis has to find
# without them. docs/faults.md describes them.
LABELS = frozenset({"demo.fault.name", "demo.fault.added_ms", "demo.fault.error"})


class Measure(StrEnum):
    """What is compared: shares of traces, or for the last two, numbers of traces."""

    OCCURS = "occurs"
    SLOW = "is slow"  # in spans that are slow by themselves, for their operation
    ERRORS = "errors begin"  # in failed spans without a failed child
    VALUE = "value"  # the mean of a numeric attribute in a trace
    SELF_TIME = "self time"  # the mean self time of an operation in a trace, in ms


class Evidence(NamedTuple):
    """What one side has: `traces` of its `of` analysed traces; for numbers, also the median of these traces."""

    traces: int
    of: int
    median: float | None = None

    @property
    def share(self) -> float:
        return self.traces / self.of if self.of else 0.0


class Finding(NamedTuple):
    """One difference. `score` is from -1 to 1: positive if the selection has more of it."""

    service: str
    name: str  # the attribute's key, or the operation's name
    value: str | None  # of an attribute, as text; None for numbers and operations
    measure: Measure
    operations: tuple[str, ...]  # of slow spans, and of those in which errors begin; the most frequent first
    selected: Evidence
    baseline: Evidence
    score: float
    also: tuple["Finding", ...] = ()  # other attributes that say the same: they are found in the same traces


class Findings(NamedTuple):
    """Ranked findings: in each list first what the selection has more of, then what it has less of."""

    attributes: list[Finding]
    numbers: list[Finding]
    operations: list[Finding]


_Key = tuple[str, str]  # service, attribute's key
_MEASURES = (Measure.OCCURS, Measure.SLOW, Measure.ERRORS)
_OCCURS, _SLOW, _ERRORS = range(3)  # their indexes: what is counted for each span must be fast


class _Counts:
    """The traces and spans of one side that have something, by the index of what is measured."""

    __slots__ = ("operations", "share", "spans", "traces", "weight")

    def __init__(self) -> None:
        self.traces = [0, 0, 0]  # sets: a bit for each trace
        self.weight = [0.0, 0.0, 0.0]  # of these traces
        self.spans = [0, 0, 0]
        self.share = 0.0  # the weighted sum over traces of the share of spans, of those with the attribute at all
        self.operations: dict[tuple[int, str], int] = {}  # numbers of affected spans, by what they are affected by

    def add(self, spans: Sequence[int], trace: int, weight: float) -> None:
        """Add the spans of one trace, whose bit is given."""
        for measure, count in enumerate(spans):
            if count:
                self.traces[measure] |= trace
                self.weight[measure] += weight
                self.spans[measure] += count


class _Side:
    """What the traces of one side have. The weights of the traces are positive, or zero."""

    def __init__(
        self, traces: Sequence[Trace], weights: Sequence[float], thresholds: Mapping[Operation, float]
    ) -> None:
        self.of = len(traces)
        self.weight = math.fsum(weights)
        # As many traces of equal weights would be as certain: Kish, Survey Sampling (1965), 11.7.
        self.size = self.weight**2 / math.fsum(weight**2 for weight in weights) if self.weight else 0.0
        self.keys: dict[_Key, _Counts] = defaultdict(_Counts)
        self.values: dict[_Key, dict[str, _Counts]] = defaultdict(dict)
        self.numbers: dict[_Key, list[float]] = defaultdict(list)
        self.operations: dict[Operation, _Counts] = defaultdict(_Counts)
        self.self_times: dict[Operation, list[float]] = defaultdict(list)
        for number, (trace, weight) in enumerate(zip(traces, weights, strict=True)):
            self._add_attributes(trace, 1 << number, weight, thresholds)
            self._add_operations(trace, 1 << number, weight)

    def evidence(self, counts: _Counts, measure: int) -> Evidence:
        return Evidence(counts.traces[measure].bit_count(), self.of)

    def _add_attributes(self, trace: Trace, bit: int, weight: float, thresholds: Mapping[Operation, float]) -> None:
        # Many spans share their tags, which are one object then.
        groups: dict[tuple[str, int], tuple[dict[str, Any], list[int]]] = {}
        affected: list[tuple[Span, list[int]]] = []
        for span in trace.spans:
            if measures := _affected_by(span, thresholds):
                affected.append((span, measures))
            for tags in (span.tags, span.resource_tags):
                group = groups.get(key := (span.service, id(tags)))
                if group is None:
                    group = groups[key] = tags, [0, 0, 0]
                counts = group[1]
                counts[_OCCURS] += 1
                for measure in measures:
                    counts[measure] += 1
        values: dict[_Key, dict[str, list[int]]] = {}
        numbers: dict[_Key, list[tuple[float, int]]] = {}
        for (service, _), (tags, counts) in groups.items():
            for name, value in tags.items():
                attribute, text = (service, name), value if type(value) is str else _text(value)
                by_value = values.get(attribute)
                if by_value is None:
                    values[attribute] = {text: counts}
                elif (known := by_value.get(text)) is None:
                    by_value[text] = counts
                else:
                    by_value[text] = [a + b for a, b in zip(known, counts, strict=True)]
                if type(value) is int or type(value) is float:
                    numbers.setdefault(attribute, []).append((value, counts[_OCCURS]))
        for attribute, by_value in values.items():
            sums = [sum(counts) for counts in zip(*by_value.values(), strict=True)]
            self.keys[attribute].add(sums, bit, weight)
            if (found := numbers.get(attribute)) and sum(count for _, count in found) == sums[_OCCURS]:
                self.numbers[attribute].append(math.fsum(value * count for value, count in found) / sums[_OCCURS])
            self._add_values(self.values[attribute], by_value, sums[_OCCURS], bit, weight)
        for span, measures in affected:
            for name, value in chain(span.tags.items(), span.resource_tags.items()):
                if counted := self.values[span.service, name].get(_text(value)):
                    for measure in measures:
                        operation = measure, span.name
                        counted.operations[operation] = counted.operations.get(operation, 0) + 1

    @staticmethod
    def _add_values(
        known: dict[str, _Counts], by_value: dict[str, list[int]], spans: int, bit: int, weight: float
    ) -> None:
        for value, counts in by_value.items():
            counted = known.get(value)
            if counted is None:
                if len(value) > MAX_VALUE_LENGTH or len(known) >= MAX_VALUES:
                    continue
                counted = known[value] = _Counts()
            counted.add(counts, bit, weight)
            counted.share += weight * counts[_OCCURS] / spans

    def _add_operations(self, trace: Trace, bit: int, weight: float) -> None:
        by_operation: dict[Operation, list[Span]] = defaultdict(list)
        for span in trace.spans:
            by_operation[span.operation].append(span)
        for operation, spans in by_operation.items():
            errors = sum(span.begins_error for span in spans)
            self.operations[operation].add((len(spans), 0, errors), bit, weight)
            self.self_times[operation].append(sum(span.self_time for span in spans) / len(spans) / 1e6)


def _text(value: Any) -> str:
    """An attribute's value as PostgreSQL's operator ->> returns it, but for the spaces of lists and objects."""
    return value if isinstance(value, str) else str(value) if type(value) is int else json.dumps(value)


def _affected_by(span: Span, thresholds: Mapping[Operation, float]) -> list[int]:
    """What is measured of the span besides its occurrence."""
    measures = []
    if span.self_time > thresholds.get(span.operation, math.inf):
        measures.append(_SLOW)
    if span.failed and span.begins_error:
        measures.append(_ERRORS)
    return measures


def differences(
    selected: Sequence[Trace],
    baseline: Sequence[Trace],
    *,
    failed: bool = False,
    by_duration: bool = False,
    ignored: Collection[str] = (),
) -> Findings:
    """The ranked findings that chance does not explain.

    `failed`: the traces were selected because they have failed, so that attributes that only say so are left out.
    `by_duration`: they were selected by a duration, so that shares of traces with about as many spans are compared.
    `ignored`: keys of attributes that the selection is made of.
    """
    if not selected or not baseline:
        return Findings([], [], [])
    thresholds = _slow_thresholds(baseline)
    weights = _weights(selected, baseline) if by_duration else ([1.0] * len(selected), [1.0] * len(baseline))
    sides = _Side(selected, weights[0], thresholds), _Side(baseline, weights[1], thresholds)
    left_out = {*ignored, *LABELS, *(OUTCOMES if failed else ())}
    return Findings(
        _ranked(_attributes(*sides, left_out)), _ranked(_numbers(*sides, left_out)), _ranked(_operations(*sides))
    )


def _weights(selected: Sequence[Trace], baseline: Sequence[Trace]) -> tuple[list[float], list[float]]:
    """Weights with which both sides have as many traces of each size, by the number of spans.

    Sizes are divided at the deciles of the selected traces, from their smallest to their largest. Within a division of
    n and m traces, both sides have the weight n m / (n + m), that of the Mantel-Haenszel estimate of a common
    difference: Journal of the National Cancer Institute 22 (1959), 719-748.
    """
    sizes = [len(trace.spans) for trace in selected]
    deciles = quantiles(sizes, n=SIZES, method="inclusive") if len(sizes) > 1 else []
    bounds = [min(sizes) - 1, *deciles, max(sizes)]
    places = [[bisect.bisect_left(bounds, len(trace.spans)) for trace in traces] for traces in (selected, baseline)]
    ours, theirs = Counter(places[0]), Counter(places[1])
    weights = {place: ours[place] * theirs[place] / (ours[place] + theirs[place]) for place in ours | theirs}
    our_weights, their_weights = (
        [weights[place] / counts[place] for place in side] for side, counts in zip(places, (ours, theirs), strict=True)
    )
    return our_weights, their_weights


def _slow_thresholds(baseline: Iterable[Trace]) -> dict[Operation, float]:
    """Self times in nanoseconds."""
    self_times: dict[Operation, list[int]] = defaultdict(list)
    for trace in baseline:
        for span in trace.spans:
            self_times[span.operation].append(span.self_time)
    return {
        operation: quantiles(times, n=100)[SLOW_PERCENTILE - 1]
        for operation, times in self_times.items()
        if len(times) >= MIN_SPANS
    }


def _ranked(findings: Iterable[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.score]
    return sorted(found, key=_rank)[:MAX_FINDINGS]


def _rank(finding: Finding) -> tuple[bool, float, str, str, str]:
    return finding.score < 0, -abs(finding.score), finding.service, finding.name, finding.value or ""


def _attributes(selected: _Side, baseline: _Side, left_out: Collection[str]) -> Iterable[Finding]:
    """Findings in the same traces of both sides are one."""
    same: dict[tuple[int, int, int], list[Finding]] = defaultdict(list)
    candidates: list[tuple[_Key, str, _Counts, _Counts]] = []
    none = _Counts()
    for key in selected.keys | baseline.keys:
        for value in selected.values[key] | baseline.values[key]:
            ours, theirs = (side.values[key].get(value, none) for side in (selected, baseline))
            if _traces(ours, theirs) >= MIN_TRACES and key[1] not in left_out:
                candidates.append((key, value, ours, theirs))
    z = z_of(len(candidates) * len(_MEASURES))
    for key, value, ours, theirs in candidates:
        keys = selected.keys[key], baseline.keys[key]
        scores = [_occurrence(ours, theirs, *keys, selected, baseline, z)]
        for measure in (_SLOW, _ERRORS):
            difference = _trace_difference(ours, theirs, measure, selected, baseline, z)
            scores.append(max(difference, 0.0) * _concentration((ours, theirs), keys, measure, z))
        measure = max(range(3), key=lambda measure: abs(scores[measure]))
        if not scores[measure]:
            continue
        operations = (Counter(ours.operations) + Counter(theirs.operations)).most_common()
        finding = Finding(
            *key,
            value,
            _MEASURES[measure],
            tuple(name for (affected, name), _ in operations if affected == measure),
            selected.evidence(ours, measure),
            baseline.evidence(theirs, measure),
            scores[measure],
        )
        same[measure, ours.traces[measure], theirs.traces[measure]].append(finding)
    for findings in same.values():
        first, *others = sorted(findings, key=_rank)
        yield first._replace(also=tuple(others))


def _traces(ours: _Counts, theirs: _Counts) -> int:
    """The traces of both sides."""
    return sum(counts.traces[_OCCURS].bit_count() for counts in (ours, theirs))


def _occurrence(
    ours: _Counts, theirs: _Counts, our_key: _Counts, their_key: _Counts, selected: _Side, baseline: _Side, z: float
) -> float:
    """How much more often the value occurs, both by traces that have it and by its share of the attribute's spans.

    A trace with more spans has more of an attribute's values, and one that has ended early has fewer. The shares of
    spans are the same then. Spans of a trace are alike, so that certainty depends on the number of traces.
    """
    by_traces = _trace_difference(ours, theirs, _OCCURS, selected, baseline, z)
    if not by_traces:
        return 0.0
    shares, sizes = [], []
    for side, counts, key in ((selected, ours, our_key), (baseline, theirs, their_key)):
        with_key = key.weight[_OCCURS]
        shares.append(counts.share / with_key if with_key else 0.0)
        sizes.append(side.size * with_key / side.weight if with_key else side.size)
    by_spans = share_difference(shares[0], sizes[0], shares[1], sizes[1], z)
    return min(by_traces, by_spans, key=abs) if by_traces * by_spans > 0 else 0.0


def _trace_difference(
    ours: _Counts, theirs: _Counts, measure: int, selected: _Side, baseline: _Side, z: float
) -> float:
    if not (selected.weight and baseline.weight):  # no traces of the same size
        return 0.0
    shares = (counts.weight[measure] / side.weight for counts, side in ((ours, selected), (theirs, baseline)))
    our_share, their_share = (min(share, 1.0) for share in shares)
    return share_difference(our_share, selected.size, their_share, baseline.size, z)


def _concentration(values: Iterable[_Counts], keys: Iterable[_Counts], measure: int, z: float) -> float:
    """From 0, if affected spans may have the value no more often than all spans with the attribute, to almost 1."""
    affected, spans = _sums(values, measure)
    all_affected, all_spans = _sums(keys, measure)
    if not affected:
        return 0.0
    share, _ = wilson(affected / all_affected, all_affected, z)
    return max(1 - spans / all_spans / share, 0.0)


def _sums(counts: Iterable[_Counts], measure: int) -> tuple[int, int]:
    """The affected spans and all spans of both sides."""
    pairs = [(side.spans[measure], side.spans[_OCCURS]) for side in counts]
    return sum(affected for affected, _ in pairs), sum(spans for _, spans in pairs)


def _numbers(selected: _Side, baseline: _Side, left_out: Collection[str]) -> Iterable[Finding]:
    keys = [key for key in selected.numbers.keys() & baseline.numbers.keys() if key[1] not in left_out]
    z = z_of(len(keys))
    for key in keys:
        ours, theirs = selected.numbers[key], baseline.numbers[key]
        score = rank_difference(ours, theirs, z)
        yield _numeric(key, Measure.VALUE, ours, theirs, selected.of, baseline.of, score)


def _operations(selected: _Side, baseline: _Side) -> Iterable[Finding]:
    operations = [
        operation
        for operation in selected.operations | baseline.operations
        if _traces(selected.operations[operation], baseline.operations[operation]) >= MIN_TRACES
    ]
    z = z_of(len(operations) * 3)
    for operation in operations:
        ours, theirs = selected.operations[operation], baseline.operations[operation]
        for measure in (_OCCURS, _ERRORS):
            score = _trace_difference(ours, theirs, measure, selected, baseline, z)
            evidence = selected.evidence(ours, measure), baseline.evidence(theirs, measure)
            yield Finding(*operation, None, _MEASURES[measure], (operation[1],), *evidence, score)
        times = selected.self_times[operation], baseline.self_times[operation]
        score = rank_difference(*times, z)
        yield _numeric(operation, Measure.SELF_TIME, *times, selected.of, baseline.of, score)


def _numeric(
    key: tuple[str, str],
    measure: Measure,
    ours: Sequence[float],
    theirs: Sequence[float],
    of: int,
    of_rest: int,
    score: float,
) -> Finding:
    selected, baseline = (
        Evidence(len(numbers), traces, median(numbers) if numbers else None)
        for numbers, traces in ((ours, of), (theirs, of_rest))
    )
    return Finding(*key, None, measure, (), selected, baseline, score)
