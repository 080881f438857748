"""The demo's SQL in queries/: its results for known traces, and its use by psql, Grafana and the explorer."""

import itertools
import os
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiosql
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from local import CHECKOUT, postgres
from queries import UNITS
from tests.databases import switch_fault
from tests.store.known_traces import ALL, CLIENT, DIGIT, FAILED, GENERATE, NOON, PASSWORD, SERVER, Export
from tests.store.otlp_messages import add_service
from tests.store.store_contents import close_all

FILES = sorted((CHECKOUT / "queries").glob("*.sql"))
QUERIES = {path.name: aiosql.from_path(path, "psycopg") for path in FILES}
STATEMENTS = {
    name: getattr(queries, name)
    for queries in QUERIES.values()
    for name in queries.available_queries
    if not name.endswith("_cursor")
}

SHORT = {"step": "1 second"}


@pytest.fixture
def ask(database):
    """A function that runs a statement, with the shortest possible steps, and returns its rows."""
    # Ends a recursive statement that does not terminate.
    database.execute("set statement_timeout = '30 s'")
    return lambda name, **parameters: list(STATEMENTS[name](database, **SHORT | parameters))


@pytest.fixture
def traffic(promscale, database):
    """A password that was generated two minutes ago, and a fault that was switched then."""
    switch_fault(database, datetime.now(UTC) - timedelta(minutes=2))
    export = Export()
    export.add_trace(PASSWORD, datetime.now(UTC) - timedelta(minutes=2), failed=FAILED)
    promscale.export(export.message)


def minutes(*numbers: float) -> list[datetime]:
    return [NOON + timedelta(minutes=number) for number in numbers]


def operations(rows: list[tuple]) -> dict[tuple[str, str], tuple]:
    return {row[:2]: row[2:] for row in rows}


def calls_by_edge(rows: list[tuple]) -> dict[tuple[str, str], int]:
    return {(source, target): calls for _, source, target, *_, calls, _, _ in rows}


# 01 ------------------------------------------------------------------------------------------------------------------


def test_request_rate_by_minute(traces, ask):
    assert ask("request_rate_by_minute", **ALL) == list(
        zip(minutes(0, 1, 2), minutes(1, 2, 3), [2 / 60, 0, 1 / 60], strict=True)
    )


def test_request_rate_has_only_complete_minutes(traces, ask):
    time = {"time_from": NOON + timedelta(seconds=30), "time_to": NOON + timedelta(seconds=150)}
    assert ask("request_rate_by_minute", **time) == list(zip(minutes(0, 1), minutes(1, 2), [2 / 60, 0], strict=True))


@pytest.mark.parametrize("name", ["request_rate_by_minute", "request_rate_by_second"])
@pytest.mark.parametrize("days", [1, 30, 400, 2_900_000])
def test_request_rates_of_a_long_time_range_have_longer_steps(traces, ask, name, days):
    begin = NOON - timedelta(days=days) if days < 10_000 else datetime(1970, 1, 1, tzinfo=UTC)
    end = NOON + timedelta(days=1) if days < 10_000 else datetime(9999, 12, 1, tzinfo=UTC)
    rows = ask(name, time_from=begin, time_to=end)
    assert 500 <= len(rows) <= 1000
    step = rows[1][0] - rows[0][0]
    assert {later[0] - earlier[0] for earlier, later in itertools.pairwise(rows)} == {step}
    assert begin <= rows[0][0] < begin + step and end - 2 * step < rows[-1][0] <= end - step
    assert {end - begin for begin, end, _ in rows} == {step}
    assert sum(rate for *_, rate in rows) * step.total_seconds() == pytest.approx(3)


def test_steps_are_at_least_as_long_as_requested(traces, ask):
    parameters = {"time_from": NOON, "time_to": NOON + timedelta(minutes=5), "step": "3m"}
    for name in ("request_rate_by_minute", "request_rate_by_second"):
        assert ask(name, **parameters) == [(*minutes(0, 5), 3 / 300)]
    for name in ("duration_heatmap", "duration_percentiles", "error_rate_over_time"):
        assert {row[:2] for row in ask(name, **parameters)} == {tuple(minutes(0, 5))}


