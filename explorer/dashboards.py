"""The explorer's port 3000: the dashboards of queries/dashboards.py under Grafana's paths, and a page for SQL."""

import csv
import io
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from flask import Flask, Response, abort, redirect, render_template, request, url_for
from psycopg import sql
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

import queries
import queries.dashboards
from explorer import charts, links, node_graph, svg, tables
from explorer.analysis_pages import analysis_pages
from explorer.database import (
    DATABASE_URI,
    MAX_RESULT_BYTES,
    STATEMENT_SECONDS,
    Database,
    RefusedStatement,
    TextResult,
    error_line,
    message,
)
from explorer.links import TimeRange
from explorer.query import Parameters, bad_parameter, read_int, read_time, read_zone
from explorer.results import QueryResult
from explorer.waterfall import cut
from explorer.web import create_app, quantity, traces_url, with_query
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
STEP = "1 second"  # the shortest step of a series; statements choose a longer one for a long time range
SHOWN_ROWS = 1_000
CSV_ROWS = 100_000
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
    step: str = STEP

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
    app.register_blueprint(analysis_pages(database))

    @app.get("/")
    def index() -> str:
        figures = [(dashboard, _headline(database, dashboard)) for dashboard in DASHBOARDS]
        return render_template("index.html", dashboards=figures)

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
            sql_of=lambda panel: "\n\n".join(_literal(name, view) for name in panel.statements),
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
            colours = _colours(database, results)
        except psycopg.Error as error:
            return render_template("panel_error.html", message=message(error)), 500
        if not results[0].rows:
            return render_template("panel_empty.html", dashboard=dashboard)
        data = charts.ChartData(results[0], colours, view.time_range, screen)
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

    @app.route("/sql", methods=["GET", "POST"])
    def sql_page() -> str | Response | tuple[str, int]:
        text = request.form.get("sql", "")
        page: dict[str, Any] = {
            "sql": text,
            "examples": _examples(),
            "limit": SHOWN_ROWS,
            "csv_limit": CSV_ROWS,
            "seconds": STATEMENT_SECONDS,
            "mebibytes": MAX_RESULT_BYTES // 2**20,
        }
        if not text.strip():
            return render_template("sql.html", **page)
        if "\0" in text:
            raise bad_parameter("sql", "contains a NUL character, which PostgreSQL does not accept")
        as_csv = "csv" in request.form
        max_rows = CSV_ROWS if as_csv else SHOWN_ROWS
        began = time.monotonic()
        try:
            result = database.run_user_statement(text, max_rows + 1)
            if as_csv and len(result.rows) > max_rows:
                raise RefusedStatement(f"The result has more than {max_rows:,} rows.")
        except RefusedStatement as error:
            place = error_line(error.position, text)
            return render_template("sql.html", **page, error=error.message, place=place), 400
        if as_csv:
            return _csv(result)
        page |= {"result": result._replace(rows=result.rows[:max_rows]), "more": len(result.rows) > max_rows}
        return render_template("sql.html", **page, milliseconds=(time.monotonic() - began) * 1000)

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
    return queries.substitute(queries.statements()[statement], literals)


def _examples() -> dict[str, str]:
    """The statements of queries/ for the last 15 minutes and an operation that every service has."""
    values = {
        "time_from": "now() - interval '15 minutes'",
        "time_to": "now()",
        "service": "'lower'",
        "operation": "'GET /'",
        "step": f"'{STEP}'",
    }
    return {name: queries.substitute(text, values) for name, text in queries.statements().items()}


def _colours(database: Database, results: Iterable[QueryResult]) -> dict[str, int]:
    """The colours of the services in these results, as indexes in COLOURS: the same as on the pages of traces."""
    columns = ((result, name) for result in results for name in queries.SERVICE_COLUMNS if name in result.columns)
    shown = {service for result, column in columns for service in result.values(column)}
    # The colours of the demo's services are fixed; those of others depend on which services there are.
    stored = [] if shown <= set(queries.SERVICES) else database.names("services")
    return queries.colour_numbers([*stored, *sorted(shown)])


def _csv(result: TextResult) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_without_formula, result.columns))
    for row in result.rows:
        writer.writerow(
            value if is_number or value is None else _without_formula(value)
            for value, is_number in zip(row, result.numbers, strict=True)
        )
    attachment = {"Content-Disposition": "attachment; filename=result.csv"}
    return Response(text.getvalue(), mimetype="text/csv", headers=attachment)


def _without_formula(text: str) -> str:
    """A text that spreadsheets do not execute as a formula: https://owasp.org/www-community/attacks/CSV_Injection"""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


app = create_dashboards(DATABASE_URI)
