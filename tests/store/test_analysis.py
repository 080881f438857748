"""The questions of explorer/analysis on a real PostgreSQL, as a member of prom_reader."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from explorer.analysis import sample
from explorer.analysis.differences import Measure
from explorer.analysis.questions import aggregate_flame_graph, compare_traces, finding_statements, what_differs
from explorer.analysis.selection import Selection
from explorer.database import Database
from explorer.query import Query
from tests.databases import new_database
from tests.demo_traces import Fault, export, passwords
from tests.store.known_traces import ALL, NOON, PASSWORD, Export
from tests.store.running import Promscale
from tests.store.store_contents import close_all

TIME = {"time_from": NOON, "time_to": NOON + timedelta(minutes=60)}
FAULT = Fault("digit", lambda char, _: char == "5", slowness=15)
COUNT = 300
MIDDLE = NOON + timedelta(minutes=30)


@pytest.fixture(scope="module")
def made():
    """The traces of an hour: passwords of the demo, with a fault in the second half."""
    half = COUNT // 2
    good, bad = passwords(1, half, minutes=30), passwords(2, half, FAULT, minutes=30)
    return good, bad


@pytest.fixture(scope="module")
def stored(postgres_uri, superuser_uri, migrated, made):
    """A connection string to a database that has these traces."""
    good, bad = made
    with new_database(postgres_uri, superuser_uri, template=migrated) as dsn:
        promscale = Promscale(dsn)
        promscale.export(export(good, NOON))
        promscale.export(export(bad, MIDDLE))
        promscale.close()
        yield dsn


@pytest.fixture(scope="module")
def explorer(stored):
    return Database(make_conninfo(stored, user="explorer"))


@pytest.fixture
def reader(dsn):
    """The explorer's access to the database of `dsn`."""
    return Database(make_conninfo(dsn, user="explorer"))


def first(differences) -> tuple[str, str, str | None]:
    finding = differences.findings.attributes[0]
    return finding.service, finding.name, finding.value


def test_slow_spans_against_the_rest(explorer, made):
    selection = Selection(**TIME, service="digit", operation="process_digit", min_ms=60)
    found = what_differs(explorer, selection)
    assert first(found) == ("digit", "char", "5")
    finding = found.findings.attributes[0]
    slow = [
        trace
        for traces in made
        for trace in traces
        if any(span.name == "process_digit" and span.duration >= 60e6 for span in trace.spans)
    ]
    assert (found.selected.of, found.baseline.of) == (len(slow), COUNT - len(slow))
    assert finding.selected.of == len(found.selected.traces) == len(slow)
    assert finding.measure == Measure.SLOW and finding.selected.traces > 0.8 * len(slow)
    assert found.baseline.words == (
        "the other traces with a span of digit process_digit, 2026-01-01 12:00:00 to 2026-01-01 13:00:00 UTC"
    )


def test_slow_requests_of_any_service(explorer):
    found = what_differs(explorer, Selection(**TIME, root=True, min_ms=600))
    assert first(found) == ("digit", "char", "5")


