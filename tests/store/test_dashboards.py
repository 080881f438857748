"""Grafana's dashboards: are they sound, and does a real database answer their SQL as their panels need it?"""

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path

import psycopg
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import builder
from tests.store.known_traces import ALL, GENERATE, NOON, Export

CHECKOUT = Path(__file__).parents[2]
FILES = sorted((CHECKOUT / "grafana" / "dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['id']}") for name, found in DASHBOARDS.items() for panel in found["panels"]
]
VARIABLES = {
    variable["name"]: variable
    for found in DASHBOARDS.values()
    for variable in found["templating"].get("list", [])
    if variable["type"] == "query"
}

NUMBERS = {"int8", "float8"}

# The JSON -----------------------------------------------------------------------------------------------------------


def test_the_files_are_up_to_date():
    assert {path: path.read_text() for path in FILES} == builder.files(), "run python -m grafana.builder"


def test_public_links_work():
    """Of an address /d/<uid>/<slug>, Grafana makes the slug from the title."""
    slugs = {found["uid"]: re.sub(r"\W+", "-", found["title"].lower()) for found in DASHBOARDS.values()}
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
    assert json.loads(read.replace(', "custom": {}', "")) == DASHBOARDS[name]


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


def test_a_slow_trace_leads_to_jaeger():
    found = DASHBOARDS["03-request-durations"]
    [link] = re.findall(r'"url": "([^"]*)"', json.dumps(found["panels"]))
    [jaeger] = [variable for variable in found["templating"]["list"] if variable["name"] == "jaeger"]
    assert link.replace("${jaeger:raw}", jaeger["query"]) == "http://localhost:16686/trace/${__value.raw}"


# The SQL ------------------------------------------------------------------------------------------------------------


def filled_in(sql: str, time_from: datetime, time_to: datetime, **variables: str) -> str:
    """The SQL that Grafana sends: first it fills in variables, and then macros, wherever it sees any.

    Rules: packages/grafana-sql/src/datasource/SqlDatasource.ts (of a variable with one value, quotes are doubled) and
    pkg/tsdb/grafana-postgresql-datasource/macros.go of its sources. KeyError for what Grafana does not know.
    """
    macros = {"__timeFrom": time_from, "__timeTo": time_to}
    sql = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]].replace("'", "''"), sql)
    return re.sub(
        r"\$([_a-zA-Z0-9]+)\(([^)]*)\)",
        lambda found: f"'{macros[found[1]].astimezone(UTC).isoformat().replace('+00:00', 'Z')}'",
        sql,
    )


class Answer:
    """The rows of a query, and the names and types of its columns."""

    def __init__(self, cursor: psycopg.Cursor) -> None:
        types = psycopg.adapters.types
        self.types = {column.name: types[column.type_code].name for column in cursor.description}
        self.rows = cursor.fetchall()

    def column(self, name: str) -> list:
        return [row[list(self.types).index(name)] for row in self.rows]

    def names(self, *types: str) -> list[str]:
        return [name for name, type_name in self.types.items() if type_name in types]


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
    overrides = panel["fieldConfig"]["overrides"]
    assert {override["matcher"]["id"] for override in overrides} <= {"byName"}
    return {override["matcher"]["options"] for override in overrides}


def check_series(panel, answers):
    answer = answers["A", "time_series"]
    name, *_ = answer.types
    assert (name, answer.types["time"]) == ("time", "timestamptz")
    numbers, texts = answer.names("float8"), answer.names("text")
    assert {"time", *numbers, *texts} == set(answer.types)
    assert numbers
    assert len(texts) <= 1
    assert set(numbers) == overridden(panel)
    # Grafana refuses to make a series of each text's rows that are not in the order of time.
    assert answer.column("time") == sorted(answer.column("time"))
    for text in texts:
        assert len(numbers) == 1
        assert f"${{__field.labels.{text}}}" in json.dumps(panel)
        assert len(set(zip(answer.column("time"), answer.column(text), strict=True))) == len(answer.rows)


def check_pie(panel, answers):
    answer = answers["A", "table"]
    [text], [number] = answer.names("text"), answer.names(*NUMBERS)
    assert {text, number} == set(answer.types)


def check_heatmap(panel, answers):
    answer = answers["A", "time_series"]
    assert answer.types == {"time": "timestamptz", "metric": "text", "requests": "int8"}
    times, metrics = answer.column("time"), answer.column("metric")
    assert times == sorted(times)
    # A row of cells for each bucket, in the order of their bounds though they are sorted as texts, and no gaps.
    assert sorted(set(metrics)) == sorted(set(metrics), key=float)
    assert len(answer.rows) == len(set(times)) * len(set(metrics)) == len(set(zip(times, metrics, strict=True)))


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
    nodes, edges = answers["nodes", "table"], answers["edges", "table"]
    # Grafana takes the frame that has a `source` for the edges.
    assert {"id": "text", "title": "text", "mainstat": "int8", "secondarystat": "float8"}.items() <= nodes.types.items()
    assert {"id": "text", "source": "text", "target": "text", "mainstat": "int8"}.items() <= edges.types.items()
    assert edges.types["secondarystat"] == "float8"
    assert "source" not in nodes.types
    ids = nodes.column("id")
    assert len(set(ids)) == len(ids)
    assert len(set(edges.column("id"))) == len(edges.rows)
    # It breaks on an edge without a node.
    assert {*edges.column("source"), *edges.column("target")} <= set(ids)


CHECKS = {
    "timeseries": check_series,
    "piechart": check_pie,
    "heatmap": check_heatmap,
    "histogram": check_histogram,
    "table": check_table,
    "nodeGraph": check_node_graph,
}


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_gets_what_its_kind_needs(traces, ask, panel):
    answers = ask(panel, **GENERATE)
    assert all(answer.rows for answer in answers.values())
    CHECKS[panel["type"]](panel, answers)


def test_panels_without_any_span(ask):
    for dashboard in DASHBOARDS.values():
        for panel in dashboard["panels"]:
            for answer in ask(panel, **GENERATE).values():
                assert {value for row in answer.rows for value in row[1:]} <= {0}


def test_heat_map_counts_each_request_once(traces, ask):
    [panel] = [panel for panel in DASHBOARDS["03-request-durations"]["panels"] if panel["type"] == "heatmap"]
    [answer] = ask(panel, **ALL).values()
    first, third = NOON + timedelta(minutes=1), NOON + timedelta(minutes=3)
    # The ends of the minutes, and the upper bounds of the buckets of 100, 200 and 400 ms.
    cells = [(time, float(metric), requests) for time, metric, requests in answer.rows if requests]
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


def test_choices_of_a_hostile_service(hostile, grafana):
    for name in HOSTILE:
        sql = filled_in(VARIABLES["operation"]["query"], **ALL, service=name)
        assert {row[0] for row in grafana.execute(sql)} == {name, "child"}


def test_variables_offer_what_there_is(traces, grafana):
    def choices(name: str, **variables) -> list[str]:
        return [row[0] for row in grafana.execute(filled_in(VARIABLES[name]["query"], **ALL, **variables))]

    assert choices("service") == ["digit", "generator", "load", "lower"]
    assert choices("operation", service="generator") == ["GET", "GET /", "generator.generate"]


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
