"""From the rows of a node graph's two statements to what templates/panel_graph.html draws."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from explorer import graph, links
from explorer.links import TimeRange
from explorer.results import QueryResult, Row
from explorer.waterfall import cut
from explorer.web import count, number, quantity, traces_url
from queries import MILLISECONDS, Panel


class _Target(NamedTuple):
    """Where a click leads: the end of the title that says so, and the URL. Both are "" if there is no link."""

    title: str
    url: str


class _Node(NamedTuple):
    id: str
    name: str
    title: str
    calls: str
    mean: str  # duration, or "" without calls
    colour: int  # index in COLOURS
    failed: float  # share of the calls, from 0 to 1
    url: str  # "" for no link
    failed_title: str
    failed_url: str


def template_values(
    panel: Panel, nodes: QueryResult, edges: QueryResult, colours: Mapping[str, int], time_range: TimeRange
) -> dict[str, Any]:
    shown = {row["id"]: _node(panel, row, colours, time_range) for row in nodes.as_dicts()}
    # Both statements have a limit, so that an edge can be there without its nodes.
    rows = [row for row in edges.as_dicts() if row["source"] in shown and row["target"] in shown]
    return {
        "nodes": shown.values(),
        "edges": [_edge(panel, row, shown, time_range) for row in rows],
        "layout": graph.layout(shown, [(row["source"], row["target"]) for row in rows]),
        "graph": graph,
    }


def _node(panel: Panel, row: Row, colours: Mapping[str, int], time_range: TimeRange) -> _Node:
    name = " ".join(row[column] for column in ("service_name", "span_name") if column in row)
    calls = row["calls"]
    target = _target(panel, row, time_range, failed=False)
    failed_target = _target(panel, row, time_range, failed=True)
    return _Node(
        id=row["id"],
        name=name,
        title=f"{cut(name, 200)}: {_facts(row)}{target.title}",
        calls=number(calls),
        mean=_mean(row),
        colour=colours[row["service_name"]],
        failed=row["errors"] / calls if calls else 0,
        url=target.url,
        failed_title=f"{count(row['errors'], 'error')}{failed_target.title}",
        failed_url=failed_target.url,
    )


def _edge(panel: Panel, row: Row, nodes: Mapping[str, _Node], time_range: TimeRange) -> graph.Edge:
    target = _target(panel, row, time_range, failed=False)
    caller, callee = (cut(nodes[row[end]].name, 60) for end in ("source", "target"))
    return graph.Edge(
        source=row["source"],
        target=row["target"],
        calls=row["calls"],
        title=f"{caller} calls {callee}: {_facts(row)}{target.title}",
        url=target.url,
    )


def _target(panel: Panel, row: Row, time_range: TimeRange, *, failed: bool) -> _Target:
    for link in panel.links:
        if link.failed == failed and (path := links.path(link, row, time_range)):
            return _Target(f". Click: {link.title}", traces_url(path))
    return _Target("", "")


def _facts(row: Row) -> str:
    mean = _mean(row)
    return f"{count(row['calls'], 'call')}, {count(row['errors'], 'error')}" + (f", {mean} on average" if mean else "")


def _mean(row: Row) -> str:
    return "" if row["mean_ms"] is None else quantity(row["mean_ms"], MILLISECONDS)
