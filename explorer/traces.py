"""The explorer's port 16686: traces in the browser under Jaeger's own paths, and Jaeger's HTTP query API."""

import math
from itertools import count, takewhile
from typing import NamedTuple

from flask import redirect, render_template, request, url_for
from google.protobuf.message import Message
from markupsafe import Markup
from werkzeug.exceptions import NotFound

import queries
from explorer import graph
from explorer.jaeger_api import jaeger_api
from explorer.query import DEFAULT_LOOKBACK, MAX_LIMIT, MAX_MICROS, logfmt, read_query, read_range, read_trace_id
from explorer.store import ADDRESS, Store
from explorer.trace import Trace
from explorer.waterfall import cut, waterfall
from explorer.web import create_app

MIN_SCATTER_TIME = 8 * 10**9
LOOKBACKS = {
    "5m": "last 5 minutes",
    "15m": "last 15 minutes",
    "1h": "last hour",
    "6h": "last 6 hours",
    "24h": "last 24 hours",
    "custom": "a range of your own",
}


def create_traces(address: str):
    """The Flask app that shows what the store at `address` holds."""
    app = create_app("explorer.traces")
    store = Store(address)
    app.register_blueprint(jaeger_api(store))
    app.add_template_filter(cut)

    @app.get("/")
    def index():
        return redirect(url_for("search"))

    @app.get("/search")
    def search():
        query = read_query(request.args)
        services = store.services()
        summaries = sorted(store.summaries(query), key=lambda each: each.min_start_time_unix_nano, reverse=True)
        found = [Found(each) for each in summaries]
        ever = {"start": query.end // 1000, "end": MAX_MICROS}
        later = (
            [] if request.args.get("end") else store.summaries(query._replace(start=query.end, end=MAX_MICROS * 1000))
        )
        return render_template(
            "search.html",
            query=query,
            asked=request.args,
            tags=logfmt(query.tags),
            services=services,
            operations=sorted({name for name, _ in store.operations(query.service)}) if query.service else [],
            lookback="custom" if request.args.get("start") else request.args.get("lookback") or DEFAULT_LOOKBACK,
            lookbacks=LOOKBACKS,
            max_limit=MAX_LIMIT,
            found=found,
            later=sum(each.span_count for each in later),
            later_url=url_for("search", **request.args.to_dict(flat=False) | {"lookback": "custom"} | ever),
            scatter=scatter(found),
            colours=queries.colour_numbers([*services, *(service.name for each in found for service in each.services)]),
        )

    @app.get("/trace/<trace_id>")
    def one_trace(trace_id: str):
        id = read_trace_id(trace_id)
        chunks = store.traces([id]).get(id)
        if not chunks:
            raise NotFound(f"There is no trace {id.hex()}. It may be so new, or so old, that it is not stored.")
        trace = Trace(chunks)
        colours = queries.colour_numbers([*store.services(), *trace.services])
        # Inside of a script element nothing but "<" could end it.
        data = Markup(waterfall(trace, colours).replace(b"<", b"\\u003c").decode())
        return render_template("trace.html", trace=trace, trace_id=id.hex(), colours=colours, data=data)

    @app.get("/dependencies")
    def dependencies():
        start, end = read_range(request.args)
        calls = [(d.parent, d.child, d.call_count) for d in store.dependencies(start, end)]
        names = sorted({name for parent, child, _ in calls for name in (parent, child)})
        return render_template(
            "dependencies.html",
            calls=sorted(calls, key=lambda call: -call[2]),
            edges=[
                graph.Edge(parent, child, count, f"{cut(parent, 60)} calls {cut(child, 60)}: {count:,}")
                for parent, child, count in calls
            ],
            names=names,
            layout=graph.layout(names, [(parent, child) for parent, child, _ in calls]),
            graph=graph,
            colours=queries.colour_numbers([*store.services(), *names]),
            lookback=request.args.get("lookback") or DEFAULT_LOOKBACK,
            lookbacks={name: label for name, label in LOOKBACKS.items() if name != "custom"},
        )

    return app


class Found:
    """A trace that a search has found, from its TraceSummary. Times are nanoseconds."""

    def __init__(self, summary: Message) -> None:
        self.id = summary.trace_id.hex()
        self.service = summary.root_service_name
        self.operation = summary.root_operation_name
        self.start = summary.min_start_time_unix_nano
        self.duration = max(summary.max_end_time_unix_nano - self.start, 0)
        self.spans, self.errors, self.orphans = summary.span_count, summary.error_span_count, summary.orphan_span_count
        self.services = summary.services


class Dot(NamedTuple):
    found: Found
    x: float  # per cent
    y: float
    radius: float  # pixels


class Scatter(NamedTuple):
    """Durations over time: dots, the largest first; ticks as (per cent, nanoseconds)."""

    dots: list[Dot]
    times: list[tuple[float, int]]
    durations: list[tuple[float, int]]


def scatter(found: list[Found]) -> Scatter:
    if not found:
        return Scatter([], [], [])
    first, last = min(each.start for each in found), max(each.start for each in found)
    # The ticks have seconds: at least two of them between one and the next.
    room = max(MIN_SCATTER_TIME - (last - first), 0) // 2
    first, last = first - room, last + room
    step = _round_step(max(each.duration for each in found) / 4 or 1)
    highest = max(math.ceil(max(each.duration for each in found) / step), 1) * step
    most = max(each.spans for each in found)
    dots = [
        Dot(
            each,
            round(2 + 96 * (each.start - first) / (last - first), 2),
            round(100 - 100 * each.duration / highest, 2),
            round(4 + 7 * math.sqrt(each.spans / most), 1),
        )
        for each in found
    ]
    return Scatter(
        sorted(dots, key=lambda dot: -dot.radius),
        [(2 + 24 * tick, first + (last - first) * tick // 4) for tick in range(5)],
        [(100 - 100 * tick / highest, tick) for tick in takewhile(lambda tick: tick <= highest, count(0, step))],
    )


def _round_step(smallest: float) -> int:
    """The first of 1, 2, 5, 10, 20, ... that is not smaller."""
    power = 10 ** math.floor(math.log10(smallest)) if smallest >= 1 else 1
    return next(step * power for step in (1, 2, 5, 10) if step * power >= smallest)


app = create_traces(ADDRESS)
