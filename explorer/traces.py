"""The explorer's port 16686: pages of traces under the same paths as Jaeger's UI, and Jaeger's HTTP query API."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import aiosql
import psycopg
from flask import Flask, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.exceptions import NotFound, ServiceUnavailable
from werkzeug.wrappers import Response

import queries
from explorer import picture
from explorer.database import Database, message
from explorer.jaeger_api import jaeger_api
from explorer.query import MAX_MICROS, read_int, read_span_id, read_trace_id
from explorer.search_page import search_page
from explorer.service_map import service_map
from explorer.store import ADDRESS, Store
from explorer.trace import Trace
from explorer.waterfall import cut, waterfall
from explorer.web import analysis_url, create_app, dashboard_url

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATEMENTS = aiosql.from_path(Path(__file__).with_name("traces.sql"), "psycopg", kwargs_only=True)


def create_traces(address: str, database_uri: str = "") -> Flask:
    """The Flask app that shows the traces of the store at `address` ("host:port").

    With the URI of the store's database, it also sorts and pages searches, shows attributes of the traces found and the
    rates and durations of calls, and compares a span with earlier ones. Without, it shows the rest.
    """
    app = create_app("explorer.traces")
    store = Store(address)
    database = Database(database_uri) if database_uri else None
    for blueprint in (search_page(store, database), service_map(store, database), jaeger_api(store)):
        app.register_blueprint(blueprint)
    app.add_template_filter(cut)
    app.add_template_global(analysis_url)

    @app.get("/")
    def index() -> Response:
        return redirect(url_for("search.show"))

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

    return app


app = create_traces(ADDRESS, os.environ.get("EXPLORER_DB_URI", ""))
