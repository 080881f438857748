"""What each panel of Grafana's dashboards shows, found out with Grafana's own library: see tests/panels/."""

import copy
from collections.abc import Iterator
from colorsys import rgb_to_hsv
from datetime import timedelta

import psycopg
import pytest

from queries.dashboards import DASHBOARDS as DEFINITIONS
from tests.databases import new_database
from tests.panels import DASHBOARDS, source
from tests.panels import reading as panels
from tests.panels.checks import COLOUR, check_panel, visible
from tests.store.known_traces import ALL, NOON, Export, export_passwords
from tests.store.running import Promscale

# The panels with SQL, by the dashboard's name and the panel's title.
PANELS = {
    (name, panel["title"]): panel
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel.get("datasource", {}).get("type") == source.TYPE
}
VARIABLES = {
    name: {variable["name"]: variable["current"]["value"] for variable in dashboard["templating"].get("list", [])}
    for name, dashboard in DASHBOARDS.items()
}
TIME_RANGE = ALL["time_from"], ALL["time_to"]
A_YEAR_BEFORE = tuple(time - timedelta(days=365) for time in TIME_RANGE)
GREEN, RED = "#73BF69", "#F2495C"

Place = tuple[str, str]
Read = dict[Place, dict]


def of_type(*types: str) -> list[Place]:
    return [place for place, panel in PANELS.items() if panel["type"] in types]


@pytest.fixture(scope="module")
def dsn(postgres_uri, superuser_uri) -> Iterator[str]:
    with new_database(postgres_uri, superuser_uri) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def trace_ids(dsn) -> list[str]:
    """The ids of the traces of tests/store/known_traces.py, which are stored."""
    promscale = Promscale(dsn)
    roots = export_passwords(promscale)
    promscale.close()
    return [root.trace_id.hex() for root in roots]


@pytest.fixture(scope="module")
def connection(dsn, trace_ids) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, user="trace_viewer", autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def readings(connection) -> dict[str, Read]:
    """The readings of all panels, in the minutes of the traces and in a time range without traces."""
    times = {"traces": TIME_RANGE, "nothing": A_YEAR_BEFORE}
    requests = [
        panels.request(connection, panel, *time, **VARIABLES[place[0]])
        for time in times.values()
        for place, panel in PANELS.items()
    ]
    readings = iter(panels.read(requests))
    return {name: {place: next(readings) for place in PANELS} for name in times}


@pytest.fixture(scope="module")
def read(readings) -> Read:
    return readings["traces"]


def columns(reading: dict) -> dict[str, list[str]]:
    return {column["header"]: column["cells"] for column in reading["shown"]}


# All panels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PANELS, ids=": ".join)
def test_a_panel_has_names_colours_and_links(read, place):
    check_panel(PANELS[place], read[place])


EMPTY_FIGURES = {definition.title: "-" for definition in DEFINITIONS if definition.headline.aggregate == "last"} | {
    "01 Request rate": "0 req/s"
}


@pytest.mark.parametrize("place", PANELS, ids=": ".join)
def test_a_panel_without_data_says_so(readings, place):
    reading = readings["nothing"][place]
    assert "error" not in reading, reading["error"]
    if PANELS[place]["type"] == "stat":
        assert [figure["text"] for figure in reading["shown"]] == [EMPTY_FIGURES.get(place[1], "0")]
    elif place[0] == "01-request-rate":
        assert {(series["first"], series["last"]) for series in visible(reading["shown"])} == {("0 req/s", "0 req/s")}
    else:
        assert reading["empty"]


def test_the_home_page_has_the_headline_of_each_dashboard(read):
    figures = {title: read[name, title]["shown"] for name, title in of_type("stat")}
    assert set(figures) == {dashboard.title for dashboard in DEFINITIONS}
    expected = {
        "01 Request rate": "0.0167 req/s",
        "02 Error rates": "4",
        "03 Request durations": "400 ms",
        "04 Service dependencies": "12",
        "05 Upstream spans": "6",
        "06 Downstream spans": "5",
    }
    assert expected.items() <= {title: figure["text"] for title, [figure] in figures.items()}.items()


# Lines ---------------------------------------------------------------------------------------------------------------

# The first and the last value of each series.
SERIES = {
    ("02-error-rates", "Error rate over time"): {
        "digit": ("0%", "50%"),
        "generator": ("0%", "25%"),
        "load": ("0%", "50%"),
        "lower": ("0%", "0%"),
    },
    ("03-request-durations", "Duration percentiles"): {
        "p50": ("150 ms", "400 ms"),
        "p90": ("190 ms", "400 ms"),
        "p95": ("195 ms", "400 ms"),
        "p99": ("199 ms", "400 ms"),
    },
    ("06-downstream-spans", "Duration over time"): {
        "digit GET /": ("18 ms", "72 ms"),
        "digit render_digit": ("5 ms", "20 ms"),
        "lower GET": ("20 ms", "80 ms"),
        "lower GET /": ("38 ms", "152 ms"),
        "lower random_lower": ("10 ms", "40 ms"),
    },
}


