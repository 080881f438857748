"""Grafana's dashboards and the settings of its container, without running anything."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from explorer import charts
from explorer.results import QueryResult
from grafana import builder
from local import CHECKOUT
from queries import COLOURS, SERVICES, Kind, Link, Panel, colour_numbers
from queries.dashboards import DASHBOARDS as DEFINITIONS
from tests.panels import DASHBOARDS

PANELS = [
    pytest.param(panel, id=f"{name}-{panel['id']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
]
[SERVICE] = re.findall(r"^  grafana:\n((?:    .*\n)+)", (CHECKOUT / "docker-compose.yaml").read_text(), re.MULTILINE)
SETTINGS = dict(re.findall(r'^      (GF_\w+): "?([^"# \n]+)', SERVICE, re.MULTILINE))
MOUNTS = re.findall(r"^      - ([^:\s]+):([^:\s]+)", SERVICE, re.MULTILINE)
# The kinds of panels whose figures stand for spans.
LINKED = {"timeseries", "piechart", "heatmap", "histogram", "table", "nodeGraph", "stat"}


def overrides(panel: dict, name: str) -> list[tuple[str, Any]]:
    """The fields of a panel that override the property `name`, and the values."""
    return [
        (override["matcher"]["options"], field_property["value"])
        for override in panel.get("fieldConfig", {}).get("overrides", [])
        for field_property in override["properties"]
        if field_property["id"] == name
    ]


def links(panel: dict) -> list[dict]:
    return [link for _, links in overrides(panel, "links") for link in links]


@pytest.mark.parametrize("panel", PANELS)
def test_a_node_graph_without_rows_shows_no_error(panel):
    """With these refIds, Grafana reports an error for a result without fields: it misses the field `id`."""
    assert {target["refId"] for target in panel.get("targets", [])}.isdisjoint({"nodes", "edges"})


@pytest.mark.parametrize("panel", PANELS)
def test_each_row_point_and_node_has_a_link_to_its_traces(panel):
    if panel["type"] not in LINKED:
        assert panel["type"] in ("text", "traces")
        return
    urls = [urlsplit(link["url"].replace("${jaeger:raw}", "http://jaeger")) for link in links(panel)]
    assert urls
    for url in urls:
        if panel["type"] == "stat":
            assert url.path in [f"/d/{definition.uid}/{definition.slug}" for definition in DEFINITIONS]
        elif url.path.startswith("/trace/"):
            assert url.path == "/trace/${__data.fields.trace_id:percentencode}"
        else:
            assert url.path == "/search"
            known = {"service", "operation", "tags", "minDuration", "maxDuration", "lookback", "start", "end"}
            fields = parse_qs(url.query, strict_parsing=True)
            assert {"service", "start", "end"} <= set(fields) <= known
            # Without a format, Grafana leaves "&" and "#" in a value as they are.
            values = [value for name in ("service", "operation") for value in fields.get(name, [])]
            assert all(value.endswith(":percentencode}") for value in values if "${" in value)


def test_tables_of_traces_fit_the_screen():
    """All columns, up to the trace id on the right, are visible without scrolling."""
    for name in ("02-error-rates", "03-request-durations"):
        tables = [
            panel
            for panel in DASHBOARDS[name]["panels"]
            if "trace_id" in json.dumps(panel) and panel["type"] == "table"
        ]
        assert tables
        for panel in tables:
            widths = dict(overrides(panel, "custom.width"))
            assert widths["trace_id"] >= 280
            others = len(overrides(panel, "displayName")) - len(widths)
            # The width of a small screen; columns without a width have 150 pixels.
            assert panel["gridPos"]["w"] == 24
            assert sum(widths.values()) + 150 * others < 1200


@pytest.mark.parametrize("panel", PANELS)
def test_the_heat_map_has_no_number_of_decimals(panel):
    """Without decimals, two out of three rows would have the same label."""
    if panel["type"] == "heatmap":
        assert "decimals" not in panel["options"]["yAxis"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_legend_below_a_chart_is_a_list(panel):
    legend = panel.get("options", {}).get("legend", {})
    if legend.get("showLegend"):
        assert legend["placement"] == "right" or legend["displayMode"] == "list"


@pytest.mark.parametrize("texts", [{}, {"service_name": "text"}])
def test_plain_counts_can_be_drawn_as_a_series(texts):
    panel = Panel(
        title="Calls",
        description="How many?",
        kind=Kind.SERIES,
        statements=("calls",),
        links=(Link(title="Traces", service="shop"),),
    )
    statement = builder.Statement("select 1", {"time": "time", "time_end": "time", **texts, "calls": "number"})
    drawn = json.loads(json.dumps(builder.series(panel, statement).build(), cls=JSONEncoder))
    assert "unit" not in drawn["fieldConfig"]["defaults"]
    assert re.search(r"\bcalls\b", drawn["targets"][0]["rawSql"])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    row = (begin, begin + timedelta(minutes=1), *["shop"] * len(texts), 3)
    result = QueryResult(list(statement.columns), [row])
    time_range = (begin, begin + timedelta(hours=1))
    screen = charts.Screen(800, ZoneInfo("UTC"))
    chart = ElementTree.fromstring(charts.chart(panel, charts.ChartData(result, {"shop": 6}, time_range, screen)).plot)
    [line] = chart.iterfind(".//path[@data-name]")
    assert (line.attrib["data-name"], line.attrib["d"]) == ("shop" if texts else "calls", "M0 3 0 3")
    assert (line.attrib["stroke"] == COLOURS[6]) == bool(texts)


def test_a_service_has_one_colour():
    assert len(set(COLOURS)) == len(COLOURS)
    colours = {}
    for param in PANELS:
        [panel] = param.values
        for field, colour in overrides(panel, "color"):
            [service] = [service for service in SERVICES if re.search(rf"\b{service}\b", field)]
            colours.setdefault(service, set()).add(colour["fixedColor"])
    assert colours == {service: {colour} for service, colour in zip(SERVICES, COLOURS, strict=False)}


def test_other_services_share_the_remaining_colours():
    own, every = len(SERVICES), len(COLOURS)
    numbers = colour_numbers(["shop", "generator", "bank", *(f"service-{number}" for number in range(every))])
    assert {numbers[service] for service in SERVICES} == set(range(own))
    assert [numbers["shop"], numbers["bank"], numbers["service-0"]] == [own, own + 1, own + 2]
    assert {number for service, number in numbers.items() if service not in SERVICES} == set(range(own, every))


def test_grafana_sends_nothing_to_other_hosts():
    analytics = ["REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES", "FEEDBACK_LINKS_ENABLED"]
    off = [*(f"ANALYTICS_{name}" for name in analytics), "NEWS_NEWS_FEED_ENABLED", "SNAPSHOTS_EXTERNAL_ENABLED"]
    assert {name: SETTINGS[f"GF_{name}"] for name in off} == dict.fromkeys(off, "false")
    assert SETTINGS["GF_PLUGINS_PREINSTALL_DISABLED"] == SETTINGS["GF_SECURITY_DISABLE_GRAVATAR"] == "true"


def test_responses_are_not_compressed():
    """https://github.com/grafana/grafana/issues/123017"""
    assert SETTINGS["GF_SERVER_ENABLE_GZIP"] == "false"


def test_mounts_do_not_hide_files_of_the_image():
    assert "/etc/grafana/provisioning" not in [inside for _, inside in MOUNTS]
    for outside, inside in MOUNTS:
        if outside.startswith("./"):
            assert list((CHECKOUT / outside).glob("*.*")), inside
    home = Path(SETTINGS["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    [folder] = [outside for outside, inside in MOUNTS if inside == str(home.parent)]
    assert (CHECKOUT / folder / home.name).exists()
