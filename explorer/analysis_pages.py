"""Pages about many traces, on port 3000: what differs between them, their call trees, and where they spend their time.

The parameters of their URLs choose traces as in a search, with Jaeger's names (explorer/query.py), or one trace by its
id: `trace`. `against` says what these are compared with: `rest`, `previous`, or `other` with the parameters of the
other traces, as `other.service`. Those that it lacks are the same on both sides.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psycopg
from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from explorer import links
from explorer.analysis import questions
from explorer.analysis.differences import Finding, Measure
from explorer.analysis.paths import Frame
from explorer.analysis.sample import Sample, slow_ms
from explorer.analysis.selection import Selection
from explorer.database import Database, message
from explorer.query import (
    Parameters,
    bad_parameter,
    field_values,
    read_query,
    read_trace_id,
    read_zone,
)
from explorer.web import traces_url
from frame import with_query
from queries.dashboards import DASHBOARDS

AGAINST = {
    "rest": "the other traces",
    "previous": "the time before",
    "other": "other traces",
}
MIN_FRAME_SHARE = 1 / 2000  # narrower frames of a flame graph are not drawn
_OTHER = "other."
_RANGE = ("lookback", "start", "end")

Chosen = Selection | str  # a selection, or the id of one trace: 32 hex digits


class Sides(NamedTuple):
    """What a page is about, and what it is compared with. Without `second`: the rest of the time range's traces."""

    first: Chosen
    second: Chosen | None = None
    against: str = ""


class Question(NamedTuple):
    title: str
    description: str
    answer: Callable[[Database, Sides], str]  # HTML
    compares: bool = True


def analysis_pages(database: Database) -> Blueprint:
    """The pages /analysis/<question>, which load their content from /analysis/<question>/answer."""
    pages = Blueprint("analysis", __name__)

    @pages.get("/analysis/<name>")
    def show(name: str) -> str:
        question, parameters = _question(name), request.args
        sides = _read_sides(question, parameters)
        service = parameters.get("service", "")
        return render_template(
            "analysis.html",
            name=name,
            question=question,
            questions=QUESTIONS,
            query=request.query_string.decode(),
            **field_values(parameters),
            trace=sides.first if isinstance(sides.first, str) else "",
            services=database.names("services"),
            operations=database.names("operations", service=service) if service else [],
            sides=sides,
            against=AGAINST,
            other=_words_of_other(sides),
            kept=[(key, value) for key, value in parameters.items(multi=True) if key.startswith(_OTHER)],
            dashboards=DASHBOARDS,
            same_range=_dashboard_parameters(parameters),
            search=_own_parameters(parameters),
        )

    @pages.get("/analysis/slow")
    def slow() -> BaseResponse:
        """Leads to what differs in the traces with the slowest tenth of an operation's spans."""
        parameters: dict[str, object] = {**request.args.to_dict(flat=False)}
        try:
            limit_ms = slow_ms(database, Selection.of_query(read_query(request.args)))
        except psycopg.Error as error:
            raise ServiceUnavailable(message(error)) from error
        if limit_ms is not None:
            parameters["minDuration"] = f"{links.url_text(float(f'{limit_ms:.3g}'))}ms"
        return redirect(with_query(url_for(".show", name="differences"), parameters))

    @pages.get("/analysis/<name>/answer")
    def answer(name: str) -> str | tuple[str, int]:
        question = _question(name)
        try:
            return question.answer(database, _read_sides(question, request.args))
        except psycopg.Error as error:
            return render_template("panel_error.html", message=message(error)), 500

    @pages.get("/api/services/<path:service>/operations")
    def operations(service: str) -> dict[str, list[str]]:
        """As in Jaeger's API, for the form."""
        return {"data": database.names("operations", service=service)}

    return pages


def _question(name: str) -> Question:
    if question := QUESTIONS.get(name):
        return question
    abort(404, f"There is no such analysis: choose {', '.join(QUESTIONS)}.")


def _read_sides(question: Question, parameters: Parameters) -> Sides:
    """Raises BadRequest, which names the parameter."""
    first = _chosen(parameters)
    if not question.compares:
        return Sides(first)
    against = parameters.get("against") or _default_baseline(parameters, first)
    if against not in AGAINST:
        raise bad_parameter("against", f"is none of {', '.join(AGAINST)}")
    if against == "other":
        return Sides(first, _chosen(_other_parameters(parameters)), against)
    if isinstance(first, str):
        raise bad_parameter("against", "one trace can be compared with other traces only, as other.trace=...")
    return Sides(first, _previous(first) if against == "previous" else None, against)


