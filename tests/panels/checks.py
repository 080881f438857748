"""Checks of Grafana's panels that hold whatever their figures are. A `reading` is the output of panels.cjs for one."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from queries import COLOURS, SERVICES
from queries.dashboards import DASHBOARDS

COLOUR = dict(zip(SERVICES, COLOURS, strict=False))


def visible(shown: list[dict]) -> list[dict]:
    return [mark for mark in shown if not mark.get("hidden")]


def check_panel(panel: dict, reading: dict) -> None:
    """All that the panel shows has a name or a figure, and links to its traces."""
    assert "error" not in reading, (panel["title"], reading["error"])
    assert not reading["empty"], panel["title"]
    # Every option of the panel has an effect.
    assert reading["ignored"] == [], panel["title"]
    CHECKS[panel["type"]](reading["shown"])


def check_links(marks: list[dict]) -> None:
    assert marks
    for mark in marks:
        assert mark["links"], mark
        for link in mark["links"]:
            check_address(link["url"])


def check_address(url: str) -> None:
    address = urlsplit(url)
    fields = parse_qs(address.query, strict_parsing=bool(address.query))
    if not address.netloc:
        assert address.path in [f"/d/{dashboard.uid}/{dashboard.slug}" for dashboard in DASHBOARDS], url
    elif address.path != "/search":
        assert re.fullmatch("/trace/[0-9a-f]{32}", address.path), url
    else:
        assert fields["service"], url
        # Microseconds since 1970.
        assert 0 < int(fields["start"][0]) < int(fields["end"][0]), url
        for name in ("minDuration", "maxDuration"):
            assert all(re.fullmatch(r"[\d.]+ms", text) for text in fields.get(name, [])), url


def check_series(shown: list[dict]) -> None:
    series = visible(shown)
    assert [mark["name"] for mark in shown if mark["hidden"]] == ["until"]
    check_links(series)
    check_colours(series)


def check_colours(marks: list[dict]) -> None:
    """Names and colours are unique, and services have their own colours."""
    assert len({mark["name"] for mark in marks}) == len(marks)
    services = [mark for mark in marks if mark["name"] in COLOUR]
    assert all(mark["colour"] == COLOUR[mark["name"]] for mark in services), services
    if len(marks) <= len(SERVICES):
        assert len({mark["colour"] for mark in marks}) == len(marks), marks


def check_pie(shown: list[dict]) -> None:
    check_links(shown)
    check_colours(shown)


def check_heat_map(shown: list[dict]) -> None:
    check_links([row for row in shown if "count" in row])
    labels = [row["label"] for row in shown]
    assert len(set(labels)) == len(labels), labels


def check_table(shown: list[dict]) -> None:
    # Not every column has links, but at least one of them.
    check_links([column for column in shown if column["links"]])


def check_node_graph(shown: dict) -> None:
    for marks in (shown["nodes"], shown["edges"]):
        check_links(marks)
        for mark in marks:
            assert re.fullmatch(r"[\d,]+ calls", mark["main"]), mark
            assert re.fullmatch(r"\d+\.\d\d ms|", mark["secondary"]), mark
            assert [detail["name"] for detail in mark["details"]] == ["errors"]
    for node in shown["nodes"]:
        assert node["title"]
        shares = [arc["value"] for arc in node["arcs"] if arc["value"] is not None]
        assert {arc["name"]: arc["colour"] for arc in node["arcs"]} == {"failed": "red", "good": "green"}
        assert not shares or abs(sum(shares) - 1) < 1e-9, node


CHECKS: dict[str, Callable[[Any], None]] = {
    "timeseries": check_series,
    "piechart": check_pie,
    "stat": check_links,
    "table": check_table,
    "histogram": check_links,
    "heatmap": check_heat_map,
    "nodeGraph": check_node_graph,
}
