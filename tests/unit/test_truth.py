"""Which spans a fault has affected, and how far its effect reaches."""

from datetime import UTC, datetime, timedelta

from experiments.truth import Span, affected_spans

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SLOW = ["digit.wave", "strong", 40.5, None]
ERROR = ["digit.errors", "mild", None, "out of ink"]


def span(number: int, parent: int | None, operation: str, end_ms: float, failed=False, effects=None, trace="a") -> Span:
    """A span that begins at noon; its service is load or digit."""
    service = "load" if parent is None else "digit"
    end = NOON + timedelta(milliseconds=end_ms)
    return Span(trace * 32, number, parent, service, operation, NOON, end, failed, effects)


def affected(*spans: Span) -> list:
    return list(affected_spans(spans, "slow", {"digit.wave": "strong"}))


def test_a_slow_span_reaches_those_that_wait_for_it():
    [found] = affected(
        span(1, None, "request", 100), span(2, 1, "GET /", 90), span(-3, 2, "process", 80, effects=[SLOW])
    )
    assert found.path == ["digit/process", "digit/GET /", "load/request"]
    assert found.path_span_ids == ["fffffffffffffffd", "0000000000000002", "0000000000000001"]
    assert found.reaches_root
    assert (found.trace_id, found.span_id) == ("a" * 32, found.path_span_ids[0])
    assert (found.service, found.operation, found.cause) == ("digit", "process", "digit/process")
    assert (found.phase, found.fault, found.variant, found.injected) == ("slow", "digit.wave", "strong", True)
    assert (found.added_ms, found.error, found.start_time) == (40.5, "", "2026-01-01T12:00:00+00:00")


def test_it_does_not_reach_a_parent_that_has_ended_before():
    [found] = affected(
        span(1, None, "request", 100), span(2, 1, "GET /", 50), span(3, 2, "process", 80, effects=[SLOW])
    )
    assert (found.path, found.reaches_root) == (["digit/process"], False)


def test_an_error_reaches_the_spans_that_fail_with_it():
    [found] = affected(
        span(1, None, "request", 100),
        span(2, 1, "GET /", 90, failed=True),
        span(3, 2, "render", 80, failed=True, effects=[ERROR]),
    )
    assert (found.path, found.reaches_root) == (["digit/render", "digit/GET /"], False)
    assert (found.fault, found.injected, found.error, found.added_ms) == ("digit.errors", False, "out of ink", 0)


def test_several_faults_and_several_effects_on_one_span():
    slow, error = affected(span(1, None, "request", 100, failed=True, effects=[SLOW, ERROR, SLOW]))
    assert (slow.fault, slow.added_ms, error.fault) == ("digit.wave", 81, "digit.errors")


def test_each_trace_has_its_own_spans():
    found = affected(
        span(1, None, "request", 100, trace="a"),
        span(2, 1, "GET /", 90, effects=[SLOW], trace="a"),
        span(2, 1, "GET /", 90, effects=[SLOW], trace="b"),
    )
    assert [(one.trace_id[0], one.reaches_root) for one in found] == [("a", True), ("b", False)]


def test_a_cycle_of_parents_ends():
    [found] = affected(span(1, 2, "a", 100), span(2, 1, "b", 100, effects=[SLOW]))
    assert (found.path, found.reaches_root) == (["digit/b", "digit/a"], False)
