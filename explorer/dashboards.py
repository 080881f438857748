"""The explorer's port 3000: the dashboards of queries/dashboards.py under Grafana's own paths, and a page for SQL."""

import csv
import importlib.util
import io
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psycopg
from flask import Response, abort, jsonify, redirect, render_template, request, send_file, url_for
from psycopg import sql
from werkzeug.datastructures import MultiDict

import queries
from explorer import charts, graph
from explorer.database import MAX_RESULT_BYTES, STATEMENT_SECONDS, Database, RefusedStatement, Result, message
from explorer.query import MAX_MICROS, bad_parameter
from explorer.waterfall import cut
from explorer.web import create_app
from queries import Dashboard, Kind, Link, Panel, colour_numbers
from queries.dashboards import DASHBOARDS
from serving import beside

DATABASE = os.environ.get("EXPLORER_DB_URI", "postgresql://explorer@localhost:5999/postgres")
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
SHOWN_ROWS = 1_000
CSV_ROWS = 100_000
# Inside of Plotly's Python package, which itself is not needed.
PLOTLY_JS = Path(importlib.util.find_spec("plotly").origin).parent / "package_data" / "plotly.min.js"
# Plotly makes two style elements, one of them empty, and writes style attributes, also where it says nothing in them.
PLOTLY_STYLES = (
    "'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    " 'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='; style-src-attr 'unsafe-inline'"
)

_AGO = re.compile(r"now(?:-(\d{1,6})([smhd]))?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_BY_UID = {dashboard.uid: dashboard for dashboard in DASHBOARDS}


class View(NamedTuple):
    """What is asked for in the URL of a dashboard: by Grafana's names, so that its URLs work here."""

    time_from: datetime
    time_to: datetime
    service: str
    operation: str
    step: str = "1 second"  # as short as the statements have them; of a long time they choose longer ones

    @property
    def micros(self) -> tuple[int, int]:
        """The range in microseconds since 1970, as a search for traces takes it."""
        found = (int(time.timestamp() * 1_000_000) for time in (self.time_from, self.time_to))
        return tuple(min(max(micros, 0), MAX_MICROS) for micros in found)

    @classmethod
    def read(cls, parameters: MultiDict, dashboard: Dashboard) -> "View":
        """Raises BadRequest that names the parameter."""
        begin, end = _time(parameters, "from", DEFAULT_RANGE), _time(parameters, "to", "now")
        if begin >= end:
            raise bad_parameter("from", "is not before to")
        if parameters.get("refresh", DEFAULT_REFRESH) not in REFRESHES:
            raise bad_parameter("refresh", f"is none of {', '.join(filter(None, REFRESHES))}")
        default = dict(dashboard.variables)
        service = parameters.get("var-service") or default.get("service", "")
        operation = parameters.get("var-operation") or default.get("operation", "")
        for name, value in (("var-service", service), ("var-operation", operation)):
            if "\0" in value:
                raise bad_parameter(name, "has a NUL, which no name has")
        return cls(begin, end, service, operation)


def _time(parameters: MultiDict, name: str, default: str) -> datetime:
    text = parameters.get(name) or default
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])} if ago[1] else {})
        if text.isascii() and text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise bad_parameter(
            name, f"{cut(text, 40)!r} is no time: write now-15m, milliseconds since 1970, or 2026-01-31T12:00:00Z"
        ) from None


