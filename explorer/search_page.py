"""The search page. The URL has its whole state: the search with Jaeger's parameters (explorer/query.py), and

- `sort`: `newest` (default), `longest`, `spans` or `errors`;
- `after` or `before`: the key of the trace where the page begins or ends (explorer/trace_list.py), with a fixed `end`;
- `columns`: keys of attributes, separated by spaces;
- `callee`, `caller`, `callFailed=true`: only traces with a (failed) call of one service, by another one;
- `live=1`: the browser reloads the results every few seconds.

Without the database, it has only the newest traces, by Jaeger's storage API.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from flask import Blueprint, render_template, request, url_for

import queries
from explorer import changes, links, svg
from explorer.analysis.selection import Selection
from explorer.database import STATEMENT_SECONDS, Database, message
from explorer.query import (
    MAX_LIMIT,
    MAX_MICROS,
    Parameters,
    Query,
    bad_parameter,
    field_values,
    quoted_word,
    read_query,
    read_words,
)
from explorer.scatter import scatter, time_range
from explorer.store import Store, TraceSummary
from explorer.trace_list import ORDERS, Call, Key, Page, Place, read_attributes, read_page
from frame import with_query
from promscale.otlp import truncated_name

MAX_COLUMNS = 8


class View(NamedTuple):
    """What the page shows of a search's traces."""

    order: str
    place: Place
    columns: list[str]
    call: Call | None


_NEWEST = View("newest", Place(), [], None)


class Results(NamedTuple):
    """A page of traces, their attributes by trace id and key, and when faults were switched in their time. `problem`
    says why there are none."""

    page: Page
    attributes: Mapping[tuple[str, str], str] = {}
    changes: Sequence[svg.Change] = ()
    problem: str = ""
    status: int = 200


def search_page(store: Store, database: Database | None) -> Blueprint:
    page = Blueprint("search", __name__)

    @page.get("/search")
    def show() -> tuple[str, int]:
        query, view = read_query(request.args), read_view(request.args) if database else _NEWEST
        services = store.services()
        results = _read(database, query, view) if database else Results(Page(store.summaries(query), None, None))
        traces = results.page.traces
        is_open = not request.args.get("end") and view.place.key is None
        html = render_template(
            "search.html",
            **form_values(store, services, query),
            max_limit=MAX_LIMIT,
            view=view,
            columns_text=" ".join(map(quoted_word, view.columns)),
            orders=ORDERS,
            url_of=_url,
            with_database=database is not None,
            results=results,
            traces=traces,
            pages=[
                (title, _url(**_at(place), end=query.end // 1000, live=None))
                for title, place in (
                    (ORDERS[view.order].previous, results.page.previous),
                    (ORDERS[view.order].next, results.page.next),
                )
                if place
            ],
            is_open=is_open,
            future=_future(store, query) if is_open and not results.problem else None,
            scatter=scatter(traces, results.changes) if traces else None,
            colours=queries.colour_numbers(
                [*services, *(service.name for trace in traces for service in trace.services)]
            ),
        )
        return html, results.status

    return page


def form_values(store: Store, services: list[str], query: Query) -> dict[str, Any]:
    """What templates/search_fields.html needs."""
    return {
        **field_values(request.args),
        "query": query,
        "services": services,
        "operations": sorted({name for name, _ in store.operations(query.service)}) if query.service else [],
    }


def read_view(parameters: Parameters) -> View:
    """Raises BadRequest, which names the parameter."""
    order = parameters.get("sort") or "newest"
    if order not in ORDERS:
        raise bad_parameter("sort", f"is none of {', '.join(ORDERS)}")
    columns = list(
        dict.fromkeys(word.replace("\0", "\ufffd") for word in read_words("columns", parameters.get("columns", "")))
    )
    if len(columns) > MAX_COLUMNS:
        raise bad_parameter("columns", f"has more than {MAX_COLUMNS} keys")
    callee = parameters.get("callee")
    call = Call(
        caller=truncated_name(parameters.get("caller", "")),
        callee=truncated_name(callee or ""),
        failed=parameters.get("callFailed") == "true",
    )
    return View(order, _read_place(parameters, order), columns, call if callee else None)


def _read_place(parameters: Parameters, order: str) -> Place:
    name = next((name for name in ("before", "after") if parameters.get(name)), "")
    if not name:
        return Place()
    try:
        key = Key.parse(parameters[name])
    except ValueError:
        raise bad_parameter(name, "is not the key of a trace") from None
    if order == "newest" and key.value > MAX_MICROS:
        raise bad_parameter(name, "is after the year 9999")
    return Place(key, before=name == "before")


def _read(database: Database, query: Query, view: View) -> Results:
    selection = Selection.of_query(query)
    try:
        page = read_page(database, selection, view.order, view.place, query.limit, view.call)
        attributes = read_attributes(database, selection, page.traces, view.columns)
        switched = _changes(database, page.traces)
    except psycopg.errors.QueryCanceled:
        problem = f"The search did not finish within {STATEMENT_SECONDS} s. Choose a shorter range, or sort by newest."
        return Results(Page([], None, None), problem=problem, status=504)
    except psycopg.Error as error:
        return Results(Page([], None, None), problem=message(error), status=503)
    if view.order == "newest":
        # In the order of the times that the page shows: those of the traces' first spans.
        page = page._replace(traces=sorted(page.traces, key=lambda trace: trace.start, reverse=True))
    return Results(page, attributes, switched)


def _changes(database: Database, traces: Sequence[TraceSummary]) -> list[svg.Change]:
    """When faults were switched in the time of the scatter plot. Raises psycopg.Error."""
    if not traces:
        return []
    begin, end = map(links.time, time_range(traces))
    return changes.read(database, (begin, end))


class Future(NamedTuple):
    """Spans of a host whose clock is ahead start in the future (clock skew), where a search up to now ends."""

    spans: int
    url: str


def _future(store: Store, query: Query) -> Future | None:
    traces = store.summaries(query._replace(start=query.end, end=MAX_MICROS * 1000))
    url = _url(lookback="custom", start=query.end // 1000, end=MAX_MICROS)
    return Future(sum(trace.spans for trace in traces), url) if traces else None


def _at(place: Place) -> dict[str, str | None]:
    key = str(place.key)
    return {"before": key, "after": None} if place.before else {"before": None, "after": key}


def _url(**changes: object) -> str:
    """This page with other parameters; None removes one."""
    parameters = request.args.to_dict(flat=False) | changes
    return with_query(url_for("search.show"), {name: value for name, value in parameters.items() if value is not None})
