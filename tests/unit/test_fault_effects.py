"""What each fault does to the spans of a password, and how it is recorded in them."""

import itertools
import re
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

import telemetry.flags
import telemetry.service
from faults.cases import CaseFile, chosen
from faults.flags import DEFINITIONS, FlagFile
from local import CHECKOUT
from telemetry.clock import SkewedExporter
from telemetry.services import CHARACTER_SERVICES, SERVICES
from tests.demo_services import Services, named
from tests.waiting import wait_until

FAULTS = CHECKOUT / "docs" / "faults.md"
MINUTE_SECONDS = 60


@pytest.fixture
def services(serve, monkeypatch, switch) -> Services:
    monkeypatch.setattr(telemetry.service, "EXTRA_WORK_PROBABILITY", 0)
    return Services(serve, monkeypatch)


def faults_of(span: Any) -> tuple[str, ...]:
    return span.attributes.get("demo.fault.name", ())


def events_of(span: Any) -> list[dict]:
    return [dict(event.attributes) for event in span.events if event.name == "feature_flag.evaluation"]


def test_every_flag_in_the_services_is_defined_and_used():
    flags = FlagFile(DEFINITIONS).flags()
    sources = "".join(path.read_text() for folder in SERVICES for path in (CHECKOUT / folder).glob("*.py"))
    used = {name for names in re.findall(r'fault\("(.+?)"\)|lose_context\(app, "(.+?)"\)', sources) for name in names}
    used |= {f"{name}.{kind}" for name in CHARACTER_SERVICES for kind in ("slow_calls", "slow_characters")}
    assert used - {""} | {"upper.clock_skew", "load", "sampling", "case"} == set(flags)
    assert all(flag.description.endswith(".") for flag in flags.values())
    assert all({"off", "mild", "strong"} == set(flag.variants) for flag in flags.values() if flag.is_fault)


def test_the_documentation_lists_every_fault():
    documented = re.findall(r"^\| `(\w+\.\w+)` \| (\w+) \| (.+?) \|", FAULTS.read_text(), re.MULTILINE)
    flags = FlagFile(DEFINITIONS).flags().values()
    assert documented == [(flag.name, flag.default, flag.description) for flag in flags if flag.is_fault]


def test_without_faults_nothing_is_recorded(services, spans):
    services.password()
    assert not any(faults_of(span) or events_of(span) for span in spans())


def test_an_effect_is_recorded_in_attributes_and_by_the_conventions_for_feature_flags(services, spans, switch):
    switch({"digit.slow_characters": {"characters": "0123456789", "added_ms": 2}})
    services.password()
    processed = named("process_digit", spans())
    assert processed and all(faults_of(span) == ("digit.slow_characters",) for span in processed)
    for span in processed:
        [event] = events_of(span)
        added = event.pop("demo.fault.added_ms")
        assert span.attributes["demo.fault.added_ms"] == added >= 2
        assert event == {
            "feature_flag.key": "digit.slow_characters",
            "feature_flag.result.variant": "strong",
            "feature_flag.provider.name": "flagd",
        }
    assert not any(faults_of(span) for span in spans() if span.name != "process_digit")


def test_several_faults_of_a_span_add_up(services, spans, switch):
    switch(
        {
            "digit.slow_characters": {"characters": "0123456789", "added_ms": 2},
            "digit.slow_calls": {"probability": 1, "added_ms": 3},
        }
    )
    services.password()
    for span in named("process_digit", spans()):
        assert set(faults_of(span)) == {"digit.slow_characters", "digit.slow_calls"}
        added = [event["demo.fault.added_ms"] for event in events_of(span)]
        assert span.attributes["demo.fault.added_ms"] == pytest.approx(sum(added))


def test_labels_can_be_hidden(services, spans, switch, monkeypatch):
    monkeypatch.setenv("DEMO_FAULT_LABELS", "off")
    switch({"special.errors": {"characters": "!#$%&()*+,-./:;<=>?@[]^_{|}~", "probability": 1}})
    assert services.password().status_code == 500
    assert not any("demo." in name for span in spans() for name in span.attributes)
    assert not any(events_of(span) for span in spans())


def open_case(file: FlagFile, flag: str) -> CaseFile:
    cases = CaseFile(file)
    cases.start(next(seed for seed in itertools.count() if chosen(seed).flag == flag))
    return cases


def test_spans_name_no_fault_while_a_case_is_open(services, spans, switch, flag_file):
    cases = open_case(flag_file, "special.n_plus_one")
    switch({})
    services.call("special")
    [rendered] = named("render_special", spans())
    assert len([span for span in named("GET", spans()) if span.parent.span_id == rendered.context.span_id]) == 10
    assert not any("demo." in name for span in spans() for name in span.attributes)
    assert not any(events_of(span) for span in spans())
    cases.give_up()
    switch({"special.n_plus_one": "mild"})
    services.call("special")
    assert [faults_of(span) for span in named("render_special", spans())] == [(), ("special.n_plus_one",)]