def test_request_rate_by_second(traces, ask):
    rows = ask("request_rate_by_second", **ALL)
    assert [time for time, *_ in rows] == [NOON + timedelta(seconds=second) for second in range(180)]
    assert {(time - NOON).seconds: rate for time, _, rate in rows if rate} == {10: 1, 40: 1, 125: 1}


# 02 ------------------------------------------------------------------------------------------------------------------


def test_errors_by_service(traces, ask):
    # The failed password has two spans render_digit.
    assert ask("errors_by_service", **ALL) == [("digit", 2), ("generator", 1), ("load", 1)]


ORIGINS = ("error_origins", "error_origins_by_service")


def begun(ask, **time) -> dict[tuple[str, str], int]:
    """How many errors begin in each operation. The counts by service are checked to be the same."""
    rows = ask("error_origins", **ALL | time)
    by_service: Counter[str] = Counter()
    for service, _, errors, *_ in rows:
        by_service[service] += errors
    assert dict(ask("error_origins_by_service", **ALL | time)) == by_service
    return {(service, name): errors for service, name, errors, *_ in rows}


def test_an_error_begins_where_no_child_has_failed(promscale, ask):
    export = Export()
    every_span = ("load.request", "GET", "GET /", "generator.generate", "render_digit")
    roots = [export.add_trace(PASSWORD, start, failed=every_span) for start in minutes(0, 1)]
    promscale.export(export.message)
    assert ask("error_origins", **ALL) == [("digit", "render_digit", 4, 100, None, roots[1].trace_id.hex())]
    assert ask("error_origins_by_service", **ALL) == [("digit", 4)]


def test_an_error_above_one_that_was_handled_begins_there(traces, ask):
    # Between these spans there are others without an error.
    assert begun(ask) == {
        ("digit", "render_digit"): 2,
        ("generator", "generator.generate"): 1,
        ("load", "load.request"): 1,
    }


def test_the_example_of_an_error_is_the_most_recent_one(promscale, ask):
    export = Export()
    for number, start in enumerate(minutes(1, 2, 0)):
        spans = [export.add("shop", "buy", start, failed=True), export.add("shop", "sell", start, failed=number == 0)]
        for added in spans:
            added.status.message = f"{added.name} {number}"
        message = ExportTraceServiceRequest()
        add_service(message, *spans, service="shop")
        promscale.export(message)
        if number == 1:
            latest = spans[0]
        elif number == 0:
            sold = spans[1]
    assert ask("error_origins", **ALL) == [
        ("shop", "buy", 3, 75, "buy 1", latest.trace_id.hex()),
        ("shop", "sell", 1, 25, "sell 0", sold.trace_id.hex()),
    ]


