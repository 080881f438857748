"""What differs between traces: slow and failing characters of the demo, faults, and nothing where nothing differs."""

import random

import pytest

from explorer.analysis.differences import Findings, Measure, differences
from explorer.analysis.spans import Trace
from tests.demo_traces import Fault, passwords

SIDE = 300


@pytest.fixture(scope="module")
def demo() -> list[Trace]:
    return passwords(seed=1, count=1500)


def sides(traces: list[Trace], selected) -> tuple[list[Trace], list[Trace]]:
    return [trace for trace in traces if selected(trace)][:SIDE], [trace for trace in traces if not selected(trace)][
        :SIDE
    ]


def has_slow(service: str, name: str, duration_ms: float):
    """Selects traces with such a span."""
    return lambda trace: any(
        span.operation == (service, name) and span.duration > duration_ms * 1e6 for span in trace.spans
    )


def slowest(traces: list[Trace], share: float):
    """Selects this share of the traces by the durations of their root spans."""
    durations = sorted(trace.roots[0].duration for trace in traces)
    return lambda trace: trace.roots[0].duration > durations[-round(share * len(traces))]


def failed(trace: Trace) -> bool:
    return trace.roots[0].failed


def values(findings: Findings) -> list[tuple[str, str, str | None]]:
    return [(finding.service, finding.name, finding.value) for finding in findings.attributes]


@pytest.mark.parametrize(
    ("service", "threshold_ms", "slow"), [("upper", 30, "QXZ"), ("digit", 20, "47"), ("special", 25, "%@")]
)
def test_slow_characters_are_first_for_the_slow_spans_of_a_service(demo, service, threshold_ms, slow):
    found = differences(*sides(demo, has_slow(service, f"process_{service}", threshold_ms)), by_duration=True)
    assert set(values(found)[: len(slow)]) == {(service, "char", char) for char in slow}
    assert {finding.measure for finding in found.attributes[: len(slow)]} == {Measure.SLOW}
    assert found.attributes[0].operations[0] == f"process_{service}"
    where = found.operations[0]
    assert (where.service, where.name, where.measure) == (service, f"process_{service}", Measure.SELF_TIME)
    assert where.selected.median > where.baseline.median


def test_slow_characters_are_first_for_slow_passwords(demo):
    """Long passwords are slow, too: their length is among the numbers, and does not crowd out the characters."""
    found = differences(*sides(demo, slowest(demo, 0.15)), by_duration=True)
    service, name, value = values(found)[0]
    assert name == "char" and value in {"digit": "47", "upper": "QXZ", "lower": "jkw", "special": "%@"}[service]
    assert ("generator", "pwlen") in [(finding.service, finding.name) for finding in found.numbers]


def test_failing_characters_and_operations_are_first_for_failed_passwords():
    traces = passwords(seed=2, count=1800)
    found = differences(*sides(traces, failed), failed=True)
    assert set(values(found)[:4]) == {("upper", "char", "A"), ("upper", "char", "E")} | {
        ("special", "char", "$"),
        ("special", "char", "<"),
    }
    assert {finding.measure for finding in found.attributes[:4]} == {Measure.ERRORS}
    assert found.operations[0].measure == Measure.ERRORS
    assert {finding.name for finding in found.operations if finding.measure == Measure.ERRORS} == {
        "process_upper",
        "process_special",
    }
    # Errors end a trace early: the selection has less of what would have followed.
    assert found.operations[-1].score < 0


def test_a_slow_value_is_first():
    traces = passwords(seed=3, count=1000, fault=Fault("digit", lambda char, _: char == "5", slowness=10))
    assert values(differences(*sides(traces, slowest(traces, 0.2)), by_duration=True))[0] == ("digit", "char", "5")


def test_a_failing_value_is_first():
    traces = passwords(seed=4, count=1000, fault=Fault("lower", lambda char, _: char == "g", fails=True))
    first = differences(*sides(traces, failed), failed=True).attributes[0]
    assert (first.service, first.name, first.value, first.measure) == ("lower", "char", "g", Measure.ERRORS)
    assert first.operations == ("process_lower",)
    assert first.baseline.traces == 0 < first.selected.traces <= first.selected.of


