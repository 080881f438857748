"""The explorer's front page: what this is, what to try first, and how the services are now."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import aiosql
from flask import Blueprint, render_template

from explorer import node_graph
from explorer.database import Database
from explorer.links import TimeRange
from explorer.results import QueryResult, Row
from explorer.web import dashboard_url, quantity, traces_url
from frame import with_query
from queries import MILLISECONDS, PER_SECOND, PERCENT, Unit
from queries.dashboards import DASHBOARDS

MINUTES = 15
_SPARKLINE = (120, 24)  # width and height in pixels
_STATEMENTS = aiosql.from_path(Path(__file__).with_name("home.sql"), "psycopg", kwargs_only=True)
_SERVICE_MAP = next(
    panel for dashboard in DASHBOARDS for panel in dashboard.panels if panel.statements[:1] == ("service_nodes",)
)


class Figure(NamedTuple):
    """A quantity of a service: its value in the whole time range, its course, and the traces behind it."""

    text: str
    sparkline: str  # an SVG path
    url: str
    title: str


class Service(NamedTuple):
    name: str
    colour: int  # index in COLOURS
    rate: Figure
    errors: Figure
    p95: Figure


def home_page(database: Database) -> Blueprint:
    """The page /, whose part #now has the current figures."""
    pages = Blueprint("home", __name__)

    @pages.get("/")
    def home() -> str:
        end = datetime.now(UTC).replace(second=0, microsecond=0)
        times = end - timedelta(minutes=MINUTES), end
        values = {"time_from": times[0], "time_to": times[1]}
        nodes, edges = (database.query(name, values) for name in _SERVICE_MAP.statements)
        health = database.run(_STATEMENTS.service_health.sql, values)
        colours = database.colours([*nodes.values("service_name"), *health.values("service_name")])
        return render_template(
            "home.html",
            minutes=MINUTES,
            services=_services(health, colours, times),
            sparkline=_SPARKLINE,
            panel=_SERVICE_MAP,
            dashboards=DASHBOARDS,
            dashboard_url=dashboard_url,
            **node_graph.template_values(_SERVICE_MAP, nodes, edges, colours, times),
        )

    return pages


def _services(health: QueryResult, colours: dict[str, int], times: TimeRange) -> list[Service]:
    by_service = groupby(health.as_dicts(), key=lambda row: row["service_name"])
    services = [_service(name, list(rows), colours[name], times) for name, rows in by_service]
    return sorted(services, key=lambda service: service.colour)


def _service(name: str, rows: Sequence[Row], colour: int, times: TimeRange) -> Service:
    total, *others = sorted(rows, key=lambda row: (row["minute"] is not None, row["minute"]))
    minutes = {row["minute"]: row for row in others}
    # A stack that has just been started has fewer minutes.
    seconds = (times[1] - min(minutes)).total_seconds()
    course = [minutes.get(times[0] + timedelta(minutes=minute)) for minute in range(MINUTES)]

    def figure(measure: Callable[[Row], float], whole: float, unit: Unit, title: str, **search: str) -> Figure:
        values = [None if row is None else measure(row) for row in course]
        url = traces_url(with_query("search", {"service": name, "lookback": f"{MINUTES}m", **search}))
        return Figure(quantity(whole, unit), _sparkline(values), url, title)

    return Service(
        name,
        colour,
        figure(lambda row: row["calls"] / 60, total["calls"] / seconds, PER_SECOND, "Traces with this service"),
        figure(
            _error_percent,
            _error_percent(total),
            PERCENT,
            "Traces with an error in this service",
            tags='{"error":"true"}',
        ),
        figure(
            lambda row: row["p95_ms"],
            total["p95_ms"],
            MILLISECONDS,
            "Traces in which this service took longer",
            minDuration=f"{total['p95_ms']:.3f}ms",
        ),
    )


def _error_percent(row: Row) -> float:
    return float(100 * row["errors"] / row["calls"])


def _sparkline(values: Sequence[float | None]) -> str:
    """A path from left to right; gaps are bridged. Zero is at the bottom, and the highest value at the top."""
    width, height = _SPARKLINE
    highest = max((value for value in values if value), default=1)
    points = [
        f"{width * (number + 0.5) / len(values):.1f} {1 + (height - 2) * (1 - value / highest):.1f}"
        for number, value in enumerate(values)
        if value is not None
    ]
    return "M" + " ".join(points * 2 if len(points) == 1 else points) if points else ""