def _default_baseline(parameters: Parameters, first: Chosen) -> str:
    if isinstance(first, str) or any(name.startswith(_OTHER) for name in parameters):
        return "other"
    return "rest" if first.narrows else "previous"


def _chosen(parameters: Parameters) -> Chosen:
    if trace := parameters.get("trace"):
        return read_trace_id(trace).hex()
    return Selection.of_query(read_query(parameters))


def _other_parameters(parameters: Parameters) -> Parameters:
    other = {name.removeprefix(_OTHER): values for name, values in parameters.lists() if name.startswith(_OTHER)}
    replaced = {*other, *(_RANGE if any(name in other for name in _RANGE) else ())}
    if other and "trace" not in other:
        replaced.add("trace")
    same = {name: values for name, values in parameters.lists() if name not in replaced}
    return MultiDict(same | other)


def _own_parameters(parameters: Parameters) -> dict[str, list[str]]:
    """The parameters that a search has, too."""
    return {name: values for name, values in parameters.lists() if not name.startswith(_OTHER) and name != "against"}


def _dashboard_parameters(parameters: Parameters) -> dict[str, str]:
    """The parameters of dashboards for the time of an analysis, and for its operation."""
    service, operation = parameters.get("service"), parameters.get("operation")
    variables = {"var-service": service, "var-operation": operation} if service and operation else {}
    return links.dashboard_range(parameters) | variables


def _previous(selection: Selection) -> Selection:
    length = selection.time_to - selection.time_from
    return dataclasses.replace(selection, time_from=selection.time_from - length, time_to=selection.time_from)


def _words_of_other(sides: Sides) -> str:
    if isinstance(sides.second, Selection):
        return sides.second.words()
    return f"trace {sides.second}" if sides.second else ""


def _differences(database: Database, sides: Sides) -> str:
    if isinstance(sides.first, str) or isinstance(sides.second, str):
        raise bad_parameter("trace", "what differs is a question about many traces; compare the call trees of two")
    result = questions.what_differs(database, sides.first, sides.second)
    findings = result.findings
    shown = [*findings.attributes, *findings.numbers, *findings.operations]
    shown += [other for finding in findings.attributes for other in finding.also]
    return render_template(
        "analysis_differences.html",
        samples=[_Shown.of(result.selected, sides.first), _Shown.of(result.baseline, sides.second, sides.first)],
        findings=findings,
        measure=_measure,
        url=lambda finding: _finding_url(finding, sides.first),
        statements=lambda finding: questions.finding_statements(finding, sides.first, sides.second),
        colours=database.colours(finding.service for finding in shown),
    )


def _measure(finding: Finding) -> str:
    """What is compared, in words."""
    where = finding.operations[0] if finding.operations else ""
    match finding.measure:
        case Measure.SLOW:
            return f"more: {where} is slow by itself"
        case Measure.ERRORS:
            return f"more: errors begin in {where}" if finding.value is not None else "more: errors begin here"
        case Measure.OCCURS:
            return "more often" if finding.score > 0 else "less often"
        case Measure.VALUE:
            return f"{'larger' if finding.score > 0 else 'smaller'}: median of the traces' means"
        case Measure.SELF_TIME:
            return f"{'longer' if finding.score > 0 else 'shorter'}: median self time, in ms"


def _finding_url(finding: Finding, selection: Selection) -> str:
    """The traces of the selection's time that have what was found."""
    narrowed: dict[str, object] = {"service": finding.service}
    if finding.value is not None:
        narrowed["tags"] = {finding.name: finding.value}
    elif finding.measure != Measure.VALUE:
        narrowed["operation"] = finding.name
        narrowed["failed"] = finding.measure == Measure.ERRORS
    plain = Selection(time_from=selection.time_from, time_to=selection.time_to)
    return _search_url(dataclasses.replace(plain, **narrowed))  # type: ignore[arg-type]


