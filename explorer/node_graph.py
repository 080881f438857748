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


def template_values(
    panel: Panel, nodes: QueryResult, edges: QueryResult, colours: Mapping[str, int], time_range: TimeRange
) -> dict[str, Any]:
    boxes = {row["id"]: _box(panel, row, colours, time_range) for row in nodes.as_dicts()}
    # Both statements have a limit, so that an edge can be there without its nodes.
    rows = [row for row in edges.as_dicts() if row["source"] in boxes and row["target"] in boxes]
    return {"drawing": graph.draw([*boxes.values()], [_edge(panel, row, boxes, time_range) for row in rows])}


def _box(panel: Panel, row: Row, colours: Mapping[str, int], time_range: TimeRange) -> graph.Box:
    name = " ".join(row[column] for column in ("service_name", "span_name") if column in row)
    calls, mean = row["calls"], _mean(row)
    target = _target(panel, row, time_range, failed=False)
    failed_target = _target(panel, row, time_range, failed=True)
    share = row["errors"] / calls if calls else 0
    return graph.Box(
        id=row["id"],
        name=name,
        figures=number(calls) + (f" \N{MULTIPLICATION SIGN} {mean}" if mean else ""),
        title=f"{cut(name, 200)}: {_facts(row)}{target.title}",
        colour=colours[row["service_name"]],
        url=target.url,
        failures=graph.Failures(share, f"{count(row['errors'], 'error')}{failed_target.title}", failed_target.url)
        if share
        else None,
    )


def _edge(panel: Panel, row: Row, boxes: Mapping[str, graph.Box], time_range: TimeRange) -> graph.Edge:
    target = _target(panel, row, time_range, failed=False)
    caller, callee = (cut(boxes[row[end]].name, 60) for end in ("source", "target"))
    return graph.Edge(
        source=row["source"],
        target=row["target"],
        text=number(row["calls"]),
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