@pytest.mark.parametrize("closed", [False, True])
def test_parent_and_child_of_an_error_in_different_partitions(promscale, upkeep, database, ask, closed):
    """The parent starts in the hour before the child's; both hours may be closed."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    export = Export()
    parent = export.add("shop", "buy", hour - timedelta(minutes=1), 120_000, failed=True)
    export.add("bank", "pay", hour, failed=True, trace_id=parent.trace_id, parent_span_id=parent.span_id)
    promscale.export(export.message)
    if closed:
        close_all(upkeep, database)
    pay = {("bank", "pay"): 1}
    assert begun(ask, time_from=hour - timedelta(hours=1), time_to=hour + timedelta(hours=1)) == pay
    assert begun(ask, time_from=hour, time_to=hour + timedelta(hours=1)) == pay
    # The parent is not counted where its child starts after the time range, either.
    assert begun(ask, time_from=hour - timedelta(hours=1), time_to=hour) == {}


def test_a_failed_span_that_is_its_own_parent_is_where_an_error_begins(promscale, ask):
    export = Export()
    export.add("shop", "itself", NOON, failed=True, span_id=b"\x03" * 8, parent_span_id=b"\x03" * 8)
    promscale.export(export.message)
    assert begun(ask) == {("shop", "itself"): 1}


def test_error_rate_by_operation(traces, ask):
    third = pytest.approx(100 / 3)
    assert ask("error_rate_by_operation", **ALL) == [
        ("digit", "render_digit", 6, 2, third),
        ("generator", "generator.generate", 3, 1, third),
        ("load", "load.request", 3, 1, third),
        ("digit", "GET /", 6, 0, 0),
        ("generator", "GET", 6, 0, 0),
        ("generator", "GET /", 3, 0, 0),
        ("load", "GET", 3, 0, 0),
        ("lower", "GET", 3, 0, 0),
        ("lower", "GET /", 3, 0, 0),
        ("lower", "random_lower", 3, 0, 0),
    ]


def test_error_rate_over_time(traces, ask):
    first, third = minutes(0, 1), minutes(2, 3)
    assert ask("error_rate_over_time", **ALL) == [
        (*first, "digit", 0),
        (*first, "generator", 0),
        (*first, "load", 0),
        (*first, "lower", 0),
        (*third, "digit", 50),
        (*third, "generator", 25),
        (*third, "load", 50),
        (*third, "lower", 0),
    ]


def test_error_rate_over_a_long_time_range(traces, ask):
    rows = ask("error_rate_over_time", time_from=NOON - timedelta(days=400), time_to=NOON + timedelta(days=1))
    total = ask("error_rate_by_operation", **ALL)
    assert len({time for time, *_ in rows}) == 1
    for *_, service, percent in rows:
        calls, errors = (sum(row[column] for row in total if row[0] == service) for column in (2, 3))
        assert percent == pytest.approx(100 * errors / calls)


def test_error_rates_are_limited_to_the_services_with_most_errors(promscale, ask):
    export = Export()
    for number in range(50):
        for _ in range(number + 1):
            export.add(f"service-{number:02}", "fails", NOON, failed=True)
    promscale.export(export.message)
    services = {service for *_, service, _ in ask("error_rate_over_time", **ALL)}
    assert services == {f"service-{number}" for number in range(30, 50)}


def test_failed_traces(promscale, traces, ask):
    # A trace whose root span has no error has not failed.
    export = Export()
    export.add_trace(PASSWORD, NOON, failed=("render_digit",))
    promscale.export(export.message)
    assert ask("failed_traces", **ALL) == [
        (NOON + timedelta(seconds=125), 400, "load", "load.request", None, traces[2].trace_id.hex())
    ]


@pytest.mark.parametrize(
    "name", ["errors_by_service", "error_rate_by_operation", "error_rate_over_time", "service_calls"]
)
def test_counts_include_whole_minutes(traces, ask, name):
    time = {"time_from": NOON + timedelta(seconds=50), "time_to": NOON + timedelta(seconds=121)}
    assert ask(name, **time) == ask(name, **ALL)


# 03 ------------------------------------------------------------------------------------------------------------------


def bucket(number: int) -> tuple:
    return pytest.approx(10 ** (number / 10)), pytest.approx(10 ** ((number + 1) / 10))


def test_duration_heatmap(traces, ask):
    first, second, third, fourth = minutes(0, 1, 2, 3)
    assert ask("duration_heatmap", **ALL) == [
        (first, second, *bucket(20), 1),  # 100 ms
        (first, second, *bucket(23), 1),  # 200 ms
        (third, fourth, *bucket(26), 1),  # 400 ms
    ]


def test_duration_histogram_shows_the_gaps(traces, ask):
    counts = [1, 0, 0, 1, 0, 0, 1]
    assert ask("duration_histogram", **ALL) == [(*bucket(20 + i), count) for i, count in enumerate(counts)]


def test_durations_without_a_logarithm(promscale, ask):
    export = Export()
    export.add("shop", "no time", NOON, duration_ms=0)
    export.add("shop", "ended before it began", NOON, duration_ms=-5)
    promscale.export(export.message)
    assert ask("duration_heatmap", **ALL) == [(*minutes(0, 1), *bucket(-30), 2)]
    assert ask("duration_histogram", **ALL) == [(*bucket(-30), 2)]


def test_duration_percentiles(traces, ask):
    assert ask("duration_percentiles", **ALL) == [
        (*minutes(0, 1), *map(pytest.approx, (150, 190, 195, 199))),
        (*minutes(2, 3), 400, 400, 400, 400),
    ]


def test_slowest_traces(traces, ask):
    assert ask("slowest_traces", **ALL) == [
        (NOON + timedelta(seconds=125), 400, "error", "load", "load.request", traces[2].trace_id.hex()),
        (NOON + timedelta(seconds=40), 200, "unset", "load", "load.request", traces[1].trace_id.hex()),
        (NOON + timedelta(seconds=10), 100, "unset", "load", "load.request", traces[0].trace_id.hex()),
    ]


def test_slowest_traces_are_limited_to_twenty(promscale, ask):
    export = Export()
    for duration_ms in range(25):
        export.add("shop", "buy", NOON, duration_ms)
    promscale.export(export.message)
    assert [row[1] for row in ask("slowest_traces", **ALL)] == list(range(24, 4, -1))


# 04 ------------------------------------------------------------------------------------------------------------------


def test_service_graph(traces, ask):
    # The three passwords took once, twice and four times as long: 7 times together.
    assert ask("service_nodes", **ALL) == [
        ("digit", "digit", 6, 0, pytest.approx(18 * 7 / 3)),
        ("generator", "generator", 3, 0, pytest.approx(96 * 7 / 3)),
        ("lower", "lower", 3, 0, pytest.approx(38 * 7 / 3)),
        ("load", "load", 0, 0, None),
    ]
    assert ask("service_edges", **ALL) == [
        ("(generator,digit)", "generator", "digit", "digit", 3, 0, pytest.approx(18 * 7 / 3)),
        ("(generator,lower)", "generator", "lower", "lower", 3, 0, pytest.approx(38 * 7 / 3)),
        ("(load,generator)", "load", "generator", "generator", 3, 0, pytest.approx(96 * 7 / 3)),
        ("(lower,digit)", "lower", "digit", "digit", 3, 0, pytest.approx(18 * 7 / 3)),
    ]


def test_service_calls(promscale, traces, ask):
    export = Export()
    export.add_trace(PASSWORD, NOON, failed=("GET /",))
    promscale.export(export.message)
    assert ask("service_calls", **ALL) == [
        ("load", "generator", 4, 1, 96 * 8, 96 * 2),
        ("generator", "lower", 4, 1, 38 * 8, 38 * 2),
        ("generator", "digit", 4, 1, 18 * 8, 18 * 2),
        ("lower", "digit", 4, 1, 18 * 8, 18 * 2),
    ]
    assert {row[0]: row[3] for row in ask("service_nodes", **ALL)} == {
        "load": 0,
        "generator": 1,
        "lower": 1,
        "digit": 2,
    }
    assert {row[3:6] for row in ask("service_edges", **ALL)} == {("generator", 4, 1), ("lower", 4, 1), ("digit", 4, 1)}


def test_a_call_between_spans_of_unspecified_kind(promscale, ask):
    export = Export()
    buy = export.add("shop", "buy", NOON)
    export.add("bank", "pay", NOON, trace_id=buy.trace_id, parent_span_id=buy.span_id)
    promscale.export(export.message)
    assert ask("service_calls", **ALL) == [("shop", "bank", 1, 0, 1, 1)]


@pytest.mark.parametrize(("minutes_before", "edges"), [(30, 1), (120, 0)])
def test_a_parent_may_start_half_an_hour_before_its_child(promscale, ask, minutes_before, edges):
    export = Export()
    root = export.add("shop", "buy", NOON - timedelta(minutes=minutes_before), 3_600_000, kind=CLIENT)
    export.add("bank", "pay", NOON, kind=SERVER, trace_id=root.trace_id, parent_span_id=root.span_id)
    promscale.export(export.message)
    assert len(ask("upstream_edges", **ALL, service="bank", operation="pay")) == edges
    # A call is counted in the minute in which the callee starts, whenever the caller started.
    assert len(ask("service_calls", **ALL)) == 1


def test_the_documented_join_of_spans_returns_the_same_calls(traffic, database, ask):
    examples = re.findall(r"```sql\n(.*?)```", (CHECKOUT / "docs" / "sql.md").read_text(), re.DOTALL)
    [example] = [example for example in examples if "from span as callee" in example]
    now = datetime.now(UTC)
    calls = ask("service_calls", time_from=now - timedelta(hours=1), time_to=now)
    assert len(calls) == 4
    assert [row[:5] for row in database.execute(example)] == [row[:5] for row in calls]


# 05 ------------------------------------------------------------------------------------------------------------------


def test_upstream_operations(traces, ask):
    assert ask("upstream_operations", **DIGIT) == [
        ("digit", "GET /", 6, 0, 36, 72, 72),
        ("lower", "GET", 3, 0, 40, *map(pytest.approx, (76, 79.2))),
        ("generator", "GET", 6, 0, 70, *map(pytest.approx, (150, 158))),
        ("lower", "GET /", 3, 0, 76, *map(pytest.approx, (144.4, 150.48))),
        ("generator", "generator.generate", 3, 1, 180, *map(pytest.approx, (342, 356.4))),
        ("generator", "GET /", 3, 0, 192, *map(pytest.approx, (364.8, 380.16))),
        ("load", "GET", 3, 0, 196, *map(pytest.approx, (372.4, 388.08))),
        ("load", "load.request", 3, 1, 200, *map(pytest.approx, (380, 396))),
    ]


def test_upstream_graph(traces, ask):
    assert ask("upstream_nodes", **DIGIT)[:2] == [
        ('(digit,"GET /")', "digit", "GET /", 6, 0, pytest.approx(18 * 7 / 3)),
        ("(generator,GET)", "generator", "GET", 6, 0, pytest.approx(70 * 7 / 6)),
    ]
    edges = ask("upstream_edges", **DIGIT)
    assert next(edge for edge in edges if edge[1] == '(generator,"GET /")') == (
        '(generator,"GET /",generator,generator.generate)',
        '(generator,"GET /")',
        "(generator,generator.generate)",
        "generator",
        "generator.generate",
        3,
        1,
        pytest.approx(90 * 7 / 3),
    )
    assert calls_by_edge(edges) == {
        ("(load,load.request)", "(load,GET)"): 3,
        ("(load,GET)", '(generator,"GET /")'): 3,
        ('(generator,"GET /")', "(generator,generator.generate)"): 3,
        ("(generator,generator.generate)", "(generator,GET)"): 6,
        ("(generator,GET)", '(lower,"GET /")'): 3,
        ('(lower,"GET /")', "(lower,GET)"): 3,
        ("(lower,GET)", '(digit,"GET /")'): 3,
        ("(generator,GET)", '(digit,"GET /")'): 3,
    }


def test_upstream_is_limited_to_the_time_range(traces, ask):
    time = {"time_from": NOON + timedelta(minutes=1), "time_to": NOON + timedelta(minutes=3)}
    assert {row[2] for row in ask("upstream_operations", **DIGIT | time)} == {1, 2}


# 06 ------------------------------------------------------------------------------------------------------------------


def test_downstream_operations(traces, ask):
    rows = operations(ask("downstream_operations", **GENERATE))
    assert list(rows) == [
        ("generator", "generator.generate"),
        ("generator", "GET"),
        ("lower", "GET /"),
        ("digit", "GET /"),
        ("lower", "GET"),
        ("digit", "render_digit"),
        ("lower", "random_lower"),
    ]
    assert rows["digit", "GET /"] == (6, 0, 36, 72, 72)
    assert rows["digit", "render_digit"] == (6, 2, 10, 20, 20)
    assert rows["lower", "GET"] == (3, 0, 40, *map(pytest.approx, (76, 79.2)))


def test_downstream_graph(traces, ask):
    nodes = {row[0]: row[1:] for row in ask("downstream_nodes", **GENERATE)}
    assert nodes['(digit,"GET /")'] == ("digit", "GET /", 6, 0, pytest.approx(18 * 7 / 3))
    assert nodes["(digit,render_digit)"] == ("digit", "render_digit", 6, 2, pytest.approx(5 * 7 / 3))
    assert calls_by_edge(ask("downstream_edges", **GENERATE)) == {
        ("(generator,generator.generate)", "(generator,GET)"): 6,
        ("(generator,GET)", '(lower,"GET /")'): 3,
        ("(generator,GET)", '(digit,"GET /")'): 3,
        ('(lower,"GET /")', "(lower,random_lower)"): 3,
        ('(lower,"GET /")', "(lower,GET)"): 3,
        ("(lower,GET)", '(digit,"GET /")'): 3,
        ('(digit,"GET /")', "(digit,render_digit)"): 6,
    }


def test_downstream_shares(traces, ask):
    assert ask("downstream_shares", **GENERATE) == [
        ("digit", "GET /", (18 - 5) * 2 * 7),
        ("generator", "generator.generate", (90 - 40 - 30) * 7),
        ("generator", "GET", (40 - 38 + 30 - 18) * 7),
        ("digit", "render_digit", 5 * 2 * 7),
        ("lower", "random_lower", 10 * 7),
        ("lower", "GET /", (38 - 10 - 20) * 7),
        ("lower", "GET", (20 - 18) * 7),
    ]


def test_self_time_is_never_negative(promscale, ask):
    export = Export()
    parent = export.add("shop", "buy", NOON, 10)
    for _ in range(2):
        export.add("shop", "parallel", NOON, 8, trace_id=parent.trace_id, parent_span_id=parent.span_id)
    promscale.export(export.message)
    shares = ask("downstream_shares", **ALL, service="shop", operation="buy")
    assert shares == [("shop", "parallel", 16), ("shop", "buy", 0)]


def test_downstream_time(traces, ask):
    rows = ask("downstream_time", **GENERATE)
    # Sixty steps of three minutes are three seconds each.
    assert [(row[0] - NOON).seconds for row in rows] == [9] * 7 + [39] * 7 + [123] * 7
    assert {row[1] - row[0] for row in rows} == {timedelta(seconds=3)}
    assert [row[2:] for row in rows[:3]] == [
        ("digit", "GET /", 18),
        ("digit", "render_digit", 5),
        ("generator", "GET", 35),
    ]


def test_a_child_may_start_after_the_time_range(promscale, ask):
    export = Export()
    parent = export.add("shop", "buy", NOON, 3_600_000)
    for minute in (30, 120):
        start = NOON + timedelta(minutes=minute)
        export.add("bank", f"pay at {minute}", start, trace_id=parent.trace_id, parent_span_id=parent.span_id)
    promscale.export(export.message)
    rows = operations(ask("downstream_operations", **ALL, service="shop", operation="buy"))
    assert list(rows) == [("shop", "buy"), ("bank", "pay at 30")]


# Recursion -----------------------------------------------------------------------------------------------------------

WALKS = [name for name in STATEMENTS if name.startswith(("upstream", "downstream"))]


@pytest.fixture
def cycles(promscale):
    """Invalid data: two spans that are each other's parents, and one that is its own parent."""
    export = Export()
    one = export.add("shop", "one", NOON, span_id=b"\x01" * 8, parent_span_id=b"\x02" * 8)
    export.add("shop", "two", NOON, span_id=b"\x02" * 8, parent_span_id=b"\x01" * 8, trace_id=one.trace_id)
    export.add("shop", "itself", NOON, span_id=b"\x03" * 8, parent_span_id=b"\x03" * 8)
    promscale.export(export.message)


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("operation", ["one", "itself"])
def test_a_cycle_of_parents_terminates(cycles, ask, name, operation):
    assert ask(name, **ALL, service="shop", operation=operation)


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
def test_the_graph_of_a_cycle_of_parents(cycles, ask, direction):
    one = ALL | {"service": "shop", "operation": "one"}
    assert {row[2]: row[3] for row in ask(f"{direction}_nodes", **one)} == {"one": 1, "two": 1}
    assert calls_by_edge(ask(f"{direction}_edges", **one)) == {
        ("(shop,one)", "(shop,two)"): 1,
        ("(shop,two)", "(shop,one)"): 1,
    }


