"""Grafana's dashboards: their JSON is valid, and a real database returns what their panels need."""

import json
import re
from datetime import timedelta
from itertools import combinations, pairwise

import psycopg
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import builder
from local import CHECKOUT
from queries.dashboards import DASHBOARDS as DEFINITIONS
from tests.panels import ALL as PROVISIONED
from tests.panels import DASHBOARDS, FILES, WORKSHOP
from tests.panels.source import NUMBERS, Result, interpolate
from tests.store.known_traces import ALL, GENERATE, NOON, Export
from workshop import exercises

PANELS = [
    pytest.param(panel, id=f"{name}-{panel['id']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
]
SQL_PANELS = [
    pytest.param(panel, id=f"{name}-{panel['id']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] not in ("text", "traces")
]
VARIABLES = {
    (name, variable["name"]): variable
    for name, dashboard in DASHBOARDS.items()
    for variable in dashboard["templating"]["list"]
    if variable["type"] == "query"
}

# The JSON ------------------------------------------------------------------------------------------------------------


def test_the_files_are_up_to_date(database):
    files = builder.files(builder.describe(database), builder.describe_answers(database))
    assert {path: path.read_text() for path in FILES} == files, "run python -m grafana.builder"


def test_slugs_are_those_that_grafana_makes_from_the_titles():
    """In a URL /d/<uid>/<slug>."""
    titles = {definition.slug: definition.title for definition in DEFINITIONS}
    assert {slug: re.sub(r"\W+", "-", title.lower()) for slug, title in titles.items()} == {
        slug: slug for slug in titles
    }


def test_public_links_work():
    slugs = {definition.uid: definition.slug for definition in DEFINITIONS}
    public_links = {
        "QoZDH91nk": "01-request-rate",
        "CiE9l917z": "02-error-rates",
        "GkrS6rJ7z": "03-request-durations",
        "scyq99J7k": "04-service-dependencies",
        "lyIow61nz": "05-upstream-spans",
        "SdzI3eJnk": "06-downstream-spans",
    }
    assert public_links.items() <= slugs.items()


@pytest.mark.parametrize("name", PROVISIONED)
def test_the_json_is_valid_for_grafanas_sdk(name):
    register_default_plugins()
    read = json.dumps(Dashboard.from_json(PROVISIONED[name]), cls=JSONEncoder)
    # The SDK adds an empty `custom` where there is none.
    content = json.loads(re.sub('(, )?"custom": {}', "", read))
    # Of the queries of annotations, the SDK knows those of Grafana's own data source only.
    for annotation, original in zip(*(annotations(board) for board in (content, PROVISIONED[name])), strict=True):
        annotation["target"] = original["target"]
    assert content == PROVISIONED[name]


def test_the_workshops_dashboards_have_each_exercise_beside_a_panel():
    assert set(WORKSHOP) == {"workshop", "workshop-answers"}
    for name, dashboard in WORKSHOP.items():
        questions, results = dashboard["panels"][::2], dashboard["panels"][1::2]
        assert [panel["title"] for panel in questions] == [f"{one.number}. {one.title}" for one in exercises()]
        assert [panel["gridPos"]["y"] for panel in questions] == [panel["gridPos"]["y"] for panel in results]
        shown = [panel["targets"][0]["rawSql"] for panel in results]
        answers = [one.answer.rstrip().rstrip(";") for one in exercises()]
        assert (shown == answers) if name == "workshop-answers" else not set(shown) & set(answers)


def annotations(dashboard: dict) -> list[dict]:
    return dashboard["annotations"].get("list", [])


@pytest.mark.parametrize("name", PROVISIONED)
def test_panels_have_unique_ids_and_do_not_overlap(name):
    panels = PROVISIONED[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["x"], p["x"] + p["w"], p["y"], p["y"] + p["h"]) for p in (panel["gridPos"] for panel in panels)]
    assert all(0 <= left < right <= 24 and 0 <= top < bottom for left, right, top, bottom in places)
    for place, other in combinations(places, 2):
        is_beside = place[1] <= other[0] or other[1] <= place[0]
        assert is_beside or place[3] <= other[2] or other[3] <= place[2]


@pytest.mark.parametrize("name", PROVISIONED)
def test_data_sources_are_provisioned(name):
    provisioned = (CHECKOUT / "grafana" / "provisioning" / "datasources" / "datasources.yaml").read_text()
    sources = zip(
        re.findall(r"^    type: (.+)$", provisioned, re.MULTILINE),
        re.findall(r"^    uid: (.+)$", provisioned, re.MULTILINE),
        strict=True,
    )
    used = re.findall(r'"type": "([^"]+)",\s*"uid": "([^"]+)"', json.dumps(PROVISIONED[name]))
    assert used
    assert set(used) <= set(sources)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.slug)