@pytest.mark.parametrize(
    ("fault", "selected", "options"),
    [
        (Fault("digit", lambda _, length: length == 13, fails=True), failed, {"failed": True}),
        (
            Fault("digit", lambda _, length: length == 13, slowness=9),
            has_slow("digit", "process_digit", 60),
            {"by_duration": True},
        ),
    ],
    ids=["failing", "slow"],
)
def test_the_cause_may_be_in_another_service(fault, selected, options):
    """Passwords of 13 characters fail, or are slow, in a service that does not know their length."""
    traces = passwords(seed=5, count=1500, fault=fault)
    found = differences(*sides(traces, selected), **options)
    # One finding: all say the same.
    first = found.attributes[0]
    assert {(finding.service, finding.name, finding.value) for finding in (first, *first.also)} == {
        ("generator", "pwlen", "13"),
        ("load", "pwlen", "13"),
        ("generator", "url.query", "length=13"),
        ("load", "url.full", "http://generator/?length=13"),
    }
    assert {(finding.selected, finding.baseline) for finding in first.also} == {(first.selected, first.baseline)}


def test_what_a_selection_is_made_of_is_left_out(demo):
    found = differences(*sides(demo, failed), failed=True)
    assert "http.response.status_code" not in {finding.name for finding in found.attributes}
    with_q = sides(demo, lambda trace: any(span.tags.get("char") == "Q" for span in trace.spans))
    assert values(differences(*with_q))[0] == ("upper", "char", "Q")
    assert "char" not in {finding.name for finding in differences(*with_q, ignored={"char"}).attributes}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("by_duration", [False, True])
def test_nothing_is_found_where_nothing_differs(demo, seed, by_duration):
    shuffled = random.Random(seed).sample(demo, 2 * SIDE)
    found = differences(shuffled[:SIDE], shuffled[SIDE:], by_duration=by_duration)
    assert all(abs(finding.score) < 0.05 for findings in found for finding in findings), found


def test_ids_that_occur_once_are_never_found(demo):
    traces = passwords(seed=6, count=200)
    for trace in traces:
        trace.roots[0].tags["request.id"] = trace.id
    found = differences(traces[:100], traces[100:])
    assert "request.id" not in {finding.name for finding in found.attributes}


@pytest.mark.parametrize("order", [1, -1])
def test_a_new_attribute_and_a_new_operation_are_found(order):
    before, after = passwords(seed=7, count=100), passwords(seed=8, count=100)
    for trace in after:
        for span in trace.spans:
            span.resource_tags["service.version"] = "2.0.0"
            if span.name == "render_lower":
                span.name = "draw_lower"
    found = differences(*(after, before)[::order])
    versions = [finding for finding in found.attributes if finding.name == "service.version"]
    assert {(finding.value, finding.score > 0) for finding in versions} == {
        ("2.0.0", order > 0),
        ("1.0.0", order < 0),
    }
    assert {finding.name for finding in found.operations[:1]} == {"draw_lower" if order > 0 else "render_lower"}
    assert found.operations[0].selected == (100, 100, None)


@pytest.mark.parametrize("empty", [([], [1]), ([1], []), ([], [])])
def test_an_empty_side_has_no_differences(demo, empty):
    assert differences(*(demo[: len(side)] for side in empty)) == ([], [], [])


def test_traces_of_other_sizes_are_not_compared_by_what_they_have(demo):
    by_size = sorted(demo, key=lambda trace: len(trace.spans))
    found = differences(by_size[-100:], by_size[:100], by_duration=True)
    assert found.attributes == []
    assert ("generator", "pwlen") in [(finding.service, finding.name) for finding in found.numbers]


def test_one_trace_against_another_is_too_little():
    one, other = passwords(seed=9, count=2)
    assert differences([one], [other], by_duration=True) == ([], [], [])
