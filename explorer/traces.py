"""The explorer's port 16686: pages of traces under the same paths as Jaeger's UI, and Jaeger's HTTP query API."""

import math
import os
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import aiosql
import psycopg
from flask import Flask, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.exceptions import NotFound, ServiceUnavailable
from werkzeug.wrappers import Response

import queries
from explorer import graph, picture
from explorer.database import Database, message
from explorer.jaeger_api import jaeger_api
from explorer.query import (
    DEFAULT_LOOKBACK,
    LOOKBACKS,
    MAX_LIMIT,
    MAX_MICROS,
    logfmt,
    read_int,
    read_query,
    read_range,
    read_span_id,
    read_trace_id,
)
from explorer.store import ADDRESS, Store, TraceSummary
from explorer.trace import Trace
from explorer.waterfall import cut, waterfall
from explorer.web import analysis_url, create_app, dashboard_url
from frame import with_query

MIN_SCATTER_TIME = 8 * 10**9  # nanoseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATEMENTS = aiosql.from_path(Path(__file__).with_name("traces.sql"), "psycopg", kwargs_only=True)


def create_traces(address: str, database_uri: str = "") -> Flask:
    """The Flask app that shows the traces of the store at `address` ("host:port").

    With the URI of the store's database, it also compares a span with earlier ones. All else works without.
    """
    app = create_app("explorer.traces")
    store = Store(address)
    database = Database(database_uri) if database_uri else None
    app.register_blueprint(jaeger_api(store))
    app.add_template_filter(cut)
    app.add_template_global(analysis_url)

    @app.get("/")
    def index() -> Response:
        return redirect(url_for("search"))

    @app.get("/search")
    def search() -> str:
        query = read_query(request.args)
        services = store.services()
        traces = store.summaries(query)
        # Spans of a host whose clock is ahead start in the future (clock skew), where a search up to now ends.
        future = (
            [] if request.args.get("end") else store.summaries(query._replace(start=query.end, end=MAX_MICROS * 1000))
        )
        future_range = {"lookback": "custom", "start": query.end // 1000, "end": MAX_MICROS}
        return render_template(
            "search.html",
            query=query,
            parameters=request.args,
            tags=logfmt(query.tags),
            services=services,
            operations=sorted({name for name, _ in store.operations(query.service)}) if query.service else [],
            lookback="custom" if request.args.get("start") else request.args.get("lookback") or DEFAULT_LOOKBACK,
            lookbacks=LOOKBACKS,
            max_limit=MAX_LIMIT,
            traces=traces,
            future_spans=sum(trace.spans for trace in future),
            future_url=with_query(url_for("search"), request.args.to_dict(flat=False) | future_range),
            scatter=scatter(traces),
            colours=queries.colour_numbers(
                [*services, *(service.name for trace in traces for service in trace.services)]
            ),
        )

    @app.get("/trace")
    def open_trace() -> Response:
        """The header's form: a trace id in any spelling."""
        return redirect(url_for("trace_page", trace_id=read_trace_id(request.args.get("id", "").strip()).hex()))

    @app.get("/trace/<trace_id>")
    def trace_page(trace_id: str) -> str:
        key = read_trace_id(trace_id)
        trace, colours = stored_trace(key)
        # In a script element, "<" is the only character that could end it.
        data = Markup(waterfall(trace, colours).replace(b"<", b"\\u003c").decode())
        return render_template(
            "trace.html",
            trace=trace,
            trace_id=key.hex(),
            colours=colours,
            data=data,
            upstream_url=dashboard_url("05-upstream-spans"),
            downstream_url=dashboard_url("06-downstream-spans"),
            earlier_url=url_for("earlier_calls", trace_id=key.hex()) if database else "",
        )

    @app.get("/trace/<trace_id>/earlier")
    def earlier_calls(trace_id: str) -> dict[str, int]:
        """How many calls of a span's operation started in the hour before it, and how many of them were faster."""
        if database is None:
            raise NotFound("The database of the traces is not known here: set EXPLORER_DB_URI.")
        values = {
            "trace_id": UUID(bytes=read_trace_id(trace_id)),
            "span_id": int.from_bytes(read_span_id(request.args), signed=True),
            "start_time": _EPOCH + timedelta(microseconds=read_int(request.args, "start", 0, 0, MAX_MICROS)),
        }
        try:
            result = database.run(_STATEMENTS.earlier_calls.sql, values)
        except psycopg.Error as error:
            raise ServiceUnavailable(message(error)) from error
        if not result.rows:
            raise NotFound("There is no such span.")
        return result.as_dicts()[0]

    @app.get("/trace/<trace_id>/waterfall.svg")
    def picture_of_trace(trace_id: str) -> tuple[str, dict[str, str]]:
        """A small waterfall, for the colour scheme `scheme` (light or dark)."""
        values = picture.template_values(*stored_trace(read_trace_id(trace_id)), request.args.get("scheme", ""))
        return render_template("picture.svg", **values), {"Content-Type": "image/svg+xml", "Cache-Control": "no-store"}

    def stored_trace(key: bytes) -> tuple[Trace, dict[str, int]]:
        """A trace and the colours of its services. Raises NotFound."""
        chunks = store.traces([key]).get(key)
        if not chunks:
            raise NotFound(f"There is no trace {key.hex()}. It may not be stored yet, or deleted because of its age.")
        trace = Trace(chunks)
        return trace, queries.colour_numbers([*store.services(), *trace.services])

    @app.get("/dependencies")
    def dependencies() -> str:
        calls = sorted(store.dependencies(*read_range(request.args)), key=lambda call: -call.calls)
        names = sorted({name for call in calls for name in (call.caller, call.callee)})
        return render_template(
            "dependencies.html",
            calls=calls,
            edges=[
                graph.Edge(
                    source=call.caller,
                    target=call.callee,
                    calls=call.calls,
                    title=f"{cut(call.caller, 60)} calls {cut(call.callee, 60)}: {call.calls:,}",
                )
                for call in calls
            ],
            names=names,
            layout=graph.layout(names, [(call.caller, call.callee) for call in calls]),
            graph=graph,
            colours=queries.colour_numbers([*store.services(), *names]),
            lookback=request.args.get("lookback") or DEFAULT_LOOKBACK,
            lookbacks={name: label for name, label in LOOKBACKS.items() if name != "custom"},
        )

    return app


class Dot(NamedTuple):
    trace: TraceSummary
    x: float  # per cent
    y: float  # per cent, from the top
    radius: float  # pixels


class Scatter(NamedTuple):
    """A scatter plot of durations over time. Dots: the largest first, so that all can be clicked. Ticks: (per cent,
    nanoseconds)."""

    dots: list[Dot]
    times: list[tuple[float, int]]
    durations: list[tuple[float, int]]


def scatter(traces: list[TraceSummary]) -> Scatter:
    if not traces:
        return Scatter([], [], [])
    first, last = min(trace.start for trace in traces), max(trace.start for trace in traces)
    # Tick labels show seconds: five ticks in eight seconds or more never have the same label.
    padding = max(MIN_SCATTER_TIME - (last - first), 0) // 2
    first, last = first - padding, last + padding
    longest = max(trace.duration for trace in traces)
    step = _round_step(longest / 4 or 1)
    top = max(math.ceil(longest / step), 1) * step
    most_spans = max(trace.spans for trace in traces)
    dots = [
        Dot(
            trace=trace,
            x=round(2 + 96 * (trace.start - first) / (last - first), 2),
            y=round(100 - 100 * trace.duration / top, 2),
            radius=round(4 + 7 * math.sqrt(trace.spans / most_spans), 1),
        )
        for trace in traces
    ]
    return Scatter(
        dots=sorted(dots, key=lambda dot: -dot.radius),
        times=[(2 + 24 * tick, first + (last - first) * tick // 4) for tick in range(5)],
        durations=[(100 - 100 * tick / top, tick) for tick in takewhile(lambda tick: tick <= top, count(0, step))],
    )


def _round_step(smallest: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that is at least `smallest`."""
    power: int = 10 ** math.floor(math.log10(smallest)) if smallest >= 1 else 1
    return next(step * power for step in (1, 2, 5, 10) if step * power >= smallest)


app = create_traces(ADDRESS, os.environ.get("EXPLORER_DB_URI", ""))
