"""Grafana's dashboards: are they sound, and does a real database answer their SQL as their panels need it?"""

import json
import re
from datetime import timedelta
from itertools import combinations, pairwise
from pathlib import Path

import psycopg
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import builder
from tests.panels import DASHBOARDS, FILES, HOME
from tests.panels.source import NUMBERS, Answer, filled_in
from tests.store.known_traces import ALL, GENERATE, NOON, Export

CHECKOUT = Path(__file__).parents[2]
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['id']}") for name, found in DASHBOARDS.items() for panel in found["panels"]
]
SQL_PANELS = [param for param in PANELS if param.values[0]["type"] not in ("text", "traces")]
VARIABLES = {
    (name, variable["name"]): variable
    for name, found in DASHBOARDS.items()
    for variable in found["templating"]["list"]
    if variable["type"] == "query"
}

# The JSON -----------------------------------------------------------------------------------------------------------


def test_the_files_are_up_to_date(database):
    files = builder.files(builder.described(database))
    assert {path: path.read_text() for path in FILES} == files, "run python -m grafana.builder"


def test_public_links_work():
    """Of an address /d/<uid>/<slug>, Grafana makes the slug from the title."""
    slugs = {
        found["uid"]: re.sub(r"\W+", "-", found["title"].lower()) for name, found in DASHBOARDS.items() if name != HOME
    }
    assert slugs == {
        "QoZDH91nk": "01-request-rate",
        "CiE9l917z": "02-error-rates",
        "GkrS6rJ7z": "03-request-durations",
        "scyq99J7k": "04-service-dependencies",
        "lyIow61nz": "05-upstream-spans",
        "SdzI3eJnk": "06-downstream-spans",
    }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_library_reads_what_it_wrote(name):
    register_default_plugins()
    read = json.dumps(Dashboard.from_json(DASHBOARDS[name]), cls=JSONEncoder)
    # It adds a kind's own settings where there are none.
    assert json.loads(re.sub('(, )?"custom": {}', "", read)) == DASHBOARDS[name]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_places_and_ids_of_their_own(name):
    panels = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["x"], p["x"] + p["w"], p["y"], p["y"] + p["h"]) for p in (panel["gridPos"] for panel in panels)]
    assert all(0 <= left < right <= 24 and 0 <= top < bottom for left, right, top, bottom in places)
    for one, other in combinations(places, 2):
        beside = one[1] <= other[0] or other[1] <= one[0]
        assert beside or one[3] <= other[2] or other[3] <= one[2]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_data_sources_are_provisioned(name):
    provisioned = (CHECKOUT / "grafana" / "provisioning" / "datasources" / "datasources.yaml").read_text()
    sources = zip(
        re.findall(r"^    type: (.+)$", provisioned, re.MULTILINE),
        re.findall(r"^    uid: (.+)$", provisioned, re.MULTILINE),
        strict=True,
    )
    used = re.findall(r'"type": "([^"]+)",\s*"uid": "([^"]+)"', json.dumps(DASHBOARDS[name]))
    assert used
    assert set(used) <= set(sources)


# The SQL ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def grafana(dsn):
    """A connection to the database of `dsn` as the role that Grafana's data source has."""
    with psycopg.connect(dsn, user="trace_viewer", autocommit=True) as connection:
        yield connection


@pytest.fixture
def ask(grafana):
    """Ask what a panel or a variable asks; returns an Answer for each of its queries, by refId and format."""

    def ask_panel(panel: dict, **parameters) -> dict[tuple[str, str], Answer]:
        return {
            (target["refId"], target["format"]): Answer(grafana.execute(filled_in(target["rawSql"], **parameters)))
            for target in panel["targets"]
        }

    return ask_panel


def overridden(panel: dict) -> set[str]:
    """The columns that a panel says something about, by name."""
    matchers = [override["matcher"] for override in panel["fieldConfig"]["overrides"]]
    return {matcher["options"] for matcher in matchers if matcher["id"] == "byName"}


