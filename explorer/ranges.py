"""The time range of a page, as query parameters of other pages.

Dashboards have Grafana's parameters, `from` and `to`; searches, the service map and the analysis pages have Jaeger's:
`start` and `end`, or `lookback`.
"""

from contextlib import suppress

from flask import request
from werkzeug.exceptions import BadRequest

from explorer.links import search_times
from explorer.query import LOOKBACKS, read_range, read_time

_DASHBOARDS = "/dashboards"
_SEARCHES = ("/search", "/dependencies", "/analysis/differences")


def carried(path: str) -> dict[str, str]:
    """The query parameters by which the page at `path` shows the time range of the current request.

    Empty if the request names no range, or one that is not understood, or if the other page has none.
    """
    of_dashboard, of_search = _given("from", "to"), _given("lookback", "start", "end")
    with suppress(BadRequest):  # the page itself reports it
        if path == _DASHBOARDS:
            return of_dashboard or (_as_dashboard(of_search) if of_search else {})
        if path in _SEARCHES:
            return of_search or (_as_search(of_dashboard) if of_dashboard else {})
    return {}


def _given(*names: str) -> dict[str, str]:
    return {name: value for name in names if (value := request.args.get(name))}


def _as_dashboard(given: dict[str, str]) -> dict[str, str]:
    if [*given] == ["lookback"] and given["lookback"] in LOOKBACKS:
        return {"from": f"now-{given['lookback']}", "to": "now"}
    start, end = read_range(request.args)
    return {"from": str(start // 10**6), "to": str(end // 10**6)}


def _as_search(given: dict[str, str]) -> dict[str, str]:
    begin, end = given.get("from", ""), given.get("to", "now")
    lookback = begin.removeprefix("now-")
    if end == "now" and lookback in LOOKBACKS:
        return {"lookback": lookback}
    start, end = search_times((read_time("from", begin), read_time("to", end)))
    return {"lookback": "custom", "start": start, "end": end}