@pytest.mark.parametrize("place", SERIES, ids=": ".join)
def test_series(read, place):
    assert {series["name"]: (series["first"], series["last"]) for series in visible(read[place]["shown"])} == SERIES[
        place
    ]


def test_a_minutes_request_rate(read):
    [series] = visible(read["01-request-rate", "Requests per second, by minute"]["shown"])
    assert (series["name"], series["first"], series["last"]) == ("requests", "0.0333 req/s", "0.0167 req/s")
    # The last minute, up to its last microsecond.
    begin = panels.milliseconds(NOON + timedelta(minutes=2))
    times = f"&start={begin}000&end={begin + 59_999}999"
    assert [link["url"] for link in series["links"]] == [
        f"http://localhost:16686/search?service=generator&operation=GET%20%2F&lookback=custom{times}"
    ]


# Pies, bars and the heat map -----------------------------------------------------------------------------------------


def slices(reading: dict) -> dict[str, str]:
    return {part["name"]: part["text"] for part in reading["shown"]}


def test_where_errors_begin(read):
    assert slices(read["02-error-rates", "Where errors begin"]) == {"digit": "2", "generator": "1", "load": "1"}


def test_shares_of_execution_time(read):
    assert slices(read["06-downstream-spans", "Share of execution time"]) == {
        "digit GET /": "91 ms",
        "lower random_lower": "70 ms",
        "lower GET /": "56 ms",
        "digit render_digit": "35 ms",
        "lower GET": "14 ms",
    }


# Requests of 100, 200 and 400 ms; these are the upper bounds of the buckets.
BUCKETS = ["126 ms", "158 ms", "200 ms", "251 ms", "316 ms", "398 ms", "501 ms"]


def test_histogram(read):
    bars = read["03-request-durations", "Requests by duration"]["shown"]
    assert [bar["from"] for bar in bars] == ["100 ms", *BUCKETS[:-1]]
    assert [bar["to"] for bar in bars] == BUCKETS
    assert [bar["to"] for bar in bars if bar["count"] == "1"] == ["126 ms", "251 ms", "501 ms"]


def test_heat_map(read):
    rows = read["03-request-durations", "Requests by duration, over time"]["shown"]
    assert [row["label"] for row in rows] == BUCKETS
    assert [row["label"] for row in rows if row.get("count") == "1"] == ["126 ms", "251 ms", "501 ms"]


def test_rows_of_the_heat_map_have_different_labels(dsn, connection):
    """Bounds of a second and more need decimals."""
    begin = NOON + timedelta(days=1)
    export = Export()
    for duration_ms in range(1000, 10_000, 100):
        export.add("shop", "buy", begin, duration_ms)
    promscale = Promscale(dsn)
    promscale.export(export.message)
    promscale.close()
    panel = PANELS["03-request-durations", "Requests by duration, over time"]
    time = begin, begin + timedelta(minutes=3)
    [reading] = panels.read([panels.request(connection, panel, *time, jaeger="http://jaeger")])
    labels = ["1.26 s", "1.58 s", "2.00 s", "2.51 s", "3.16 s", "3.98 s", "5.01 s", "6.31 s", "7.94 s", "10 s"]
    assert [row["label"] for row in reading["shown"]] == labels
    # The link of the last row has its bounds and the end of its minute.
    [link] = reading["shown"][-1]["links"]
    assert "minDuration=0000007943.282347ms&maxDuration=0000010000.000000ms" in link["url"]
    assert link["url"].endswith(f"end={panels.milliseconds(begin + timedelta(minutes=1))}000")


@pytest.mark.parametrize("title", ["Share of execution time", "Duration over time"])
def test_operations_have_shades_of_their_services_colour(read, title):
    for mark in visible(read["06-downstream-spans", title]["shown"]):
        distances = {
            service: hue_distance(mark["colour"], COLOUR[service]) for service in ("digit", "lower", "generator")
        }
        assert min(distances, key=lambda service: distances[service]) == mark["name"].split()[0]


def hue_distance(colour: str, other: str) -> float:
    distance = abs(hue(colour) - hue(other))
    return min(distance, 1 - distance)


def hue(colour: str) -> float:
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return rgb_to_hsv(red, green, blue)[0]


# Tables --------------------------------------------------------------------------------------------------------------