def check_series(panel, answers):
    answer = answers["A", "time_series"]
    assert answer.types["time"] == "timestamptz"
    numbers, texts = answer.names("float8"), answer.names("text")
    assert {"time", *numbers, *texts} == set(answer.types)
    # Grafana refuses to make a series of each text's rows that are not in the order of time.
    times = answer.column("time")
    assert times == sorted(times)
    if not texts:
        assert numbers[0] == builder.END
        assert set(numbers) == overridden(panel)
        assert all(end > time.timestamp() * 1000 for time, end in zip(times, answer.column(builder.END), strict=True))
        return
    [number] = numbers
    keys = list(zip(times, *map(answer.column, texts), strict=True))
    assert len(set(keys)) == len(keys)
    # Each time has its end, as a series of a name of its own.
    ends = {
        time: end
        for (time, *names), end in zip(keys, answer.column(number), strict=True)
        if set(names) == {builder.END}
    }
    assert set(ends) == set(times)
    assert all(end > time.timestamp() * 1000 for time, end in ends.items())


def check_pie(panel, answers):
    answer = answers["A", "time_series"]
    numbers, texts = answer.names(*NUMBERS), answer.names("text")
    assert {"time", *texts, *numbers} == set(answer.types)
    assert len(numbers) == 1
    assert len(set(answer.column("time"))) == 1
    names = list(zip(*map(answer.column, texts), strict=True))
    assert len(set(names)) == len(names)


def check_heatmap(panel, answers):
    answer = answers["A", "time_series"]
    bounds = {"duration_from_ms": "text", "duration_to_ms": "text"}
    assert answer.types == {"time": "timestamptz", **bounds, "requests": "int8"}
    times, buckets = answer.column("time"), list(zip(*map(answer.column, bounds), strict=True))
    assert times == sorted(times)
    # A row of cells for each bucket, in the order of their bounds though they are sorted as texts, and no gaps.
    in_order = sorted(set(buckets))
    assert in_order == sorted(in_order, key=lambda bucket: float(bucket[0]))
    assert all(before[1] == after[0] for before, after in pairwise(in_order))
    assert len(answer.rows) == len(set(times)) * len(in_order) == len(set(zip(times, buckets, strict=True)))


def check_histogram(panel, answers):
    answer = answers["A", "table"]
    assert list(answer.types)[:2] == ["xMin", "xMax"]
    assert set(answer.names(*NUMBERS)) == set(answer.types)
    assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(answer.rows))


def check_table(panel, answers):
    answer = answers["A", "table"]
    assert overridden(panel) == set(answer.types)
    assert set(answer.names("text", "timestamptz", *NUMBERS)) == set(answer.types)


def check_node_graph(panel, answers):
    nodes, edges = answers["A", "table"], answers["B", "table"]
    # Grafana takes the frame that has a `source` for the edges.
    stats = {"id": "text", "mainstat": "text", "secondarystat": "float8", "detail__errors": "text"}
    assert (stats | {"title": "text", "arc__failed": "float8", "arc__good": "float8"}).items() <= nodes.types.items()
    assert (stats | {"source": "text", "target": "text"}).items() <= edges.types.items()
    assert "source" not in nodes.types
    ids = nodes.column("id")
    assert len(set(ids)) == len(ids)
    assert len(set(edges.column("id"))) == len(edges.rows)
    # It breaks on an edge without a node.
    assert {*edges.column("source"), *edges.column("target")} <= set(ids)
    shares = zip(nodes.column("arc__failed"), nodes.column("arc__good"), strict=True)
    assert {failed + good for failed, good in shares if failed is not None} == {1}
    assert all(re.fullmatch(r"\d+ calls", stat) for stat in nodes.column("mainstat") + edges.column("mainstat"))


def check_stat(panel, answers):
    answer = answers["A", "table"]
    [column] = overridden(panel)
    assert answer.types[column] in NUMBERS


CHECKS = {
    "timeseries": check_series,
    "piechart": check_pie,
    "heatmap": check_heatmap,
    "histogram": check_histogram,
    "table": check_table,
    "nodeGraph": check_node_graph,
    "stat": check_stat,
}


@pytest.mark.parametrize("panel", SQL_PANELS)
def test_a_panel_gets_what_its_kind_needs(traces, ask, panel):
    answers = ask(panel, **GENERATE)
    # The home page always shows GET / of lower.
    assert all(answer.rows for answer in answers.values())
    CHECKS[panel["type"]](panel, answers)


@pytest.mark.parametrize("panel", SQL_PANELS)
def test_a_panel_without_any_span(ask, panel):
    for answer in ask(panel, **GENERATE).values():
        numbers = [name for name in answer.names(*NUMBERS) if name != builder.END]
        assert not answer.rows or {value for name in numbers for value in answer.column(name)} == {0}