@pytest.mark.parametrize("name", ["upstream_nodes", "downstream_nodes"])
def test_an_operation_that_calls_itself(promscale, ask, name):
    export = Export()
    outer = export.add("shop", "list folder", NOON, 10)
    export.add("shop", "list folder", NOON, 5, trace_id=outer.trace_id, parent_span_id=outer.span_id)
    promscale.export(export.message)
    [(*_, calls, errors, mean_ms)] = ask(name, **ALL, service="shop", operation="list folder")
    assert (calls, errors, mean_ms) == (2, 0, 7.5)


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
def test_ids_of_operations_are_unambiguous(promscale, ask, direction):
    export = Export()
    parent = export.add("a b", "c", NOON)
    export.add("a", "b c", NOON, trace_id=parent.trace_id, parent_span_id=parent.span_id)
    promscale.export(export.message)
    chosen = {"upstream": ("a", "b c"), "downstream": ("a b", "c")}[direction]
    parameters = ALL | dict(zip(("service", "operation"), chosen, strict=True))
    ids = [row[0] for row in ask(f"{direction}_nodes", **parameters)]
    assert sorted(ids) == ['("a b",c)', '(a,"b c")']
    assert calls_by_edge(ask(f"{direction}_edges", **parameters)) == {('("a b",c)', '(a,"b c")'): 1}


