"""What both of the explorer's apps share: compression, error pages, links, and the notation of numbers and times."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from flask import Flask, Response, abort, render_template, request
from flask_compress import Compress
from werkzeug.exceptions import HTTPException

from explorer import ranges
from frame import add_frame, sender, static_path, with_query
from queries import COLOURS, MILLISECONDS, PERCENT, Unit
from queries.dashboards import DASHBOARDS
from serving import beside
from telemetry.services import EXPLORER, SERVICES

# The longest URL of a statement, in bytes. All browsers and most proxies accept it; serving/ accepts four times that.
MAX_SQL_URL = 8_000
_UNITS = [("s", 10**9), ("ms", 10**6), ("µs", 10**3), ("ns", 1)]
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SERVICES_CSS = "".join(f".s{number} {{ --service: {colour}; }}\n" for number, colour in enumerate(COLOURS))
_STATIC_PATH = static_path(Path(__file__).with_name("static"), _SERVICES_CSS)
# An attack on compression (BREACH) needs a page with a secret, as a token against forged requests: there is none.
_COMPRESSED = ["text/html", "text/css", "text/javascript", "text/csv", "application/json", "image/svg+xml"]


def create_app(name: str) -> Flask:
    """A Flask app with templates/ and static/ that accepts forms from its own pages only and has HTML error pages.

    `name` is that of the app's module, as explorer.traces.
    """
    app = Flask(name, static_url_path=_STATIC_PATH)
    app.config["COMPRESS_MIMETYPES"] = _COMPRESSED
    Compress(app)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.add_template_filter(duration)
    app.add_template_filter(iso_time)
    app.add_template_filter(number)
    app.add_template_global(generator_url)
    add_frame(app, name.removeprefix("explorer."), ranges.carried)
    app.add_template_global(sql_url)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(f"{_STATIC_PATH}/services.css")
    def services_css() -> Response:
        """The colours of services as CSS classes: s0 has the first of `COLOURS`, and so on."""
        response = Response(_SERVICES_CSS, mimetype="text/css")
        response.cache_control.max_age = app.config["SEND_FILE_MAX_AGE_DEFAULT"]
        return response

    @app.before_request
    def refuse_other_origins() -> None:
        if request.method not in _SAFE_METHODS and sender() != "own page":
            own = f"{request.scheme}://{request.host}"
            abort(
                403, f"Only a page of {own} may send this. Programs other than browsers send the header Origin: {own}"
            )

    @app.errorhandler(HTTPException)
    def error_page(error: HTTPException) -> HTTPException | tuple[str, int]:
        if error.code is None or error.code < 400:
            return error
        return render_template("error.html", error=error), error.code

    return app


def traces_url(path: str) -> str:
    """The URL of a path on the pages of traces, for the host by which this request's page is shown."""
    return f"{beside(EXPLORER['traces'])}/{path}"


def analysis_url(name: str) -> str:
    """The URL of an analysis of the traces that this request's parameters choose."""
    return with_query(f"{beside(EXPLORER['dashboards'])}/analysis/{name}", request.args.to_dict(flat=False))


def dashboard_url(slug: str) -> str:
    """The URL of a dashboard, for the host by which this request's page is shown."""
    [uid] = [dashboard.uid for dashboard in DASHBOARDS if dashboard.slug == slug]
    return f"{beside(EXPLORER['dashboards'])}/d/{uid}/{slug}"


def sql_url(statement: str = "") -> str:
    """The URL of the SQL page, with a statement if there is one, for the host by which this request's page is shown.

    It is "" if it would be longer than MAX_SQL_URL.
    """
    url = with_query(f"{beside(EXPLORER['dashboards'])}/sql", {"sql": statement} if statement else {})
    return url if len(url) <= MAX_SQL_URL else ""


def generator_url() -> str:
    """The generator's URL, for the host by which this request's page is shown."""
    return f"{beside(SERVICES['generator'])}/"


def duration(nanos: int) -> str:
    """Three digits and a unit, as in static/units.js."""
    if not nanos:
        return "0"
    # 999,600 ns are rounded to 1 ms, not to 1,000 µs.
    unit, size = next((unit, size) for unit, size in _UNITS if nanos >= 0.9995 * size)
    amount = float(f"{nanos / size:.3g}")
    return f"{amount:,.0f} {unit}" if amount >= 100 or amount == int(amount) else f"{amount:g} {unit}"


def clock(time: datetime, zone: tzinfo) -> str:
    """A time to the second, as in static/charts.js. Times that the zone's calendar does not reach are in UTC."""
    with suppress(OverflowError):  # less than a day from the begin or the end of Python's calendar
        time = time.astimezone(zone)
    return f"{time:%Y-%m-%d %H:%M:%S}"


def quantity(value: object, unit: Unit) -> str:
    """A number with its unit: durations in a readable one (8 s, not 8,000 ms), percentages with two decimals."""
    if unit == MILLISECONDS and isinstance(value, (int, float)):
        return duration(round(value * 10**6))
    if unit == PERCENT and isinstance(value, (int, float)):
        return "0 %" if not value else "< 0.01 %" if value < 0.005 else f"{value:.2f} %"
    return number(value) + unit.text


def number(value: object) -> str:
    """A number with three digits, or all digits of an integer; any other value as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def count(amount: int, noun: str) -> str:
    """ "1 error", "2 errors"."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def iso_time(nanos: int) -> str:
    """A time in UTC, to the millisecond; `nanos` since 1970."""
    time = _EPOCH + timedelta(milliseconds=nanos // 10**6)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