# Some columns of each table, with all rows.
TABLES = {
    ("02-error-rates", "Error rate by operation"): {
        "service name": ["digit", "generator", "load", "digit", *["generator"] * 2, "load", *["lower"] * 3],
        "calls": ["6", "3", "3", "6", "6", "3", "3", "3", "3", "3"],
        "errors": ["2", "1", "1", *["0"] * 7],
    },
    ("02-error-rates", "Where errors begin, by operation"): {
        "service name": ["digit", "generator", "load"],
        "span name": ["render_digit", "generator.generate", "load.request"],
        "errors": ["2", "1", "1"],
        "share": ["50%", "25%", "25%"],
    },
    ("03-request-durations", "Slowest traces"): {
        "start time": ["2026-01-01 12:02:05", "2026-01-01 12:00:40", "2026-01-01 12:00:10"],
        "service name": ["load"] * 3,
        "span name": ["load.request"] * 3,
        "duration": ["400 ms", "200 ms", "100 ms"],
        "status code": ["error", "unset", "unset"],
    },
    ("04-service-dependencies", "Service calls, in numbers"): {
        "caller": ["load", "generator", "generator", "lower"],
        "callee": ["generator", "lower", "digit", "digit"],
        "calls": ["3"] * 4,
        "errors": ["0"] * 4,
        "total": ["672 ms", "266 ms", "126 ms", "126 ms"],
        "mean": ["224 ms", "88.7 ms", "42 ms", "42 ms"],
    },
    ("05-upstream-spans", "Operations upstream, in numbers"): {
        "service name": ["lower", "generator", "generator", "generator", "load", "load"],
        "span name": ["GET /", "GET", "generator.generate", "GET /", "GET", "load.request"],
        "p50": ["76 ms", "80 ms", "180 ms", "192 ms", "196 ms", "200 ms"],
    },
    ("06-downstream-spans", "Operations downstream, in numbers"): {
        "service name": ["lower", "lower", "digit", "lower", "digit"],
        "span name": ["GET /", "GET", "GET /", "random_lower", "render_digit"],
        "p50": ["76 ms", "40 ms", "36 ms", "20 ms", "10 ms"],
    },
}


@pytest.mark.parametrize("place", TABLES, ids=": ".join)
def test_tables(read, place):
    assert TABLES[place].items() <= columns(read[place]).items()


def test_error_rates_have_the_colours_of_the_thresholds(read):
    shown = read["02-error-rates", "Error rate by operation"]["shown"]
    [rates] = [column for column in shown if "colours" in column]
    assert rates["cells"] == ["33.3%"] * 3 + ["0%"] * 7
    assert rates["colours"] == [RED] * 3 + [GREEN] * 7


def test_a_slow_trace_links_to_jaeger(read, trace_ids):
    table = read["03-request-durations", "Slowest traces"]
    assert columns(table)["trace id"] == trace_ids[::-1]
    [column] = [column for column in table["shown"] if column["header"] == "trace id"]
    assert [link["url"] for link in column["links"]] == [f"http://localhost:16686/trace/{trace_ids[-1]}"]


# Node graphs ---------------------------------------------------------------------------------------------------------


def test_services_and_their_calls(read):
    shown = read["04-service-dependencies", "Service calls"]["shown"]
    assert {node["title"]: node["main"] for node in shown["nodes"]} == {
        "digit": "6 calls",
        "generator": "3 calls",
        "lower": "3 calls",
        "load": "0 calls",
    }
    assert {node["title"]: node["secondary"] for node in shown["nodes"]} == {
        "digit": "42.00 ms",
        "generator": "224.00 ms",
        "lower": "88.67 ms",
        "load": "",
    }
    assert {(edge["source"], edge["target"]): edge["secondary"] for edge in shown["edges"]} == {
        ("load", "generator"): "224.00 ms",
        ("generator", "lower"): "88.67 ms",
        ("generator", "digit"): "42.00 ms",
        ("lower", "digit"): "42.00 ms",
    }


OPERATIONS = {
    ("05-upstream-spans", "Operations upstream"): {
        ("GET /", "lower"): "88.67 ms",
        ("GET", "generator"): "93.33 ms",
        ("generator.generate", "generator"): "210.00 ms",
        ("GET /", "generator"): "224.00 ms",
        ("GET", "load"): "228.67 ms",
        ("load.request", "load"): "233.33 ms",
    },
    ("06-downstream-spans", "Operations downstream"): {
        ("GET /", "lower"): "88.67 ms",
        ("GET", "lower"): "46.67 ms",
        ("GET /", "digit"): "42.00 ms",
        ("random_lower", "lower"): "23.33 ms",
        ("render_digit", "digit"): "11.67 ms",
    },
}


@pytest.mark.parametrize("place", OPERATIONS, ids=": ".join)
def test_operations(read, place):
    nodes = read[place]["shown"]["nodes"]
    assert {(node["title"], node["subtitle"]): node["secondary"] for node in nodes} == OPERATIONS[place]
    assert {node["main"] for node in nodes} == {"3 calls"}


