"""The page on which faults are switched and cases are solved, and the API behind it.

GET /flags returns what is in effect, as JSON. POST /flags changes it: {"set": {flag: variant}, "load": {"users",
"rate", "seed"}, "sampling": {"percent", "tail_latency_ms"}}, in which everything is optional, or {"reset": true}. It
changes all or nothing, and returns what is in effect then, or {"error"} with a status from 400 on.

GET /case returns {"open": false}, or {"open": true, "seed", "begin", "seconds", "attempts"} (cases.py). POST /case
{"seed": N} opens one. POST /case/solve {"service", "fault"} returns that with "solved" and "service_is_right", POST
/case/give-up with "solved": false; at the end of the case, it has also "flag", "variant", "description", "kind" and
"evidence". While a case is open, every variant of GET /flags is "hidden", and a change of faults gets status 409.
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

from faults import cases
from faults.access import is_token
from faults.cases import CaseConflict, CaseFile, OpenCase
from faults.flags import (
    CASE,
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
_EXAMPLE = '{"set": {"digit.errors": "strong"}}'
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
    case_file = CaseFile(file)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/flags")
    def flags() -> dict[str, Any]:
        return in_effect(*case_file.present())

    @app.post("/flags")
    def change_flags() -> dict[str, Any]:
        change(_flags_body())
        return in_effect(*case_file.present())

    @app.get("/case")
    def case() -> dict[str, Any]:
        return _case_state(case_file.present()[1])

    @app.post("/case")
    def open_case() -> dict[str, Any]:
        return start_case(_json_body(["seed"], '{"seed": 7}').get("seed"))

    @app.post("/case/solve")
    def solve_case() -> dict[str, Any]:
        body = _json_body(["service", "fault"], '{"service": "digit", "fault": "errors"}')
        return solve(body.get("service"), body.get("fault"))

    @app.post("/case/give-up")
    def give_case_up() -> dict[str, Any]:
        return give_up()

    @app.get("/")
    def show() -> str:
        return page()

    @app.post("/")
    def send_form() -> Response | str:
        form = request.form
        if "answer" in form:
            answer = form["answer"]
            return page(notice=cases.report(solve(answer.partition(".")[0], answer)))
        if "give-up" in form:
            return page(notice=cases.report(give_up()))
        if "case" in form:
            start_case(form["case"])
            return redirect(url_for("show", _anchor="case"), 303)
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
                case_file.reset()
            else:
                if body.get("set"):
                    case_file.refuse_if_open()
                changed.set(body.get("set"), body.get("load"), body.get("sampling"))
        _log.info("Changed: %s", json.dumps(body))

    def start_case(seed: object) -> dict[str, Any]:
        """Raises FlagError, OSError."""
        with recorder.change():
            opened = case_file.start(seed)
        _log.info("A case was opened")
        return _case_state(opened)

    def solve(service: object, fault: object) -> dict[str, Any]:
        """Raises FlagError, OSError."""
        flag = cases.answer(service, fault)
        with recorder.change():
            solved, opened = case_file.solve(flag)
        _log.info("The open case was %s", "solved" if solved else "not solved by an answer")
        if solved:
            return _end_of_case(opened, solved=True)
        service_is_right = flag.partition(".")[0] == opened.case.flag.partition(".")[0]
        return _case_state(opened) | {"solved": False, "service_is_right": service_is_right}

    def give_up() -> dict[str, Any]:
        """Raises FlagError, OSError."""
        with recorder.change():
            opened = case_file.give_up()
        _log.info("The open case was given up")
        return _end_of_case(opened, solved=False)

    def _end_of_case(opened: OpenCase, solved: bool) -> dict[str, Any]:
        """Raises FlagError, OSError."""
        description = file.flags()[opened.case.flag].description
        ended = {"open": False, "solved": solved, "service_is_right": solved, "description": description}
        return _case_state(opened) | ended | opened.case._asdict()

    @app.errorhandler(Exception)
    def failed(error: Exception) -> tuple[str | dict[str, str], int] | HTTPException:
        if isinstance(error, HTTPException):
            if error.code is None or error.code < 400:
                return error
            code, message = error.code, error.description or error.name
        else:
            is_refusal = isinstance(error, FlagError) and request.method == "POST"
            code = 409 if isinstance(error, CaseConflict) else 400 if is_refusal else 500
            message = str(error)
        if code >= 500:
            _log.error("%s: %s", type(error).__name__, message)
        return ({"error": message} if request.path.startswith(("/flags", "/case")) else page(message)), code

    def page(error: str = "", notice: str = "") -> str:
        try:
            flags, opened = case_file.present()
            changes, problem = recorder.latest(CHANGES), ""
        except (FlagError, OSError) as unreadable:
            return render_template("unreadable.html", error=error or str(unreadable))
        except psycopg.Error as unreachable:
            changes, problem = [], str(unreachable).splitlines()[0]
        faults = [flag for flag in flags.values() if flag.is_fault]
        return render_template(
            "faults.html",
            error=error,
            notice=notice,
            case=(state := _case_state(opened)),
            case_report=cases.report(state),
            answers=cases.choices(),
            services={name: list(group) for name, group in groupby(faults, key=lambda flag: flag.service)},
            changed=[flag for flag in flags.values() if flag.is_changed and flag.name != CASE],
            on=[flag for flag in faults if flag.parameters],
            now=in_effect(flags, opened),
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


def in_effect(flags: Mapping[str, Flag], opened: OpenCase | None) -> dict[str, Any]:
    """What GET /flags returns: the faults, the case, and the values of load and sampling; None if nothing gives one."""
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
        "case": _case_state(opened),
    }


def _case_state(opened: OpenCase | None) -> dict[str, Any]:
    """What GET /case returns."""
    if not opened:
        return {"open": False}
    return {
        "open": True,
        "seed": opened.seed,
        "begin": opened.begin.isoformat(),
        "seconds": round(opened.seconds(), 3),
        "attempts": opened.attempts,
    }


def _setting(name: str, default: float) -> float | None:
    """None for what is no number, with which load does not start."""
    value = number(os.environ.get(name) or default)
    return None if math.isnan(value) else value


def _flags_body() -> dict[str, Any]:
    """Raises FlagError."""
    body = _json_body(_KEYS, _EXAMPLE)
    for key in body.keys() - {"reset"}:
        if not isinstance(body[key], dict):
            raise FlagError(f"{key} is not a JSON object; send something like {_EXAMPLE}")
    if "reset" in body and body != {"reset": True}:
        raise FlagError('a reset is {"reset": true}, and nothing else with it')
    return body


def _json_body(keys: Sequence[str], example: str) -> dict[str, Any]:
    """The body, an object with some of these keys. Raises FlagError."""
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise FlagError(f"the body is not JSON; send something like {example}") from None
    if not isinstance(body, dict) or not body:
        raise FlagError(f"the body is not a JSON object with some of {', '.join(keys)}; send something like {example}")
    if unknown := body.keys() - set(keys):
        raise FlagError(f"there is no key {min(unknown)!r}; name some of {', '.join(keys)}")
    return body


def _form_body() -> dict[str, Any]:
    """What a form of the page asks for, as the API's JSON."""
    form = request.form
    if "reset" in form:
        return {"reset": True}
    body: dict[str, Any] = {"set": dict(text.partition("=")[::2] for text in form.getlist("set"))}
    for key in ("load", "sampling"):
        body[key] = {name: form[name].strip() or None for name in CONTROLS[key] if name in form}
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
