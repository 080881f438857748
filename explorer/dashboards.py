"""The explorer's port 3000: the dashboards of queries/dashboards.py under Grafana's paths. Other pages of this port are
blueprints."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import psycopg
from flask import Flask, abort, redirect, render_template, request, url_for
from psycopg import sql
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

import queries
import queries.dashboards
from explorer import changes, charts, links, node_graph, ranges, svg, tables
from explorer.analysis_pages import analysis_pages
from explorer.database import DATABASE_URI, Database, message
from explorer.home import home_page
from explorer.learn import learn_pages
from explorer.links import TimeRange
from explorer.query import Parameters, bad_parameter, read_int, read_time, read_zone
from explorer.sql_pages import sql_pages
from explorer.waterfall import cut
from explorer.web import create_app, quantity, traces_url
from frame import with_query
from queries import Dashboard, Kind
from queries.dashboards import REQUESTS

# Without panels of one trace, for which the explorer has a page.
DASHBOARDS = tuple(
    replace(dashboard, panels=tuple(panel for panel in dashboard.panels if panel.kind != Kind.TRACE))
    for dashboard in queries.dashboards.DASHBOARDS
)
RANGES = {
    "now-5m": "last 5 minutes",
    "now-15m": "last 15 minutes",
    "now-1h": "last hour",
    "now-6h": "last 6 hours",
    "now-24h": "last 24 hours",
}
DEFAULT_RANGE = "now-15m"
REFRESHES = {"": "off", "5s": "5 s", "10s": "10 s", "30s": "30 s"}
DEFAULT_REFRESH = "10s"
# The rows in the table below a chart, which is for those who do not see the chart: the latest.
CHART_ROWS = 60
DEFAULT_WIDTH, MIN_WIDTH, MAX_WIDTH = 800, 160, 8_000  # of a chart, in pixels

_KEPT = ("from", "to", "refresh", "var-service", "var-operation")  # by links between dashboards
_BY_UID = {dashboard.uid: dashboard for dashboard in DASHBOARDS}


class View(NamedTuple):
    """What a dashboard's URL asks for. The parameters have Grafana's names, so that Grafana's URLs work."""

    time_from: datetime
    time_to: datetime
    service: str
    operation: str
    step: str = queries.SHORTEST_STEP

    @classmethod
    def read(cls, parameters: Parameters, dashboard: Dashboard) -> "View":
        """Raises BadRequest, which names the parameter."""
        begin = read_time("from", parameters.get("from") or DEFAULT_RANGE)
        end = read_time("to", parameters.get("to") or "now")
        if begin >= end:
            raise bad_parameter("from", "is not before to")
        if parameters.get("refresh", DEFAULT_REFRESH) not in REFRESHES:
            raise bad_parameter("refresh", f"is none of {', '.join(filter(None, REFRESHES))}")
        default = dict(dashboard.variables)
        service = parameters.get("var-service") or default.get("service", "")
        operation = parameters.get("var-operation") or default.get("operation", "")
        for name, value in (("var-service", service), ("var-operation", operation)):
            if "\0" in value:
                raise bad_parameter(name, "contains a NUL character, which PostgreSQL cannot store")
        return cls(begin, end, service, operation)

    @property
    def time_range(self) -> TimeRange:
        return self.time_from, self.time_to


def _screen(parameters: Parameters) -> charts.Screen:
    """Raises BadRequest, which names the parameter."""
    width = read_int(parameters, "width", DEFAULT_WIDTH, MIN_WIDTH, MAX_WIDTH)
    return charts.Screen(width, read_zone(parameters))