@pytest.mark.parametrize("name", ["upstream_operations", "downstream_operations"])
def test_a_sample_is_limited_to_500_traces(promscale, ask, name):
    export = Export()
    for number in range(600):
        export.add("shop", "buy", NOON + timedelta(milliseconds=number))
    promscale.export(export.message)
    assert ask(name, **ALL, service="shop", operation="buy") == [("shop", "buy", 500, 0, 1, 1, 1)]


HOUR = {"time_from": NOON, "time_to": NOON + timedelta(hours=1)}
BUY = {"service": "shop", "operation": "buy"}


@pytest.fixture
def many_calls(promscale, database):
    """120,000 traces of one span: half of them evenly distributed over an hour, the others in its minute 30."""
    export = Export()
    export.add("shop", "buy", NOON)
    promscale.export(export.message)
    database.execute(
        """
        insert into _promscale.span (trace_id, span_id, start_time, duration_ms, origin_id, status_code, start_ns)
        select
            gen_random_uuid(), n, case when n % 2 = 0 then start_time + n * interval '30 milliseconds'
                else start_time + interval '30 minutes' + n * interval '0.5 milliseconds' end,
            duration_ms, origin_id, status_code, start_ns
        from _promscale.span
        cross join generate_series(1, 119999) as n
        """
    )
    database.execute(
        """
        insert into _promscale.touched_minute (minute)
        select distinct time_bucket(interval '1 minute', start_time) from span
        """
    )


