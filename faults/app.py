"""The page on which faults are switched, and the API behind it.

GET /flags returns what is in effect, as JSON. POST /flags changes it: {"set": {flag: variant}, "load": {"users",
"rate", "seed"}, "sampling": {"percent", "tail_latency_ms"}}, in which everything is optional, or {"reset": true}. It
changes all or nothing, and returns what is in effect then, or {"error"} with a status from 400 on.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
from flask import Flask, abort, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from faults.access import is_token
from faults.flags import (
    CONTROLS,
    DEFAULT_RATE,
    DEFAULT_USERS,
    MAX_RATE,
    MAX_SEED,
    MAX_TAIL_LATENCY_MS,
    MAX_USERS,
    Flag,
    FlagError,
    FlagFile,
    number,
    seed_of,
)
from faults.recorder import Recorder
from frame import add_frame, sender, static_path, with_query
from queries.dashboards import DASHBOARDS
from serving import beside
from telemetry.services import EXPLORER

CHANGES = 20  # that the page shows
AROUND = timedelta(minutes=5)  # before and after a change, in the links to its dashboards
# The dashboards on which the effect of a fault is seen.
_LINKED = {"01-request-rate": "rate", "02-error-rates": "errors", "03-request-durations": "durations"}
_COOKIE = "demo-token"
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ("ms", "seconds", "minutes")  # at the end of the names of parameters
_KEYS = ("set", "load", "sampling", "reset")
_log = logging.getLogger("faults")


def create_app(file: FlagFile, recorder: Recorder, token: str = "", tail_sampling: bool = True) -> Flask:
    """The Flask app. With a token, changes need it: as a bearer token, or in the cookie that the page's form sets.

    `tail_sampling` is whether the Collector can do that.
    """
    app = Flask(__name__, static_url_path=static_path(Path(__file__).with_name("static")))
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
    app.add_template_filter(_words, "words")
    app.jinja_env.globals.update(trace_search=_trace_search, statement_url=_statement_url, sql_of=_sql_of)
    add_frame(app, "faults")

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/flags")
    def flags() -> dict[str, Any]:
        return in_effect(file.flags())

    @app.post("/flags")
    def change_flags() -> dict[str, Any]:
        change(_json_body())
        return in_effect(file.flags())

    @app.get("/")
    def show() -> str:
        return page()

    @app.post("/")
    def send_form() -> Response:
        body = _form_body()
        change(body)
        switched = [*body.get("set", {})]
        return redirect(url_for("show", _anchor=switched[0] if len(switched) == 1 else None), 303)

    @app.post("/token")
    def send_token() -> Response:
        answer = redirect(url_for("show"), 303)
        answer.set_cookie(_COOKIE, request.form.get("token", ""), httponly=True, samesite="Strict")
        return answer

    @app.before_request
    def check_change() -> None:
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        if sender() == "other page":
            abort(403, "Only the page of the faults itself may send this, and no page of another site or port.")
        if request.path == "/token":
            if not is_token(request.form.get("token", ""), token):
                abort(401, "This is not the token. ./run.sh prints it when the demo starts.")
        elif not may_change():
            abort(401, "Changes need the token that ./run.sh prints, in the header Authorization: Bearer TOKEN")

    def may_change() -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else request.cookies.get(_COOKIE, "")
        return not token or is_token(given, token)

    def change(body: Mapping[str, Any]) -> None:
        """Raises FlagError, OSError."""
        if not tail_sampling and (body.get("sampling") or {}).get("tail_latency_ms") is not None:
            raise FlagError("tail_latency_ms cannot be set: rotel, the Collector of this stack, has no tail sampling")
        with recorder.change() as changed:
            if body.get("reset"):
                changed.reset()
            else:
                changed.set(body.get("set"), body.get("load"), body.get("sampling"))
        _log.info("Changed: %s", json.dumps(body))

    @app.errorhandler(Exception)
    def failed(error: Exception) -> tuple[str | dict[str, str], int] | HTTPException:
        if isinstance(error, HTTPException):
            if error.code is None or error.code < 400:
                return error
            code, message = error.code, error.description or error.name
        else:
            code, message = 400 if isinstance(error, FlagError) and request.method == "POST" else 500, str(error)
        if code >= 500:
            _log.error("%s: %s", type(error).__name__, message)
        return ({"error": message} if request.path == "/flags" else page(message)), code

    def page(error: str = "") -> str:
        try:
            flags = file.flags()
            changes, problem = recorder.latest(CHANGES), ""
        except (FlagError, OSError) as unreadable:
            return render_template("unreadable.html", error=error or str(unreadable))
        except psycopg.Error as unreachable:
            changes, problem = [], str(unreachable).splitlines()[0]
        faults = [flag for flag in flags.values() if flag.is_fault]
        return render_template(
            "faults.html",
            error=error,
            services={name: list(group) for name, group in groupby(faults, key=lambda flag: flag.service)},
            changed=[flag for flag in flags.values() if flag.variant != flag.default],
            on=[flag for flag in faults if flag.parameters],
            now=in_effect(flags),
            limits={
                "users": MAX_USERS,
                "rate": MAX_RATE,
                "seed": MAX_SEED,
                "tail_latency_ms": MAX_TAIL_LATENCY_MS,
            },
            tail_sampling=tail_sampling,
            changes=[
                (time, rows, _links(time, [row.flag for row in rows]))
                for time, group in groupby(changes, key=lambda row: row.time)
                if (rows := list(group))
            ],
            problem=problem,
            may_change=may_change(),
        )

    return app


def in_effect(flags: Mapping[str, Flag]) -> dict[str, Any]:
    """What GET /flags returns: the faults, and the values of load and sampling, None if nothing gives them."""
    variables = {
        "users": _setting("LOAD_USERS", DEFAULT_USERS),
        "rate": _setting("LOAD_RATE", DEFAULT_RATE),
        "seed": seed_of(os.environ),
    }
    return {
        "flags": {
            name: {
                "service": flag.service,
                "description": flag.description,
                "variant": flag.variant,
                "default": flag.default,
                "variants": flag.variants,
            }
            for name, flag in flags.items()
            if flag.is_fault
        },
        "load": variables | dict(flags["load"].parameters),
        "sampling": dict.fromkeys(CONTROLS["sampling"]) | dict(flags["sampling"].parameters),
    }


def _setting(name: str, default: float) -> float | None:
    """None for what is no number, with which load does not start."""
    value = number(os.environ.get(name) or default)
    return None if math.isnan(value) else value


def _json_body() -> dict[str, Any]:
    """Raises FlagError."""
    example = '{"set": {"digit.errors": "strong"}}'
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise FlagError(f"the body is not JSON; send something like {example}") from None
    if not isinstance(body, dict) or not body:
        raise FlagError(f"the body is not a JSON object with some of {', '.join(_KEYS)}; send something like {example}")
    if unknown := body.keys() - set(_KEYS):
        raise FlagError(f"there is no key {min(unknown)!r}; name some of {', '.join(_KEYS)}")
    for key in body.keys() - {"reset"}:
        if not isinstance(body[key], dict):
            raise FlagError(f"{key} is not a JSON object; send something like {example}")
    if "reset" in body and body != {"reset": True}:
        raise FlagError('a reset is {"reset": true}, and nothing else with it')
    return body


def _form_body() -> dict[str, Any]:
    """What a form of the page asks for, as the API's JSON."""
    form = request.form
    if "reset" in form:
        return {"reset": True}
    body: dict[str, Any] = {"set": dict(text.partition("=")[::2] for text in form.getlist("set"))}
    for key, names in CONTROLS.items():
        body[key] = {name: form[name].strip() or None for name in names if name in form}
    return body