def test_a_dashboard_has_the_changes_of_faults_as_annotations(traces, grafana, definition):
    [annotation] = annotations(DASHBOARDS[definition.slug])
    target = annotation["target"]
    assert annotation["enable"] and target["format"] == "table"
    result = Result(grafana.execute(interpolate(target["rawSql"], ALL["time_from"], ALL["time_to"])))
    assert result.types == {"time": "timestamptz", "text": "text", "tags": "text"}
    assert result.rows == [(NOON + timedelta(minutes=1), "digit.errors from mild to strong", "digit")]


# The SQL -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def grafana(dsn):
    """A connection to the database of `dsn` with the role of Grafana's data source."""
    with psycopg.connect(dsn, user="trace_viewer", autocommit=True) as connection:
        yield connection


@pytest.fixture
def ask(grafana):
    """A function that runs the queries of a panel: returns their results by refId and format."""

    def ask_panel(panel: dict, **parameters) -> dict[tuple[str, str], Result]:
        return {
            (target["refId"], target["format"]): Result(grafana.execute(interpolate(target["rawSql"], **parameters)))
            for target in panel["targets"]
        }

    return ask_panel


def overridden(panel: dict) -> set[str]:
    """The columns for which a panel has an override by name."""
    matchers = [override["matcher"] for override in panel["fieldConfig"]["overrides"]]
    return {matcher["options"] for matcher in matchers if matcher["id"] == "byName"}


def check_series(panel, results):
    result = results["A", "time_series"]
    assert result.types["time"] == "timestamptz"
    numbers, texts = result.names("float8"), result.names("text")
    assert {"time", *numbers, *texts} == set(result.types)
    # Grafana reports an error for rows with texts that are not sorted by time.
    times = result.column("time")
    assert times == sorted(times)
    if not texts:
        assert numbers[0] == builder.END
        assert set(numbers) == overridden(panel)
        assert all(end > time.timestamp() * 1000 for time, end in zip(times, result.column(builder.END), strict=True))
        return
    [number] = numbers
    keys = list(zip(times, *map(result.column, texts), strict=True))
    assert len(set(keys)) == len(keys)
    # The ends of the steps are a series of their own.
    ends = {
        time: end
        for (time, *names), end in zip(keys, result.column(number), strict=True)
        if set(names) == {builder.END}
    }
    assert set(ends) == set(times)
    assert all(end > time.timestamp() * 1000 for time, end in ends.items())


def check_pie(panel, results):
    result = results["A", "time_series"]
    numbers, texts = result.names(*NUMBERS), result.names("text")
    assert {"time", *texts, *numbers} == set(result.types)
    assert len(numbers) == 1
    assert len(set(result.column("time"))) == 1
    names = list(zip(*map(result.column, texts), strict=True))
    assert len(set(names)) == len(names)


def check_heatmap(panel, results):
    result = results["A", "time_series"]
    bounds = {"duration_from_ms": "text", "duration_to_ms": "text"}
    assert result.types == {"time": "timestamptz", **bounds, "requests": "int8"}
    times, buckets = result.column("time"), list(zip(*map(result.column, bounds), strict=True))
    assert times == sorted(times)
    # One series per bucket without gaps; sorting the bounds as texts sorts them as numbers, too.
    in_order = sorted(set(buckets))
    assert in_order == sorted(in_order, key=lambda bucket: float(bucket[0]))
    assert all(before[1] == after[0] for before, after in pairwise(in_order))
    assert len(result.rows) == len(set(times)) * len(in_order) == len(set(zip(times, buckets, strict=True)))


def check_histogram(panel, results):
    result = results["A", "table"]
    assert list(result.types)[:2] == ["xMin", "xMax"]
    assert set(result.names(*NUMBERS)) == set(result.types)
    assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(result.rows))


def check_table(panel, results):
    result = results["A", "table"]
    assert overridden(panel) == set(result.types)
    assert set(result.names("text", "timestamptz", *NUMBERS)) == set(result.types)