def test_a_time_against_another(explorer):
    before, after = Selection(**TIME | {"time_to": MIDDLE}), Selection(**TIME | {"time_from": MIDDLE})
    found = what_differs(explorer, after, before)
    assert first(found) == ("digit", "char", "5")
    assert found.findings.operations[0].name == "process_digit"
    assert (found.selected.of, found.baseline.of) == (COUNT // 2, COUNT // 2)
    assert found.baseline.words == "traces, 2026-01-01 12:00:00 to 2026-01-01 12:30:00 UTC"


def test_the_sql_of_a_finding_counts_it_in_all_traces(explorer, stored, made):
    selection = Selection(**TIME, root=True, min_ms=600)
    for findings in what_differs(explorer, selection).findings:
        [statement] = finding_statements(findings[0], selection)
        with psycopg.connect(stored, user="explorer") as connection:
            counts = connection.execute(statement).fetchall()
        assert [side for side, *_ in counts] == ["selection", "rest"]
        assert sum(traces for _, traces, *_ in counts) == COUNT
    slow_five = Selection(**TIME, service="digit", operation="process_digit", min_ms=60, tags={"char": "5"})
    expected = [
        trace
        for traces in made
        for trace in traces
        if any(s.name == "process_digit" and s.duration >= 60e6 and s.tags["char"] == "5" for s in trace.spans)
    ]
    assert sample.read_sample(explorer, slow_five).of == len(expected)


def test_a_selection_is_what_the_same_search_finds(promscale, reader):
    export_message = Export()
    roots = [
        export_message.add_trace(PASSWORD, NOON + timedelta(seconds=10)),
        export_message.add_trace(PASSWORD, NOON + timedelta(seconds=40), slowness=2),
        export_message.add_trace(PASSWORD, NOON + timedelta(seconds=125), slowness=4, failed=("render_digit",)),
    ]
    promscale.export(export_message.message)
    begin, end = (round(time.timestamp()) * 10**9 for time in ALL.values())
    every = Query("", "", {}, begin, end, None, None, 20)

    def found(**conditions) -> set[str]:
        selection = Selection.of_query(every._replace(**conditions))
        return {trace.id for trace in sample.read_sample(reader, selection).traces}

    ids = [root.trace_id.hex() for root in roots]
    assert found() == set(ids)
    assert found(tags={"error": "true"}) == {ids[2]}
    assert found(service="load", operation="load.request", min_duration=200 * 10**6) == {ids[1], ids[2]}
    assert found(service="load", max_duration=100 * 10**6) == {ids[0]}
    assert found(end=begin + 10 * 10**9) == {ids[0]}  # a search includes its end
    assert found(service="lower", tags={"service.name": "lower"}) == set(ids)
    assert found(service="lower", tags={"service.name": "upper"}) == set()


def test_spans_are_read_exactly(promscale, reader):
    """Nanoseconds, attributes of each type, children in another partition, and a span that ends before it starts."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    message = Export()
    tags = {"text": "a", "number": 2, "half": 0.5, "yes": True, "list": [1, "b"]}
    root = message.add("shop", "buy", hour - timedelta(milliseconds=1), 10, tags=tags)
    message.add("shop", "pay", hour, 3, trace_id=root.trace_id, parent_span_id=root.span_id, failed=True)
    message.add("shop", "back", hour, -3, trace_id=root.trace_id, parent_span_id=root.span_id)
    promscale.export(message.message)
    [trace] = sample.read_trace(reader, root.trace_id.hex()).traces
    assert {span.name: (span.duration, span.self_time, span.failed) for span in trace.spans} == {
        "buy": (10_000_000, 7_000_000, False),
        "pay": (3_000_000, 3_000_000, True),
        "back": (0, 0, False),
    }
    assert [span.name for span in trace.roots] == ["buy"]
    assert trace.roots[0].tags == tags
    assert trace.roots[0].resource_tags == {"service.name": "shop"}
    assert sample.read_trace(reader, "00" * 15 + "01").traces == []


@pytest.mark.parametrize("closed", [False, True])
def test_attributes_in_open_and_closed_partitions(promscale, reader, upkeep, database, closed):
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    message = Export()
    roots = [
        message.add("shop", "buy", hour, tags={"colour": "red" if number % 2 else "blue", "number": number // 2})
        for number in range(40)
    ]
    promscale.export(message.message)
    if closed:
        close_all(upkeep, database)
    hours = {"time_from": hour, "time_to": hour + timedelta(hours=1)}

    def found(**tags) -> set[str]:
        return {trace.id for trace in sample.read_sample(reader, Selection(**hours, tags=tags)).traces}

    assert found(colour="red") == {root.trace_id.hex() for root in roots[1::2]}
    assert found(colour="red", number="3") == {roots[7].trace_id.hex()}
    assert found(colour="green") == set()
    red, blue = Selection(**hours, tags={"colour": "red"}), Selection(**hours, tags={"colour": "blue"})
    assert [len(side.traces) for side in what_differs(reader, red)[:2]] == [20, 20]
    assert what_differs(reader, red, blue).findings == ([], [], [])


def test_samples_are_limited_and_stable(explorer, monkeypatch):
    monkeypatch.setattr(sample, "MAX_TRACES", 20)
    every = Selection(**TIME)
    one = sample.read_sample(explorer, every)
    assert (len(one.traces), one.of) == (20, COUNT)
    assert [trace.id for trace in sample.read_sample(explorer, every).traces] == [trace.id for trace in one.traces]
    # A narrower selection keeps those that it has.
    hour = sample.read_sample(explorer, replace(every, time_to=MIDDLE))
    assert {trace.id for trace in hour.traces} & {trace.id for trace in one.traces}
    monkeypatch.setattr(sample, "MAX_TRACE_SPANS", 3)
    assert {len(trace.spans) for trace in sample.read_sample(explorer, every).traces} == {3}


def test_the_operation_with_a_fault_has_the_largest_difference(explorer):
    before, after = Selection(**TIME | {"time_to": MIDDLE}), Selection(**TIME | {"time_from": MIDDLE})
    compared = compare_traces(explorer, after, baseline=before)
    largest = max(compared.paths, key=lambda row: row.self_difference)
    assert largest.path[0] == ("load", "load.request")
    assert largest.path[-1] == ("digit", "process_digit")
    assert largest.second.self_p95_ms > 2 * largest.first.self_p95_ms
    assert compared.paths[0].first.traces == len(compared.baseline.traces) == COUNT // 2


def test_two_traces_are_compared(explorer, made):
    one, other = made[0][0], made[1][0]
    compared = compare_traces(explorer, other.id, baseline=one.id)
    [root] = [row for row in compared.paths if len(row.path) == 1]
    assert root.path == (("load", "load.request"),)
    # The stored durations are exact to the nanosecond.
    assert root.first.median_ms == pytest.approx(one.roots[0].duration / 1e6, abs=1e-6)
    assert root.second.median_ms == pytest.approx(other.roots[0].duration / 1e6, abs=1e-6)
    assert sum(row.first.spans for row in compared.paths) == len(one.spans)


def test_a_flame_graph_has_all_time_of_the_sample(explorer):
    graph = aggregate_flame_graph(explorer, Selection(**TIME, service="load"))
    [root] = graph.roots
    assert (root.operation, root.spans) == (("load", "load.request"), COUNT)
    # Starts have microseconds only, so that children may seem to overlap by that much.
    durations = sum(trace.roots[0].duration for trace in graph.sample.traces) / 1e6
    assert root.total_ms == pytest.approx(durations, rel=1e-4)