def test_the_ring_of_a_node_shows_the_share_of_failed_calls(read):
    nodes = {node["title"]: node for node in read["06-downstream-spans", "Operations downstream"]["shown"]["nodes"]}
    failed = nodes["render_digit"]
    assert {arc["name"]: arc["value"] for arc in failed["arcs"]} == pytest.approx({"failed": 1 / 3, "good": 2 / 3})
    assert failed["details"] == [{"name": "errors", "text": "1"}]


# Mistakes in a panel are detected ------------------------------------------------------------------------------------


def with_property(connection, name: str, value: object) -> dict:
    """The reading of a table whose column of durations has this property."""
    panel = copy.deepcopy(PANELS["03-request-durations", "Slowest traces"])
    rule = {"matcher": {"id": "byName", "options": "duration_ms"}, "properties": [{"id": name, "value": value}]}
    panel["fieldConfig"]["overrides"].append(rule)
    [reading] = panels.read([panels.request(connection, panel, *TIME_RANGE, jaeger="http://jaeger")])
    return reading


@pytest.mark.parametrize("variable", ["jeager", "__data.fields.durations", "__field.labels", "jaeger:percent"])
def test_an_unknown_variable(connection, variable):
    reading = with_property(connection, "links", [{"title": "", "url": f"${{{variable}}}"}])
    assert reading["error"].startswith("Unknown ")


ROW_VARIABLES = {
    "${jaeger:raw}": "http://jaeger",
    "$jaeger": "http://jaeger",
    "${jaeger:percentencode}": "http%3A%2F%2Fjaeger",
    "${__from}": str(panels.milliseconds(ALL["time_from"])),
    "${__to}": str(panels.milliseconds(ALL["time_to"])),
    "${__value.raw}": "400",
    "${__value.text}": "400%20ms",
    "${__value.time}": str(panels.milliseconds(NOON + timedelta(seconds=125))),
    "${__data.fields.service_name}": "load",
    '${__data.fields["span name"]}': "load.request",
    "${__data.fields.duration_ms.numeric}": "400",
    "${__field.name}": "duration_ms",
}


def test_variables_of_a_row(connection):
    url = "&".join(ROW_VARIABLES)
    shown = with_property(connection, "links", [{"title": "", "url": url}])["shown"]
    [[link]] = [column["links"] for column in shown if column["header"] == "duration"]
    assert link["url"].split("&") == list(ROW_VARIABLES.values())


def test_an_unknown_property(connection):
    assert with_property(connection, "custom.unknown", 100)["ignored"] == ["custom.unknown"]


# The data source -----------------------------------------------------------------------------------------------------


def frame(connection, sql: str, query_format: str = "time_series") -> dict[str, list]:
    """The values of each field that the data source returns, by its name and the values of its labels."""
    [result] = source.frames(connection, {"targets": [{"refId": "A", "format": query_format, "rawSql": sql}]}, **ALL)
    fields = result["schema"]["fields"]
    names = [" ".join([field["name"], *field.get("labels", {}).values()]) for field in fields]
    return dict(zip(names, result["data"]["values"], strict=True))


def values(*rows: str) -> str:
    return f"select * from (values {', '.join(rows)}) as row"


def test_rows_with_a_text_become_one_series_per_text(connection):
    rows = ["(to_timestamp(1), 'b', 1)", "(to_timestamp(1), null, 2)", "(to_timestamp(2), 'b', 3)"]
    assert frame(connection, values(*rows) + " (time, name, number)") == {
        "Time": [1000, 2000],
        "number ": [2.0, None],
        "number b": [1.0, 3.0],
    }


def test_a_column_called_metric_names_the_series(connection):
    assert frame(connection, values("(to_timestamp(1), 'b', 1)") + " (time, metric, number)") == {
        "Time": [1000],
        "b": [1.0],
    }


def test_a_table_is_not_converted(connection):
    sql = values("(to_timestamp(1), 'b', 1, true)") + " (time, metric, number, yes)"
    assert frame(connection, sql, "table") == {"time": [1000], "metric": ["b"], "number": [1], "yes": [True]}


def test_an_empty_result_has_no_fields(connection):
    for query_format in ("table", "time_series"):
        assert frame(connection, "select now() as time, 1 as number limit 0", query_format) == {}


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select 'b' as name, 1 as number", "no time column found"),
        (
            values("(to_timestamp(2), 'b', 1)", "(to_timestamp(1), 'b', 1)") + " (time, name, number)",
            "long series must be sorted ascending",
        ),
    ],
)
def test_rows_that_are_not_a_time_series(connection, sql, error):
    with pytest.raises(ValueError, match=error):
        frame(connection, sql)