def test_heat_map_counts_each_request_once(traces, ask):
    [panel] = [panel for panel in DASHBOARDS["03-request-durations"]["panels"] if panel["type"] == "heatmap"]
    [answer] = ask(panel, **ALL).values()
    first, third = NOON + timedelta(minutes=1), NOON + timedelta(minutes=3)
    # The ends of the minutes, and the upper bounds of the buckets of 100, 200 and 400 ms.
    cells = [(time, float(duration), requests) for time, _, duration, requests in answer.rows if requests]
    assert cells == [
        (first, pytest.approx(10**2.1), 1),
        (first, pytest.approx(10**2.4), 1),
        (third, pytest.approx(10**2.7), 1),
    ]


# Variables ----------------------------------------------------------------------------------------------------------

HOSTILE = [
    "it's",
    "' or true --",
    "\\",
    "\\' or true --",
    "$1 $$ ${service} ${operation} $service",
    '"quoted"; select 1',
    "%s %(service)s :service",
]


@pytest.fixture
def hostile(promscale):
    """Spans whose services and operations have such names, each with a child, and one that none of them means."""
    export = Export()
    for name in HOSTILE:
        parent = export.add(name, name, NOON)
        export.add(name, "child", NOON, trace_id=parent.trace_id, parent_span_id=parent.span_id)
    export.add("other", "other", NOON)
    promscale.export(export.message)


@pytest.mark.parametrize("dashboard", ["05-upstream-spans", "06-downstream-spans"])
def test_a_name_is_a_value_whatever_it_holds(hostile, ask, dashboard):
    below = set() if dashboard == "05-upstream-spans" else {"child"}
    [panel] = [panel for panel in DASHBOARDS[dashboard]["panels"] if panel["type"] == "table"]
    for name in HOSTILE:
        [answer] = ask(panel, **ALL, service=name, operation=name).values()
        assert {row[:2] for row in answer.rows} == {(name, operation) for operation in {name, *below}}


def choices(grafana, dashboard: str, name: str, **variables: str) -> list[tuple]:
    sql = filled_in(VARIABLES[dashboard, name]["query"], **ALL, **variables)
    return grafana.execute(sql).fetchall()


def test_choices_of_a_hostile_service(hostile, grafana):
    for name in HOSTILE:
        found = choices(grafana, "05-upstream-spans", "operation", service=name)
        assert {operation for (operation,) in found} == {name, "child"}


@pytest.mark.parametrize("dashboard", ["05-upstream-spans", "06-downstream-spans"])
def test_variables_offer_what_there_is(traces, grafana, dashboard):
    services = [("digit",), ("generator",), ("load",), ("lower",)]
    assert choices(grafana, dashboard, "service") == services
    operations = [("GET",), ("GET /",), ("generator.generate",)]
    assert choices(grafana, dashboard, "operation", service="generator") == operations


def test_variables_offer_the_traces_of_a_table(traces, grafana):
    ids = [root.trace_id.hex() for root in traces]
    assert choices(grafana, "02-error-rates", "trace") == [(ids[2], "12:02:05 load load.request 400 ms")]
    slowest = choices(grafana, "03-request-durations", "trace")
    assert slowest == [
        (ids[2], "12:02:05 load load.request 400 ms"),
        (ids[1], "12:00:40 load load.request 200 ms"),
        (ids[0], "12:00:10 load load.request 100 ms"),
    ]


@pytest.mark.parametrize("variable", VARIABLES, ids="/".join)
def test_a_variable_always_has_a_row(grafana, variable):
    """Without a row, Grafana says "at least one field expected for variable"."""
    [row] = choices(grafana, *variable, service="lower")
    expected = {"service": ("lower",), "operation": ("GET /",), "trace": ("", "none")}
    assert row == expected[variable[1]]


# The role -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["select ps_trace.delete_all_traces()", "delete from span", "create table mine ()"])
def test_grafana_cannot_write(traces, grafana, change):
    # Not even when it takes back what its role is set to.
    grafana.execute("set default_transaction_read_only = off")
    # The second error: the view span is a join, through which nobody can write.
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        grafana.execute(change)


def test_grafanas_statements_end(grafana):
    assert grafana.execute("show statement_timeout").fetchone() == ("30s",)
    assert grafana.execute("show default_transaction_read_only").fetchone() == ("on",)