@pytest.fixture
def sample(database):
    """The start times of the spans whose traces are sampled."""
    statement = """
        select start_time
        from span
        where trace_id in (select sample_traces(%(time_from)s, %(time_to)s, %(service)s, %(operation)s))
        order by start_time
    """
    return lambda **parameters: [time for (time,) in database.execute(statement, parameters)]


def test_a_sample_has_the_distribution_of_the_calls(many_calls, sample):
    times = sample(**HOUR, **BUY)
    assert len(times) == 500
    counts = Counter((time - NOON) // timedelta(minutes=1) for time in times)
    assert counts.pop(30) == pytest.approx(500 * 61 / 120, abs=1)
    assert list(counts) == [minute for minute in range(60) if minute != 30]
    assert set(counts.values()) == {4, 5}


def test_a_sample_is_limited_to_the_time_range(many_calls, sample):
    time_from, time_to = NOON + timedelta(seconds=20 * 60 + 7), NOON + timedelta(seconds=50 * 60 + 11)
    times = sample(time_from=time_from, time_to=time_to, **BUY)
    assert 490 <= len(times) <= 500
    assert time_from <= min(times) < time_from + timedelta(minutes=1)
    assert time_to - timedelta(minutes=1) <= max(times) < time_to


def test_a_sample_has_all_traces_of_a_rare_operation(many_calls, promscale, sample):
    export = Export()
    starts = [NOON + timedelta(minutes=minute, seconds=second) for minute in (5, 30, 31) for second in (1, 2, 58)]
    for start in starts:
        export.add("shop", "sell", start)
    promscale.export(export.message)
    assert sample(**HOUR, service="shop", operation="sell") == starts


def test_a_sample_is_stable(many_calls, sample, upkeep, database):
    before = sample(**HOUR, **BUY)
    upkeep.summarise(0)
    assert database.execute("select count(*) from _promscale.touched_minute").fetchone() == (0,)
    assert sample(**HOUR, **BUY) == before


# 07 ------------------------------------------------------------------------------------------------------------------


def test_which_faults_were_on(traces, ask):
    rows = ask("faults_on", time_from=NOON, time_to=NOON + timedelta(minutes=3))
    begin, switched, end = minutes(0, 1, 3)
    digit = ("digit.errors", "digit")
    assert [(*row[:2], row[2], row[4]) for row in rows] == [(begin, switched, *digit), (switched, end, *digit)]
    assert [row[3] for row in rows] == ["mild", "strong"]


def test_when_faults_were_switched(traces, ask):
    [switched] = ask("fault_changes", **ALL)
    assert switched == (*minutes(1), "digit.errors", "digit", "mild", "strong")


# Every statement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATEMENTS)
def test_summaries_do_not_change_the_result(traces, ask, upkeep, database, name):
    before = ask(name, **GENERATE)
    upkeep.summarise(0)
    assert database.execute("select count(*) from _promscale.touched_minute").fetchone() == (0,)
    assert ask(name, **GENERATE) == before


@pytest.mark.parametrize("name", STATEMENTS)
def test_an_empty_database(ask, name):
    rows = ask(name, **DIGIT)
    if name.startswith("request_rate"):
        assert {rate for *_, rate in rows} == {0}
    else:
        assert rows == []


@pytest.mark.parametrize("name", [name for name in STATEMENTS if "time_to" in STATEMENTS[name].sql])
def test_an_empty_time_range(traces, ask, name):
    assert ask(name, **GENERATE | {"time_to": NOON}) == []


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_reader_may_run_the_statement(traces, database, ask, name):
    database.execute("set role prom_reader")
    assert ask(name, **GENERATE)


@pytest.mark.parametrize("name", STATEMENTS)
def test_literals_instead_of_parameters(traces, database, ask, name):
    """Grafana's macros replace the parameters by text literals."""
    sql = STATEMENTS[name].sql
    for parameter, value in (GENERATE | SHORT).items():
        text = value if isinstance(value, str) else value.isoformat().replace("+00:00", "Z")
        sql = sql.replace(f"%({parameter})s", f"'{text}'")
    assert database.execute(sql).fetchall() == ask(name, **GENERATE)


def documented() -> dict[str, tuple[str, str]]:
    """File and columns of each statement in docs/queries.md."""
    statements = {}
    for section in (CHECKOUT / "docs" / "queries.md").read_text().split("\n## ")[1:]:
        file, _, text = section.partition("\n")
        for name, columns in re.findall(r"^\| `(\w+)` \| (`.*) \|$", text, re.MULTILINE):
            statements[name] = file, columns
    return statements


def test_docs_have_every_statement_of_a_documented_file():
    files = {name: file for name, (file, _) in documented().items()}
    assert files == {
        name: file
        for file, queries in QUERIES.items()
        for name in queries.available_queries
        if name in STATEMENTS and file in files.values()
    }


def test_docs_have_the_units_of_columns():
    table = re.findall(r"^\| `(_\w+)` \|", (CHECKOUT / "docs" / "queries.md").read_text(), re.MULTILINE)
    assert table == [unit.suffix for unit in UNITS]


@pytest.mark.parametrize("name", documented())
def test_docs_have_the_columns_of_a_statement(database, name):
    cursor = database.execute(STATEMENTS[name].sql, GENERATE | SHORT)
    types = psycopg.adapters.types
    columns = ", ".join(f"`{column.name}` {types[column.type_code].name}" for column in cursor.description)
    assert documented()[name][1] == columns


# psql ----------------------------------------------------------------------------------------------------------------


def psql(dsn: str, *arguments: str | Path) -> str:
    process = subprocess.run(
        [postgres.psql(), "-X", "-d", dsn, "-v", "ON_ERROR_STOP=1", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PAGER": "cat"},
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def row_counts(output: str) -> list[int]:
    """The number of rows of each statement that psql ran."""
    return [int(number) for number in re.findall(r"^\((\d+) rows?\)$", output, re.MULTILINE)]


def statements_of(path: Path) -> list[str]:
    return re.findall(r"^-- name: (\w+)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_psql_runs_a_file_unchanged(traffic, dsn, path):
    counts = row_counts(psql(dsn, "-f", path))
    assert len(counts) == len(statements_of(path))
    assert all(counts)


def test_psql_runs_all_files_in_one_session(traffic, dsn):
    counts = row_counts(psql(dsn, *(argument for path in FILES for argument in ("-f", path))))
    assert len(counts) == len(STATEMENTS)
    assert all(counts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_psql_accepts_parameters(traces, dsn, ask, path):
    parameters = {name: f"'{value}'" for name, value in GENERATE.items()}
    output = psql(dsn, *(f"--set={name}={value}" for name, value in parameters.items()), "-f", path)
    assert row_counts(output) == [len(ask(name, **GENERATE)) for name in statements_of(path)]


def test_psql_accepts_an_expression_as_a_time(traffic, dsn):
    path = CHECKOUT / "queries" / "03-request-durations.sql"
    for minutes_ago, expected in ((1, 0), (10, 1)):
        output = psql(dsn, "-v", f"time_from=now() - interval '{minutes_ago} minutes'", "-f", path)
        assert row_counts(output)[-1] == expected
