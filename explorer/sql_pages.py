"""The page /sql of port 3000: runs a statement that only reads, and shows its result, or returns it as CSV or JSON.

The statement is in the URL, so that each query can be shared, and in a form if it is too long for that.
"""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, abort, jsonify, render_template, request
from werkzeug.wrappers import Response as BaseResponse

import queries
from explorer import charts, formats, tables
from explorer.charts import Chart, ChartData, Screen
from explorer.database import (
    MAX_RESULT_BYTES,
    STATEMENT_SECONDS,
    Database,
    RefusedStatement,
    error_line,
)
from explorer.query import bad_parameter
from explorer.results import TextResult
from explorer.schema import read_views
from explorer.time_series import time_series
from explorer.web import MAX_SQL_URL
from queries import Kind, Panel
from queries.dashboards import DASHBOARDS

SHOWN_ROWS = 1_000
FILE_ROWS = 100_000
# The widths for which a chart is drawn, in pixels: sql.css shows the one that fits. PostgreSQL's texts are in UTC.
CHART_WIDTHS = {"narrow": 300, "medium": 720, "wide": 1_100}
_ZONE = ZoneInfo("UTC")
_MIMETYPES = {"csv": "text/csv", "json": "application/json"}
_FIRST_SENTENCE = re.compile(r".*?[.?](?=\s|$)", re.DOTALL)
# The last 15 minutes, and an operation that every service has.
_EXAMPLE_VALUES = {
    "time_from": "now() - interval '15 minutes'",
    "time_to": "now()",
    "service": "'lower'",
    "operation": "'GET /'",
    "step": f"'{queries.SHORTEST_STEP}'",
}


class Example(NamedTuple):
    name: str  # of the statement in queries/
    description: str
    sql: str


class TimeChart(NamedTuple):
    title: str
    charts: dict[str, Chart]  # by the name of their width
    is_reduced: bool  # it shows the greatest of several values


def sql_pages(database: Database) -> Blueprint:
    """The page /sql and the files /sql.csv and /sql.json."""
    pages = Blueprint("sql", __name__)
    pages.before_request(refuse_other_sites)

    @pages.route("/sql", methods=["GET", "POST"])
    def show() -> str | BaseResponse:
        if "csv" in request.form:
            return download("csv")
        text = request.values.get("sql", "")
        if not text.strip():
            return _page(database, text)
        began = time.monotonic()
        try:
            result = database.run_user_statement(statement(text), SHOWN_ROWS + 1)
        except RefusedStatement as error:
            return _refusal(database, text, error)
        return _page(database, text, **shown(database, result, time.monotonic() - began))

    @pages.route("/sql.<any(csv, json):notation>", methods=["GET", "POST"])
    def download(notation: str) -> BaseResponse:
        """The whole result, or an error: a file is never truncated."""
        text = request.values.get("sql", "")
        try:
            result = database.run_user_statement(statement(text), FILE_ROWS + 1)
            if len(result.rows) > FILE_ROWS:
                raise RefusedStatement(f"The result has more than {FILE_ROWS:,} rows.")
            content = formats.csv_text(result) if notation == "csv" else formats.json_text(result)
        except RefusedStatement as error:
            return _refusal(database, text, error)
        attachment = {"Content-Disposition": f"attachment; filename=result.{notation}"}
        return Response(content, mimetype=_MIMETYPES[notation], headers=attachment)

    return pages


def refuse_other_sites() -> None:
    """A page of another site may link to a statement, but not run one for an image, a frame or a script of its own."""
    headers = request.headers
    is_followed_link = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
    if "sql" in request.args and headers.get("Sec-Fetch-Site") == "cross-site" and not is_followed_link:
        abort(403, "Pages of other sites may link to a statement, but not run it.")


def statement(text: str) -> str:
    """The statement of a request, which PostgreSQL can read as a text. Raises BadRequest."""
    if "\0" in text:
        raise bad_parameter("sql", "contains a NUL character, which PostgreSQL does not accept")
    return text


def shown(database: Database, result: TextResult, seconds: float | None = None) -> dict[str, object]:
    """What sql_result.html shows of a result of up to SHOWN_ROWS + 1 rows, which took so long. Raises psycopg.Error."""
    rows = result._replace(rows=result.rows[:SHOWN_ROWS])
    return {
        "table": tables.text_table(rows),
        "is_complete": len(result.rows) <= SHOWN_ROWS,
        "limit": SHOWN_ROWS,
        "milliseconds": None if seconds is None else seconds * 1000,
        "charts": list(_charts(database, rows)),
    }


def refused(text: str, error: RefusedStatement) -> dict[str, object]:
    """What sql_result.html shows of a statement that was refused."""
    return {"error": error.message, "place": error_line(error.position, text)}


def _page(database: Database, sql: str, **content: object) -> str:
    return render_template(
        "sql.html",
        sql=sql,
        examples=_examples(),
        views=read_views(database),
        file_limit=FILE_ROWS,
        seconds=STATEMENT_SECONDS,
        mebibytes=MAX_RESULT_BYTES // 2**20,
        max_url=MAX_SQL_URL,
        **content,
    )


def _refusal(database: Database, text: str, error: RefusedStatement) -> Response:
    """The page with the error, or JSON for programs: only browsers ask for HTML by its name."""
    if request.path == "/sql.json" and "text/html" not in request.accept_mimetypes.values():
        place = error_line(error.position, text)
        answer = jsonify(error=error.message, line=place[0] if place else None)
    else:
        answer = Response(_page(database, text, **refused(text, error)), mimetype="text/html")
    answer.status_code = 400
    return answer


def _charts(database: Database, result: TextResult) -> Iterator[TimeChart]:
    series = time_series(result)
    colours = database.colours(name for shown in series for name in shown.result.services())
    for title, rows, time_range, is_reduced in series:
        panel = Panel(title=title, description="", kind=Kind.SERIES, statements=())
        drawn = {
            name: charts.chart(panel, ChartData(rows, colours, time_range, Screen(width, _ZONE)))
            for name, width in CHART_WIDTHS.items()
        }
        yield TimeChart(title, drawn, is_reduced)


def _examples() -> dict[str, list[Example]]:
    """The statements of queries/, by the titles of the dashboards that show them."""
    titles = {name: board.title for board in DASHBOARDS for panel in board.panels for name in panel.statements}
    groups: dict[str, list[Example]] = {title: [] for title in (*(board.title for board in DASHBOARDS), "Others")}
    for name, (sql, description) in queries.statements().items():
        words = _FIRST_SENTENCE.match(description)
        example = Example(name, words[0] if words else name, queries.substitute(sql, _EXAMPLE_VALUES))
        groups[titles.get(name, "Others")].append(example)
    return groups