def _compare(database: Database, sides: Sides) -> str:
    """B is what the page is about, and A what it is compared with, so that a positive difference is a slowdown."""
    result = questions.compare_traces(database, sides.first, sides.second)
    largest = max((abs(row.self_difference) for row in result.paths), default=0)
    return render_template(
        "analysis_compare.html",
        samples=[_Shown.of(result.baseline, sides.second, sides.first), _Shown.of(result.selected, sides.first)],
        paths=result.paths,
        largest=largest,
        colours=database.colours(row.path[-1][0] for row in result.paths),
    )


class _Box(NamedTuple):
    """A frame of the flame graph; `left` and `share` are parts of the graph's width."""

    frame: Frame
    depth: int
    left: float
    share: float


def _flame(database: Database, sides: Sides) -> str:
    result = questions.aggregate_flame_graph(database, sides.first)
    total = sum(frame.total_ms for frame in result.roots)
    boxes = list(_boxes(result.roots, total))
    return render_template(
        "analysis_flame.html",
        samples=[_Shown.of(result.sample, sides.first)],
        boxes=boxes,
        rows=1 + max((box.depth for box in boxes), default=0),
        operations=_self_times(result.roots),
        total=total,
        colours=database.colours(box.frame.operation[0] for box in boxes),
    )


def _boxes(roots: Iterable[Frame], total: float) -> Iterable[_Box]:
    """From left to right the widest first, as the frames are sorted."""
    stack: list[tuple[Iterable[Frame], int, float]] = [(roots, 0, 0.0)]
    while stack:
        frames, depth, left = stack.pop()
        for frame in frames:
            share = frame.total_ms / total if total else 0.0
            if share >= MIN_FRAME_SHARE:
                yield _Box(frame, depth, left, share)
                stack.append((frame.children, depth + 1, left))
            left += share


class _SelfTime(NamedTuple):
    """All frames of one operation."""

    service: str
    operation: str
    spans: int
    errors: int
    self_ms: float


def _self_times(roots: Iterable[Frame]) -> list[_SelfTime]:
    """The largest self time first."""
    sums: dict[tuple[str, str], _SelfTime] = {}
    stack = list(roots)
    while stack:
        frame = stack.pop()
        stack += frame.children
        known = sums.get(frame.operation, _SelfTime(*frame.operation, 0, 0, 0.0))
        sums[frame.operation] = _SelfTime(
            *frame.operation, known.spans + frame.spans, known.errors + frame.errors, known.self_ms + frame.self_ms
        )
    return sorted(sums.values(), key=lambda row: -row.self_ms)


class _Shown(NamedTuple):
    """A sample; its traces in words, with times in the browser's zone; and their URL, or "" if no search finds them."""

    sample: Sample
    words: str
    url: str

    @classmethod
    def of(cls, sample: Sample, chosen: Chosen | None, other: Chosen = "") -> "_Shown":
        """Without `chosen`, the sample is of the rest of `other`."""
        zone = read_zone(request.args)
        match chosen, other:
            case Selection(), _:
                return cls(sample, chosen.words(zone), _search_url(chosen))
            case None, Selection():
                return cls(sample, other.rest_in_words(zone), "")
        return cls(sample, sample.words, traces_url(f"trace/{chosen}"))


def _search_url(selection: Selection) -> str:
    tags = dict(selection.tags) | ({"error": "true"} if selection.failed else {})
    begin, end = links.search_times((selection.time_from, selection.time_to))
    fields = {
        "service": selection.service,
        "operation": selection.operation,
        "tags": json.dumps(tags, ensure_ascii=False) if tags else "",
        "minDuration": "" if selection.min_ms is None else f"{selection.min_ms:.6f}ms",
        "maxDuration": "" if selection.max_ms is None else f"{selection.max_ms:.6f}ms",
        "lookback": "custom",
        "start": begin,
        "end": end,
    }
    return traces_url(with_query("search", {name: text for name, text in fields.items() if text}))


QUESTIONS = {
    "differences": Question(
        "What differs",
        "Which attributes and operations do the chosen traces have more often, or less, than the others? Differences"
        " that chance could explain are left out.",
        _differences,
    ),
    "compare": Question(
        "Compare call trees",
        "The same path of operations in two sets of traces: how often, how long, and where the difference comes from.",
        _compare,
    ),
    "flame": Question(
        "Flame graph",
        "Where do the chosen traces spend their time? Each frame is a path of operations; its width is the time that"
        " all its spans and those below them spend themselves.",
        _flame,
        compares=False,
    ),
}
