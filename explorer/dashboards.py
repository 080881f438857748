"""The explorer's port 3000: the dashboards of queries/dashboards.py under Grafana's own paths, and a page for SQL."""

import csv
import importlib.util
import io
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
from flask import Response, abort, jsonify, redirect, render_template, request, send_file, url_for
from psycopg import sql
from werkzeug.datastructures import MultiDict

import queries
import queries.dashboards
from explorer import charts, graph, links
from explorer.database import MAX_RESULT_BYTES, STATEMENT_SECONDS, Database, RefusedStatement, Result, message
from explorer.links import Times
from explorer.query import bad_parameter
from explorer.waterfall import cut
from explorer.web import create_app
from queries import Dashboard, Kind, Panel
from serving import beside

DATABASE = os.environ.get("EXPLORER_DB_URI", "postgresql://explorer@localhost:5999/postgres")
# A trace has a page of its own here, so that no dashboard shows one.
DASHBOARDS = tuple(
    replace(each, panels=tuple(panel for panel in each.panels if panel.kind != Kind.TRACE))
    for each in queries.dashboards.DASHBOARDS
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
STEP = "1 second"  # the shortest step of a series; the statements choose longer ones where the time is long
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
    step: str = STEP

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
    app.jinja_env.globals.update(unit=charts.unit, label=charts.label, traces_url=_traces_url, is_chart=charts.is_chart)
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
        if number >= len(dashboard.panels):
            abort(404, f"This dashboard has {len(dashboard.panels)} panels.")
        view = View.read(request.args, dashboard)
        panel = dashboard.panels[number]
        try:
            results = [database.rows(name, view._asdict()) for name in panel.statements]
            colours = {} if panel.kind == Kind.TABLE else _colours(database, results)
        except psycopg.Error as error:
            return render_template("panel_error.html", message=message(error)), 500
        columns, rows = results[0]
        if not rows:
            return render_template("panel_empty.html", dashboard=dashboard)
        times = view.time_from, view.time_to
        match panel.kind:
            case Kind.TABLE:
                cells = [_cell_links(panel, dict(zip(columns, row, strict=True)), times) for row in rows]
                return render_template("panel_table.html", panel=panel, columns=columns, rows=rows, cells=cells)
            case Kind.NODE_GRAPH:
                return render_template("panel_graph.html", panel=panel, **_graph(panel, *results, colours, times))
        return jsonify(charts.figure(panel, charts.Rows(columns, rows, colours, times)))

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
    return queries.filled(
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
        "step": f"'{STEP}'",
    }
    return {name: queries.filled(text, values) for name, text in queries.statements().items()}


def _colours(database: Database, results: Iterable[tuple[list[str], list[tuple]]]) -> dict[str, int]:
    """Of the services in these rows, the same as on the pages of traces."""
    named = [(columns.index("service_name"), rows) for columns, rows in results if "service_name" in columns]
    shown = {row[at] for at, rows in named for row in rows}
    # The colours of the demo's own are fixed; those of others depend on what services there are.
    known = [] if shown <= set(queries.SERVICES) else [name for (name,) in database.rows("services", {})[1]]
    return queries.colour_numbers([*known, *sorted(shown)])


def _cell_links(panel: Panel, row: Mapping[str, object], times: Times) -> dict[str, tuple[str, str]]:
    """Title and URL by column, of the cells of a table's row that lead somewhere: those of nothing do not."""
    found = ((link, links.path(link, row, times)) for link in panel.links if row.get(link.column))
    return {link.column: (link.title, _traces_url(path)) for link, path in found if path}


class _Node(NamedTuple):
    """What panel_graph.html shows of a node: texts, and where it and its errors lead."""

    id: str
    name: str
    title: str
    figures: str
    colour: int
    failed: float  # which part of the calls
    url: str
    failed_title: str
    failed_url: str


def _graph(
    panel: Panel,
    nodes: tuple[list[str], list[tuple]],
    edges: tuple[list[str], list[tuple]],
    colours: Mapping[str, int],
    times: Times,
) -> dict:
    """What panel_graph.html needs, from the rows of both statements."""
    nodes, edges = ([dict(zip(columns, row, strict=True)) for row in rows] for columns, rows in (nodes, edges))
    shown = {node["id"]: _node(panel, node, colours, times) for node in nodes}
    known = [edge for edge in edges if edge["source"] in shown and edge["target"] in shown]
    return {
        "nodes": shown.values(),
        "edges": [_edge(panel, edge, shown, times) for edge in known],
        "layout": graph.layout(shown, [(edge["source"], edge["target"]) for edge in known]),
        "graph": graph,
    }


def _node(panel: Panel, row: Mapping, colours: Mapping[str, int], times: Times) -> _Node:
    name = " ".join(row[column] for column in ("service_name", "span_name") if column in row)
    calls, mean = row["calls"], row["mean_ms"]
    title, url = _first_link(panel, row, times, failed=False)
    failed_title, failed_url = _first_link(panel, row, times, failed=True)
    return _Node(
        row["id"],
        name,
        f"{cut(name, 200)}: {_facts(row)}{title}",
        _number(calls) + (f" × {_number(mean)} ms" if mean is not None else ""),
        colours[row["service_name"]],
        row["errors"] / calls if calls else 0,
        url,
        f"{_count(row['errors'], 'error')}{failed_title}",
        failed_url,
    )


def _edge(panel: Panel, row: Mapping, nodes: Mapping[str, _Node], times: Times) -> graph.Edge:
    title, url = _first_link(panel, row, times, failed=False)
    caller, callee = (cut(nodes[row[end]].name, 60) for end in ("source", "target"))
    return graph.Edge(row["source"], row["target"], row["calls"], f"{caller} calls {callee}: {_facts(row)}{title}", url)


def _first_link(panel: Panel, row: Mapping, times: Times, *, failed: bool) -> tuple[str, str]:
    """The end of a title that names it, and its URL; both empty where there is none."""
    for link in panel.links:
        if link.failed == failed and (path := links.path(link, row, times)):
            return f". Click: {link.title}", _traces_url(path)
    return "", ""


def _facts(row: Mapping) -> str:
    mean = f", {_number(row['mean_ms'])} ms on average" if row["mean_ms"] is not None else ""
    return f"{_count(row['calls'], 'call')}, {_count(row['errors'], 'error')}{mean}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


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