def create_dashboards(uri: str) -> Flask:
    """The Flask app that shows the database at `uri`, whose user must be a member of prom_reader and no more."""
    app = create_app("explorer.dashboards")
    database = Database(uri)
    app.jinja_env.globals.update(
        traces_url=traces_url, with_query=with_query, hint=charts.hint, levels=svg.LEVELS, opacity=svg.opacity
    )
    app.add_template_filter(cut)
    app.register_blueprint(home_page(database))
    app.register_blueprint(analysis_pages(database))
    app.register_blueprint(sql_pages(database))
    app.register_blueprint(learn_pages(database))

    @app.get("/dashboards")
    def dashboard_list() -> str:
        figures = [(dashboard, _headline(database, dashboard)) for dashboard in DASHBOARDS]
        return render_template("dashboard_list.html", dashboards=figures, range=ranges.carried("/dashboards"))

    @app.get("/d/<uid>")
    @app.get("/d/<uid>/<slug>")
    def show(uid: str, slug: str = "") -> str | BaseResponse:
        dashboard = _dashboard(uid)
        if slug != dashboard.slug:
            path = url_for("show", uid=uid, slug=dashboard.slug)
            return redirect(with_query(path, request.args.to_dict(flat=False)))
        view = View.read(request.args, dashboard)
        begin, end = request.args.get("from") or DEFAULT_RANGE, request.args.get("to") or "now"
        search = _search(dashboard, view) | links.search_range(begin, end, view.time_range)
        return render_template(
            "dashboard.html",
            dashboard=dashboard,
            dashboards=DASHBOARDS,
            view=view,
            begin=begin,
            end=end,
            search=search,
            compared_url={kind: _compared_url(kind, search) for kind in ("slow", "failed")}.get,
            same_range={name: text for name, text in request.args.items() if name in _KEPT},
            ranges=RANGES if search["lookback"] == "custom" else {begin: f"last {search['lookback']}"} | RANGES,
            refresh=request.args.get("refresh", DEFAULT_REFRESH),
            refreshes=REFRESHES,
            services=database.names("services") if dashboard.variables else [],
            operations=database.names("operations", service=view.service) if dashboard.variables else [],
            sql_of=lambda panel: [_literal(name, view) for name in panel.statements],
        )

    @app.get("/d/<uid>/panels/<int:number>")
    def panel(uid: str, number: int) -> str | tuple[str, int]:
        """The content of a panel, a fragment of HTML. `width` is that of the panel in pixels, `zone` the browser's."""
        dashboard = _dashboard(uid)
        if number >= len(dashboard.panels):
            abort(404, f"This dashboard has {len(dashboard.panels)} panels.")
        view, screen = View.read(request.args, dashboard), _screen(request.args)
        panel = dashboard.panels[number]
        try:
            results = [database.query(name, view._asdict()) for name in panel.statements]
            colours = database.colours({name for result in results for name in result.services()})
        except psycopg.Error as error:
            return render_template("panel_error.html", message=message(error)), 500
        if not results[0].rows:
            return render_template("panel_empty.html", dashboard=dashboard)
        marks = changes.read(database, view.time_range) if charts.has_time_axis(panel) else []
        data = charts.ChartData(results[0], colours, view.time_range, screen, marks)
        match panel.kind, results:
            case Kind.TABLE, [rows]:
                table = tables.table(panel, rows, colours, screen.zone, view.time_range)
                return render_template("panel_table.html", panel=panel, table=table)
            case Kind.NODE_GRAPH, [nodes, edges]:
                values = node_graph.template_values(panel, nodes, edges, colours, view.time_range)
                return render_template("panel_graph.html", panel=panel, **values)
            case Kind.PIE, _:
                return render_template("panel_shares.html", panel=panel, shares=charts.shares(panel, data))
        latest = results[0]._replace(rows=results[0].rows[-CHART_ROWS:])
        return render_template(
            "panel_chart.html",
            panel=panel,
            chart=charts.chart(panel, data),
            table=tables.table(panel, latest, colours, screen.zone),
            row_count=len(results[0].rows),
        )

    return app


def _search(dashboard: Dashboard, view: View) -> dict[str, str]:
    """The parameters by which a search finds the traces of a dashboard, without their time."""
    return {"service": view.service, "operation": view.operation} if dashboard.variables else {}


def _compared_url(compared: str, search: Mapping[str, str]) -> str:
    """The URL of what differs between the slow or failed traces of a search and the others."""
    if compared == "failed":
        return with_query(
            url_for("analysis.show", name="differences"), {**search, "tags": json.dumps({"error": "true"})}
        )
    requests = {"service": REQUESTS.service, "operation": REQUESTS.operation}
    return with_query(url_for("analysis.slow"), requests | dict(search))


def _dashboard(uid: str) -> Dashboard:
    if dashboard := _BY_UID.get(uid):
        return dashboard
    abort(404, f"There is no dashboard {cut(uid, 40)}.")


def _headline(database: Database, dashboard: Dashboard) -> str:
    headline = dashboard.headline
    result = database.query(headline.statement, View.read(MultiDict(), dashboard)._asdict())
    if headline.aggregate == "count":
        return f"{len(result.rows)}"
    values = result.values(headline.column)
    if not values:
        return "-"
    return quantity(values[-1] if headline.aggregate == "last" else sum(values), queries.unit(headline.column))


def _literal(statement: str, view: View) -> str:
    """A statement for psql: its parameters are literals."""
    literals = {name: sql.Literal(value).as_string() for name, value in view._asdict().items()}
    return queries.substitute(queries.statements()[statement].sql, literals)


app = create_dashboards(DATABASE_URI)