def check_node_graph(panel, results):
    nodes, edges = results["A", "table"], results["B", "table"]
    # Grafana recognises the edges by their field `source`.
    stats = {"id": "text", "mainstat": "text", "secondarystat": "float8", "detail__errors": "text"}
    assert (stats | {"title": "text", "arc__failed": "float8", "arc__good": "float8"}).items() <= nodes.types.items()
    assert (stats | {"source": "text", "target": "text"}).items() <= edges.types.items()
    assert "source" not in nodes.types
    ids = nodes.column("id")
    assert len(set(ids)) == len(ids)
    assert len(set(edges.column("id"))) == len(edges.rows)
    # Grafana cannot draw an edge without its nodes.
    assert {*edges.column("source"), *edges.column("target")} <= set(ids)
    shares = zip(nodes.column("arc__failed"), nodes.column("arc__good"), strict=True)
    assert {failed + good for failed, good in shares if failed is not None} == {1}
    assert all(re.fullmatch(r"\d+ calls", stat) for stat in nodes.column("mainstat") + edges.column("mainstat"))


def check_stat(panel, results):
    result = results["A", "table"]
    [column] = overridden(panel)
    assert result.types[column] in NUMBERS


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
def test_a_panel_gets_the_columns_that_its_kind_needs(traces, ask, panel):
    results = ask(panel, **GENERATE)
    assert all(result.rows for result in results.values())
    CHECKS[panel["type"]](panel, results)


@pytest.mark.parametrize("panel", SQL_PANELS)
def test_a_panel_of_an_empty_database(ask, panel):
    for result in ask(panel, **GENERATE).values():
        numbers = [name for name in result.names(*NUMBERS) if name != builder.END]
        assert not result.rows or {value for name in numbers for value in result.column(name)} == {0}


def test_heat_map_counts_each_request_once(traces, ask):
    [panel] = [panel for panel in DASHBOARDS["03-request-durations"]["panels"] if panel["type"] == "heatmap"]
    [result] = ask(panel, **ALL).values()
    first, third = NOON + timedelta(minutes=1), NOON + timedelta(minutes=3)
    # Ends of minutes, and upper bounds of the buckets of 100, 200 and 400 ms.
    cells = [(time, float(duration), requests) for time, _, duration, requests in result.rows if requests]
    assert cells == [
        (first, pytest.approx(10**2.1), 1),
        (first, pytest.approx(10**2.4), 1),
        (third, pytest.approx(10**2.7), 1),
    ]


# Variables -----------------------------------------------------------------------------------------------------------

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
    """Spans with hostile names of services and operations, each with a child, and an unrelated span."""
    export = Export()
    for name in HOSTILE:
        parent = export.add(name, name, NOON)
        export.add(name, "child", NOON, trace_id=parent.trace_id, parent_span_id=parent.span_id)
    export.add("other", "other", NOON)
    promscale.export(export.message)


@pytest.mark.parametrize("dashboard", ["05-upstream-spans", "06-downstream-spans"])
def test_a_hostile_name_is_only_a_value(hostile, ask, dashboard):
    below = set() if dashboard == "05-upstream-spans" else {"child"}
    [panel] = [panel for panel in DASHBOARDS[dashboard]["panels"] if panel["type"] == "table"]
    for name in HOSTILE:
        [result] = ask(panel, **ALL, service=name, operation=name).values()
        assert {row[:2] for row in result.rows} == {(name, operation) for operation in {name, *below}}


def choices(grafana, dashboard: str, name: str, **variables: str) -> list[tuple]:
    sql = interpolate(VARIABLES[dashboard, name]["query"], ALL["time_from"], ALL["time_to"], **variables)
    return grafana.execute(sql).fetchall()


def test_choices_of_a_hostile_service(hostile, grafana):
    for name in HOSTILE:
        operations = choices(grafana, "05-upstream-spans", "operation", service=name)
        assert {operation for (operation,) in operations} == {name, "child"}


@pytest.mark.parametrize("dashboard", ["05-upstream-spans", "06-downstream-spans"])
def test_variables_offer_the_stored_services_and_operations(traces, grafana, dashboard):
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
    """Without a row, Grafana reports "at least one field expected for variable"."""
    [row] = choices(grafana, *variable, service="lower")
    expected = {"service": ("lower",), "operation": ("GET /",), "trace": ("", "none")}
    assert row == expected[variable[1]]


# The role ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["select ps_trace.delete_all_traces()", "delete from span", "create table mine ()"])
def test_grafana_cannot_write(traces, grafana, change):
    # Not even after undoing the setting of its role.
    grafana.execute("set default_transaction_read_only = off")
    # ObjectNotInPrerequisiteState: the view span is a join, which nobody can write to.
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        grafana.execute(change)


def test_grafanas_statements_have_a_timeout(grafana):
    assert grafana.execute("show statement_timeout").fetchone() == ("30s",)
    assert grafana.execute("show default_transaction_read_only").fetchone() == ("on",)
