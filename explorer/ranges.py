"""The time range of a page, as query parameters of other pages.

Dashboards have Grafana's parameters, `from` and `to`; searches, the service map and the analysis pages have Jaeger's:
`start` and `end`, or `lookback`.
"""

from contextlib import suppress

from flask import request
from werkzeug.exceptions import BadRequest

from explorer import links
from explorer.query import read_time

_DASHBOARDS = "/dashboards"
_SEARCHES = ("/search", "/dependencies", "/analysis/differences")


def carried(path: str) -> dict[str, str]:
    """The query parameters by which the page at `path` shows the time range of the current request.

    Empty if the request names no range, or one that is not understood, or if the other page has none.
    """
    of_dashboard, of_search = _given("from", "to"), _given("lookback", "start", "end")
    with suppress(BadRequest):  # the page itself reports it
        if path == _DASHBOARDS:
            return of_dashboard or (links.dashboard_range(request.args) if of_search else {})
        if path in _SEARCHES:
            return of_search or (_search_range(of_dashboard) if of_dashboard else {})
    return {}


def _given(*names: str) -> dict[str, str]:
    return {name: value for name in names if (value := request.args.get(name))}


def _search_range(of_dashboard: dict[str, str]) -> dict[str, str]:
    begin, end = of_dashboard.get("from", ""), of_dashboard.get("to", "now")
    return links.search_range(begin, end, (read_time("from", begin), read_time("to", end)))
