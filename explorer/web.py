"""What the explorer's apps share: what browsers may do with pages, pages for errors, numbers and times for people."""

from datetime import UTC, datetime, timedelta

from flask import Flask, Response, abort, render_template, request
from werkzeug.exceptions import HTTPException

from queries import COLOURS
from serving import beside

# Nothing is loaded from elsewhere, nothing inline is run, and no other page can frame this one.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src {styles}; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_UNITS = [("s", 10**9), ("ms", 10**6), ("µs", 10**3), ("ns", 1)]
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SERVICES_CSS = "".join(f".s{number} {{ --service: {colour}; }}\n" for number, colour in enumerate(COLOURS))
_DAY_SECONDS = 86_400


def create_app(name: str, styles: str = "'self'") -> Flask:
    """A Flask app with templates/ and static/, which takes forms from its own pages only; its errors are pages that say
    what is wrong.

    `styles`: what may be a style, as style-src of the Content-Security-Policy.
    """
    app = Flask(name)
    policy = _POLICY.format(styles=styles)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.add_template_filter(duration)
    app.add_template_filter(iso_time)
    app.add_template_global(beside)

    @app.get("/healthz")
    def healthz():
        return {"status": "ok"}

    @app.get("/services.css")
    def services_css() -> Response:
        """The colours of services as classes: s0 for the first of `COLOURS`, and so on."""
        return Response(_SERVICES_CSS, mimetype="text/css", headers={"Cache-Control": f"max-age={_DAY_SECONDS}"})

    @app.before_request
    def only_from_here() -> None:
        """A page elsewhere can send its visitor's browser here, but that then says where it comes from."""
        if request.method in _SAFE_METHODS:
            return
        own, origin = f"{request.scheme}://{request.host}", request.headers.get("Origin")
        # Browsers send this one to https and loopback only, and some send no Origin from a page to itself.
        site = request.headers.get("Sec-Fetch-Site", "unknown" if origin is None else "same-origin")
        if site != "same-origin" or origin not in (None, own):
            abort(403, f"Only a page of {own} may send this. Who is no browser says so by the header Origin: {own}")

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(_HEADERS)
        response.headers["Content-Security-Policy"] = policy
        return response

    @app.errorhandler(HTTPException)
    def error_page(error: HTTPException):
        if error.code is None or error.code < 400:
            return error
        return render_template("error.html", error=error), error.code

    return app


def duration(nanos: int) -> str:
    """Three digits and a unit, as static/trace.js has it."""
    if not nanos:
        return "0"
    unit, size = next(each for each in _UNITS if nanos >= each[1])
    number = float(f"{nanos / size:.3g}")
    return f"{number:,.0f} {unit}" if number >= 100 or number == int(number) else f"{number:g} {unit}"


def iso_time(nanos: int) -> str:
    """A time in UTC, to the millisecond."""
    time = _EPOCH + timedelta(milliseconds=nanos // 10**6)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