def create_dashboards(uri: str):
    """The Flask app that shows the database at `uri`, where its user is a member of prom_reader and no more."""
    app = create_app("explorer.dashboards", styles=PLOTLY_STYLES)
    database = Database(uri)
    app.jinja_env.globals.update(unit=charts.unit, label=charts.label, traces_url=_traces_url, href=_href)
    app.add_template_filter(cut)
    app.add_template_filter(_number, "number")

    @app.get("/")
    def index():
        return render_template("index.html", dashboards=[(each, _headline(database, each)) for each in DASHBOARDS])

    @app.get("/plotly.js")
    def plotly_js():
        return send_file(PLOTLY_JS, max_age=86_400)

    @app.get("/d/<uid>")
    @app.get("/d/<uid>/<slug>")
    def show(uid: str, slug: str = ""):
        dashboard = _dashboard(uid)
        if slug != dashboard.slug:
            return redirect(url_for("show", uid=uid, slug=dashboard.slug, **request.args))
        view = View.read(request.args, dashboard)
        services, operations = [], []
        if dashboard.variables:
            services = [name for (name,) in database.rows("services", {})[1]]
            operations = [name for (name,) in database.rows("operations", {"service": view.service})[1]]
        return render_template(
            "dashboard.html",
            dashboard=dashboard,
            dashboards=DASHBOARDS,
            panels=shown_panels(dashboard),
            view=view,
            has_charts=any(map(charts.is_chart, dashboard.panels)),
            begin=request.args.get("from") or DEFAULT_RANGE,
            ranges=RANGES,
            refresh=request.args.get("refresh", DEFAULT_REFRESH),
            refreshes=REFRESHES,
            services=services,
            operations=operations,
            sql_of=lambda panel: "\n\n".join(_literal(name, view) for name in panel.statements),
        )

    @app.get("/d/<uid>/panels/<int:number>")
    def panel(uid: str, number: int):
        """What a panel shows: a Plotly figure as JSON, or a piece of a page."""
        dashboard = _dashboard(uid)
        panels = shown_panels(dashboard)
        if number >= len(panels):
            abort(404, f"This dashboard has {len(panels)} panels.")
        view = View.read(request.args, dashboard)
        panel = panels[number]
        try:
            results = [database.rows(name, view._asdict()) for name in panel.statements]
        except psycopg.Error as error:
            return render_template("panel_error.html", message=message(error)), 500
        columns, rows = results[0]
        if not rows:
            return render_template("panel_empty.html", dashboard=dashboard)
        if panel.kind == Kind.TABLE:
            found = [_links(panel, dict(zip(columns, row, strict=True)), view) for row in rows]
            return render_template("panel_table.html", panel=panel, columns=columns, rows=rows, links=found)
        colours = colour_numbers(name for (name,) in database.rows("services", {})[1])
        if panel.kind == Kind.NODE_GRAPH:
            page = {"panel": panel, "link": panel.links[0], "colours": colours, "view": view}
            return render_template("panel_graph.html", **page, **_graph(*results))
        return jsonify(charts.figure(panel, columns, rows, charts.View(*view.micros, colours)))

    @app.route("/sql", methods=["GET", "POST"])
    def ask():
        text = request.form.get("sql", "")
        page = {
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
            raise bad_parameter("sql", "has a NUL, which PostgreSQL does not take")
        most = CSV_ROWS if "csv" in request.form else SHOWN_ROWS
        began = time.monotonic()
        try:
            result = database.answer(text, most + 1)
            if "csv" in request.form and len(result.rows) > most:
                raise RefusedStatement(f"The result has more than {most:,} rows.")
        except RefusedStatement as error:
            return render_template("sql.html", **page, error=error.message, around=_around(error.position, text)), 400
        if "csv" in request.form:
            return _csv(result)
        page |= {"result": result._replace(rows=result.rows[:most]), "more": len(result.rows) > most}
        return render_template("sql.html", **page, milliseconds=(time.monotonic() - began) * 1000)

    return app


def _dashboard(uid: str) -> Dashboard:
    return _BY_UID.get(uid) or abort(404, f"There is no dashboard {cut(uid, 40)}.")


def shown_panels(dashboard: Dashboard) -> list[Panel]:
    """Without those of one trace, for which there is a page of its own."""
    return [panel for panel in dashboard.panels if panel.kind != Kind.TRACE]


def _links(panel: Panel, row: dict[str, object], view: View) -> dict[str, tuple[str, str]]:
    """URL and title of each link in a table's row, by its column; none from where there is nothing."""
    found = {link.column: (_href(link, row, view), link.title) for link in panel.links if row[link.column]}
    return {column: (url, title) for column, (url, title) in found.items() if url}


def _href(link: Link, row: dict[str, object], view: View) -> str:
    """Where the link of a row leads; "" is nowhere."""

    def value(column: str) -> str:
        found = row[column]
        return quote(found if isinstance(found, str) else charts.number_text(found), safe="")

    path = link.path(value, *map(str, view.micros))
    return _traces_url(path) if len(path) <= charts.LONGEST_LINK else ""


def _headline(database: Database, dashboard: Dashboard) -> str:
    headline = dashboard.headline
    columns, rows = database.rows(headline.statement, View.read(MultiDict(), dashboard)._asdict())
    if headline.of == "count":
        return f"{len(rows)}"
    values = [row[columns.index(headline.column)] for row in rows]
    if not values:
        return "-"
    return _number(values[-1] if headline.of == "last" else sum(values)) + charts.unit(headline.column)


def _literal(statement: str, view: View) -> str:
    """A statement as it can be given to psql: its parameters as literals."""
    return _filled(
        queries.statements()[statement],
        {name: sql.Literal(value).as_string() for name, value in view._asdict().items()},
    )


def _examples() -> dict[str, str]:
    """The statements of queries/, for the last 15 minutes, and the operation that is everybody's first."""
    values = {
        "time_from": "now() - interval '15 minutes'",
        "time_to": "now()",
        "service": "'lower'",
        "operation": "'GET /'",
        "step": "'1 second'",
    }
    return {name: _filled(text, values) for name, text in queries.statements().items()}


def _filled(statement: str, values: dict[str, str]) -> str:
    names = "|".join(queries.PARAMETERS)
    return re.sub(rf"(?<![:\w]):({names})\b", lambda found: values[found[1]], statement)


def _graph(nodes: tuple[list[str], list[tuple]], edges: tuple[list[str], list[tuple]]) -> dict:
    """What panel_graph.html needs: nodes and edges as mappings, and where they are."""
    nodes, edges = ([dict(zip(columns, row, strict=True)) for row in rows] for columns, rows in (nodes, edges))
    ids = [node["id"] for node in nodes]
    known = [edge for edge in edges if edge["source"] in ids and edge["target"] in ids]
    return {
        "nodes": nodes,
        "counts": [(edge["source"], edge["target"], edge["calls"]) for edge in known],
        "layout": graph.layout(ids, [(edge["source"], edge["target"]) for edge in known]),
        "graph": graph,
    }


def _number(value: object) -> str:
    """A number for people; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def _traces_url(path: str) -> str:
    return f"{beside(16686)}/{path}"


def _around(position: int | None, text: str) -> tuple[int, str, str] | None:
    """Where in the text that is: the line's number, and the line before and from there."""
    if position is None:
        return None
    begin = text.rfind("\n", 0, position) + 1
    return text.count("\n", 0, position) + 1, text[begin:position], text[position:].partition("\n")[0]


def _csv(result: Result) -> Response:
    lines = io.StringIO()
    rows = csv.writer(lines)
    rows.writerow(map(_harmless, result.columns))
    for row in result.rows:
        rows.writerow(
            value if number or value is None else _harmless(value)
            for value, number in zip(row, result.numbers, strict=True)
        )
    attachment = {"Content-Disposition": "attachment; filename=result.csv"}
    return Response(lines.getvalue(), mimetype="text/csv", headers=attachment)


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: https://owasp.org/www-community/attacks/CSV_Injection."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


app = create_dashboards(DATABASE)