def _words(parameters: Mapping[str, Any]) -> str:
    """The parameters of a variant: "probability 0.03, every 5 minutes"."""
    parts = []
    for name, value in parameters.items():
        noun, _, unit = name.rpartition("_")
        parts.append(f"{noun} {value} {unit}" if unit in _UNITS else f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts).strip()


def _links(time: datetime, flags: Sequence[str]) -> dict[str, str]:
    """The dashboards in the minutes around a time, and the traces with a fault if one was switched then."""
    begin, end = ((moment - _EPOCH) // _MILLISECOND for moment in (time - AROUND, time + AROUND))
    host = beside(EXPLORER["dashboards"])
    links = {
        _LINKED[dashboard.slug]: with_query(
            f"{host}/d/{dashboard.uid}/{dashboard.slug}", {"from": begin, "to": end, "refresh": ""}
        )
        for dashboard in DASHBOARDS
        if dashboard.slug in _LINKED
    }
    of_flag = flags[0] if len(flags) == 1 and "." in flags[0] else ""
    return links | {"traces": _trace_search(of_flag, lookback="custom", start=begin * 1000, end=end * 1000)}


def _trace_search(flag: str, **time_range: object) -> str:
    """The search for traces in which a fault took effect.

    By an attribute of the event that a fault leaves on a span: a search does not look into arrays, which
    demo.fault.name is. "" finds all traces.
    """
    tags = {"tags": json.dumps({"feature_flag.key": flag})} if flag else {}
    return with_query(f"{beside(EXPLORER['traces'])}/search", {**tags, **time_range})


def _sql_of(flag: str) -> str:
    return (
        "select start_time, service_name, span_name, duration_ms, span_tags -> 'demo.fault.added_ms' as added_ms,"
        "\n    span_tags ->> 'demo.fault.error' as error, trace_id"
        f"\nfrom span\nwhere span_tags -> 'demo.fault.name' ? '{flag}'"
        "\n    and start_time > now() - interval '15 minutes'\norder by start_time desc\nlimit 100"
    )


def _statement_url(flag: str) -> str:
    return with_query(f"{beside(EXPLORER['dashboards'])}/sql", {"sql": _sql_of(flag)})