def test_spans_of_a_skewed_clock_do_not_name_it_while_a_case_is_open(services, exporter, spans, switch, flag_file):
    open_case(flag_file, "upper.clock_skew")
    switch({})
    services.call("upper")
    [true] = named("process_upper", spans())
    exporter.clear()
    SkewedExporter(exporter, "upper.clock_skew").export([true])
    [skewed] = spans()
    assert skewed.start_time - true.start_time == 5 * 10**9
    assert not faults_of(skewed) and not events_of(skewed)


@pytest.mark.parametrize(
    ("flag", "parameters", "operation"),
    [
        ("special.errors", {"characters": "!#$%&()*+,-./:;<=>?@[]^_{|}~", "probability": 1}, "process_special"),
        ("upper.errors", {"characters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "probability": 1}, "process_upper"),
        ("digit.errors", {"every_minutes": 1, "probability": 1}, "render_digit"),
    ],
)
def test_a_forced_error_is_recorded_where_it_begins(services, spans, switch, flag, parameters, operation):
    switch({flag: parameters})
    assert services.password().status_code == 500
    [failed] = [span for span in spans() if faults_of(span)]
    assert (failed.name, failed.status.status_code) == (operation, StatusCode.ERROR)
    assert failed.attributes["demo.fault.error"] == failed.events[-1].attributes["exception.message"]


def test_errors_of_probability_0_do_not_happen(services, spans, switch):
    switch({"special.errors": {"characters": "!#$%&()*+,-./:;<=>?@[]^_{|}~", "probability": 0}})
    assert services.password().status_code == 200


def test_digit_fails_in_every_fifth_minute_only(services, spans, switch):
    switch({"digit.errors": {"every_minutes": 5, "probability": 1}})
    answers = [services.call("digit", seconds=minute * MINUTE_SECONDS + 59) for minute in range(10)]
    assert [minute for minute, answer in enumerate(answers) if answer.status_code == 500] == [4, 9]


@pytest.fixture
def exact_sleeps(monkeypatch):
    """The services sleep on a clock of their own, for a microsecond more than they ask for."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 1e-6

    monkeypatch.setattr(telemetry.flags, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))


def added_ms(services: Services, spans, service: str, times: list[int]) -> list[float]:
    for seconds in times:
        services.call(service, seconds=seconds)
    return [span.attributes["demo.fault.added_ms"] for span in named(f"process_{service}", spans())]


def test_digits_latency_is_a_wave(services, spans, switch, exact_sleeps):
    switch({"digit.wave": {"added_ms": 40, "period_seconds": 300}})
    top, middle, bottom, top_again = added_ms(services, spans, "digit", [75, 150, 225, 375])
    assert min(top, top_again) >= 40 > middle >= 20 > bottom


def test_upper_gets_slower_through_the_hour(services, spans, switch, exact_sleeps):
    switch({"upper.slowdown": {"added_ms": 100}})
    early, late, next_hour = added_ms(services, spans, "upper", [360, 3240, 3960])
    assert late >= 90 > max(early, next_hour) >= min(early, next_hour) >= 10


def test_digit_is_slow_for_lower_only(services, spans, switch):
    switch({"digit.slow_for_lower": "mild", "lower.needless_calls": "strong"})
    services.password()
    parents = services.parents(spans())
    for span in named("process_digit", spans()):
        caller = parents(parents(parents(span)))  # above the server span and the client span
        assert faults_of(span) == (("digit.slow_for_lower",) if caller.name == "render_lower" else ())
    assert named("render_lower", spans())


def test_requests_wait_for_the_only_connection(services, spans, switch):
    switch({"digit.pool_of_one": {"held_ms": 30}})
    threads = [threading.Thread(target=services.call, args=("digit",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waited = sorted(span.attributes["demo.fault.added_ms"] for span in named("process_digit", spans()))
    # Whenever the requests came, the three held the connection one after the other.
    ends = sorted(event.timestamp for span in named("process_digit", spans()) for event in span.events[-1:])
    assert all(later - earlier >= 29e6 for earlier, later in itertools.pairwise(ends))
    assert waited[0] >= 30


def test_n_plus_one_calls(services, spans, switch):
    switch({"special.n_plus_one": {"calls": 4}})
    services.call("special")
    [rendered] = named("render_special", spans())
    assert faults_of(rendered) == ("special.n_plus_one",)
    calls = [span for span in named("GET", spans()) if span.parent.span_id == rendered.context.span_id]
    assert len(calls) == 4


def test_a_retry_storm(services, spans, switch):
    switch(
        {
            "generator.retry_storm": {"retries": 3},
            "digit.errors": {"every_minutes": 1, "probability": 1},
        }
    )
    assert services.password().status_code == 500
    assert len(named("render_digit", spans())) == 4
    [fetching] = named("generator.digits", spans())
    assert [event["feature_flag.key"] for event in events_of(fetching)] == ["generator.retry_storm"] * 3


def test_a_retry_can_succeed(services, spans, switch):
    switch({"generator.retry_storm": {"retries": 10}, "digit.errors": {"every_minutes": 1, "probability": 0.5}})
    answers = [services.password(seed=seed) for seed in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert any(faults_of(span) for span in named("generator.digits", spans()))


def test_a_swallowed_error(services, spans, switch):
    switch(
        {
            "generator.swallowed_errors": "strong",
            "digit.errors": {"every_minutes": 1, "probability": 1},
        }
    )
    answer = services.password()
    assert answer.status_code == 200
    [fetching] = named("generator.digits", spans())
    assert faults_of(fetching) == ("generator.swallowed_errors",)
    assert fetching.status.status_code == StatusCode.UNSET
    failed = {span.name for span in spans() if span.status.status_code == StatusCode.ERROR}
    assert failed == {"render_digit", "GET /", "GET"}
    assert answer.json["password"].count("?") >= len(named("render_digit", spans()))


def test_a_stale_cache(services, spans, switch):
    switch({"generator.stale_cache": {"seconds": 30}})
    services.password(seconds=1000)
    calls = len(named("GET", spans()))
    assert calls == len(CHARACTER_SERVICES)  # the first character of each kind; the others come from the cache
    services.password(seconds=1020)
    assert len(named("GET", spans())) == calls
    services.password(seconds=1031)
    assert len(named("GET", spans())) == 2 * calls
    assert all(faults_of(span) == ("generator.stale_cache",) for span in named("generator.digits", spans()))


@pytest.mark.parametrize("variant", ["mild", "strong"])
def test_parallel_fetching_is_one_trace_too(services, spans, switch, variant):
    serial = services.password(seed="a").json["password"]
    switch({"generator.parallel_fetching": variant})
    parallel = services.password(seed="a")
    assert parallel.json["password"] == serial
    trace = [span for span in spans() if f"{span.context.trace_id:032x}" == parallel.json["trace_id"]]
    parents = services.parents(trace)
    assert {parents(span).name for span in trace if span.name.startswith("generator.") and span.name[-1] == "s"} == {
        "generator.generate"
    }
    assert len(named("GET", trace)) == 16


def test_lost_context_begins_a_new_trace(services, spans, switch):
    switch({"lower.lost_context": "strong"})
    answer = services.password()
    lost = [span for span in named("GET /", spans()) if span.parent is None and faults_of(span)]
    assert len(lost) == len(named("process_lower", spans())) > 0
    assert len({span.context.trace_id for span in lost} - {int(answer.json["trace_id"], 16)}) == len(lost)
    assert all(faults_of(span) == ("lower.lost_context",) for span in lost)


def test_high_cardinality_names(services, spans, switch):
    switch({"lower.high_cardinality": "strong"})
    services.password()
    names = Counter(span.name for span in spans() if span.name.startswith("process_lower"))
    assert set(names.values()) == {1} and "process_lower" not in names
    assert all(faults_of(span) for span in spans() if span.name.startswith("process_lower"))


def test_a_clock_that_is_ahead(services, exporter, spans, switch):
    services.call("upper")
    true = named("process_upper", spans())
    exporter.clear()
    switch({"upper.clock_skew": {"ahead_ms": 5000}})
    SkewedExporter(exporter, "upper.clock_skew").export(true)
    [skewed] = spans()
    [original] = true
    assert skewed.start_time - original.start_time == skewed.end_time - original.end_time == 5 * 10**9
    assert [event.timestamp - 5 * 10**9 for event in skewed.events[:-1]] == [
        event.timestamp for event in original.events
    ]
    assert faults_of(skewed) == ("upper.clock_skew",)
    assert (skewed.context, skewed.name, skewed.resource) == (original.context, original.name, original.resource)


def test_a_broken_file_leaves_the_flags_as_they_were(services, spans, switch, flag_file, caplog):
    switch({"special.n_plus_one": {"calls": 1}})
    broken = flag_file.path.read_text()[:-10]
    flag_file.path.write_text(broken)
    wait_until(lambda: "The flags stay as they were" in caplog.text, "an error in the log")
    services.call("special")
    [rendered] = named("render_special", spans())
    assert faults_of(rendered) == ("special.n_plus_one",)
