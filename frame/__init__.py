"""What all pages have in common, whichever app serves them: the header with its links, the style sheet, and the
security headers."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from flask import Blueprint, Flask, Response, request

from serving import beside
from telemetry.services import EXPLORER, FAULTS_PORT, PAGES, SERVICES

_YEAR_SECONDS = 365 * 86_400


class _Page(NamedTuple):
    title: str
    app: str
    path: str
    paths: tuple[str, ...]  # the beginnings of the paths of its pages

    @property
    def url(self) -> str:
        return f"{beside({**SERVICES, **EXPLORER, 'faults': FAULTS_PORT}[self.app])}{self.path}"


_LINKS = (
    _Page("Password", "generator", "/", ("/",)),
    _Page("Dashboards", "dashboards", "/dashboards", ("/dashboards", "/d/")),
    _Page("Traces", "traces", "/search", ("/search", "/trace/")),
    _Page("Service map", "traces", "/dependencies", ("/dependencies",)),
    _Page("Analysis", "dashboards", "/analysis/differences", ("/analysis/",)),
    _Page("SQL", "dashboards", "/sql", ("/sql",)),
    _Page("Workshop", "dashboards", "/learn", ("/learn",)),
    _Page("Faults", "faults", "/", ("/",)),
)


class Link(NamedTuple):
    title: str
    url: str
    is_current: bool


def add_frame(app: Flask, name: str, time_range: Callable[[str], Mapping[str, str]] = lambda path: {}) -> None:
    """Make an app part of the site: templates can extend frame.html, and all responses have the security headers.

    `name` is the app's in the tables of services and pages; `time_range` returns the query parameters by which the page
    at a path shows the time range of the current page.
    """
    folder = Path(__file__).with_name("static")
    frame = Blueprint(
        "frame", __name__, template_folder="templates", static_folder=folder, static_url_path=static_path(folder)
    )
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = _YEAR_SECONDS

    @frame.app_context_processor
    def values() -> dict[str, object]:
        return {"frame": {"links": links, "others": _others, "home": _home, "trace": _trace}}

    def links() -> list[Link]:
        return [Link(page.title, with_query(page.url, time_range(page.path)), is_current(page)) for page in _LINKS]

    def is_current(page: _Page) -> bool:
        return page.app == name and request.path.startswith(page.paths)

    @frame.after_app_request
    def add_security_headers(response: Response) -> Response:
        response.headers.update(
            {
                "Content-Security-Policy": _policy(),
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
            }
        )
        return response

    app.register_blueprint(frame)


def sender() -> Literal["own page", "other page", "unknown"]:
    """What has sent the current request, against cross-site request forgery: a page of another site can send a form,
    but cannot hide its origin.

    Browsers send Sec-Fetch-Site to https and to loopback only, and some send no Origin for a form on the same site.
    Programs other than browsers send neither: the sender is unknown then.
    """
    own, origin = f"{request.scheme}://{request.host}", request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if origin is None and site is None:
        return "unknown"
    return "own page" if site in (None, "same-origin") and origin in (None, own) else "other page"


def static_path(folder: Path, generated: str = "") -> str:
    """A URL path for the files of a folder and what is generated beside them.

    It has a hash of all the contents, so that browsers may keep the files for ever, and scripts can import each other
    by relative paths.
    """
    contents = [*(file.read_bytes() for file in sorted(folder.rglob("*.*"))), generated.encode()]
    return f"/static/{hashlib.sha256(b''.join(contents)).hexdigest()[:16]}"


def with_query(path: str, parameters: Mapping[str, object]) -> str:
    """The path with these query parameters; a list has several values of one parameter."""
    return f"{path}?{urlencode(parameters, doseq=True)}" if parameters else path


def _policy() -> str:
    """Nothing is loaded from other hosts, no inline script runs, and no other site can embed a page.

    The header's form leads to the pages of traces, which have another port, and the password's page shows a picture
    from there. The host is a wildcard, because a policy cannot name an IPv6 address:
    https://www.w3.org/TR/CSP3/#match-hosts
    """
    traces = f"http://*:{EXPLORER['traces']}"
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: {traces};"
        f" connect-src 'self'; form-action 'self' {traces}; base-uri 'none'; frame-ancestors 'none'"
    )


def _home() -> str:
    return f"{beside(EXPLORER['dashboards'])}/"


def _trace() -> str:
    return f"{beside(EXPLORER['traces'])}/trace"


def _others() -> list[Link]:
    """Grafana and Jaeger, where the explorer is beside them."""
    titles = {"dashboards": "Grafana", "traces": "Jaeger"}
    return [Link(titles[name], f"{beside(port)}/", False) for name, port in PAGES.items() if port != EXPLORER[name]]
