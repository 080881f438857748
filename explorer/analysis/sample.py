"""Reads samples of traces from the database, for the questions of this package.

Everything is bounded: the traces of a sample, its spans, and by the database's timeout the time of each statement.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import aiosql
from psycopg import sql

from explorer.analysis import spans
from explorer.analysis.matching import matching
from explorer.analysis.selection import Selection
from explorer.analysis.spans import Span, Trace
from explorer.database import Database

MAX_TRACES = 300  # of a sample
MAX_SPANS = 100_000  # of a sample, and those of at most one more batch of traces
MAX_TRACE_SPANS = 2_000
_BATCH = 50  # traces that one statement reads

_STATEMENTS = aiosql.from_path(Path(__file__).with_name("analysis.sql"), "psycopg")
_ANY_TIME = {"time_from": "-infinity", "time_to": "infinity"}


class Sample(NamedTuple):
    """Traces, chosen from `of` traces by a hash of their ids: the same question has always the same sample."""

    words: str
    traces: list[Trace]
    of: int


def read_sides(database: Database, selection: Selection) -> tuple[Sample, Sample]:
    """Samples of the selection and of the rest, as Selection.rest_in_words describes it. Raises psycopg.Error."""
    chosen = _choose(database, selection)
    return _sample(database, selection, chosen, True), _sample(database, selection, chosen, False)


def read_sample(database: Database, selection: Selection) -> Sample:
    """A sample of the selection. Raises psycopg.Error."""
    return _sample(database, selection, _choose(database, selection), True)


def _choose(database: Database, selection: Selection) -> list[tuple[Any, ...]]:
    """The ids of the traces of both samples, which of them are selected, and how many traces their side has."""
    statement, values = _with_sides("sample", selection)
    return database.run(statement, values | {"most": MAX_TRACES}).rows


def _sample(database: Database, selection: Selection, chosen: Sequence[tuple[Any, ...]], selected: bool) -> Sample:
    rows = [(trace_id, of) for trace_id, is_selected, of in chosen if is_selected == selected]
    traces = _read(database, [trace_id for trace_id, _ in rows], selection.parameters())
    words = selection.words() if selected else selection.rest_in_words()
    return Sample(words, traces, rows[0][1] if rows else 0)


def read_trace(database: Database, trace_id: str) -> Sample:
    """One trace as a sample, by its id of 32 hex digits; without spans if it is not stored. Raises psycopg.Error."""
    traces = _read(database, [trace_id], _ANY_TIME)
    return Sample(f"trace {trace_id}", traces, len(traces))


def slow_ms(database: Database, selection: Selection) -> float | None:
    """The duration that one in ten spans of the selection's operation exceeds, whatever its other conditions are.

    None if there are no spans. Raises psycopg.Error.
    """
    [(duration,)] = database.run(_STATEMENTS.slow.sql, selection.parameters()).rows
    return duration


def counts_sql(selection: Selection, condition: str, service: str, key: str, value: str | None) -> str:
    """A statement for psql: how many traces of both sides have spans with a finding, of all traces and not of a sample.

    `condition` is the name of a condition in analysis.sql on spans of the service, with its key and value.
    """
    statement, values = _with_sides("counts", selection)
    text = statement.replace("{condition}", _condition(condition, "finding", 8))
    values |= {"finding_service": service, "finding_key": key, "finding_value": value}
    return re.sub(r"%\((\w+)\)s", lambda match: sql.Literal(values[match[1]]).as_string(), text) + ";"


def _with_sides(statement: str, selection: Selection) -> tuple[str, dict[str, Any]]:
    """A statement of analysis.sql that begins with `sides`, and its parameters for the selection."""
    matches = matching(selection)
    sides = _STATEMENTS.sides.sql.replace("{matches}", matches.indented(8))
    return f"with {sides}\n{_text(statement)}", matches.parameters


def _condition(name: str, parameter: str, indent: int) -> str:
    text = _text(name).replace("{key}", f"%({parameter}_key)s").replace("{value}", f"%({parameter}_value)s")
    return text.replace("\n", "\n" + indent * " ")


def _text(statement: str) -> str:
    return getattr(_STATEMENTS, statement).sql


def _read(database: Database, ids: Sequence[object], times: Mapping[str, object]) -> list[Trace]:
    found: list[Span] = []
    for begin in range(0, len(ids), _BATCH):
        if len(found) >= MAX_SPANS:
            break
        values = {"trace_ids": list(ids[begin : begin + _BATCH]), "most": MAX_TRACE_SPANS}
        values |= {name: times[name] for name in _ANY_TIME}
        found += _spans(database.run(_STATEMENTS.trace_spans.sql, values).rows)
    return spans.traces(found)


def _spans(rows: Iterable[tuple[Any, ...]]) -> Iterable[Span]:
    for trace_id, span_id, parent_id, service, name, start_micros, duration_ms, failed, tags, resource_tags in rows:
        start = start_micros * 1000
        yield Span(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent_id,
            service=service,
            name=name,
            start=start,
            end=start + max(round(duration_ms * 1_000_000), 0),
            failed=failed,
            tags=_parsed(tags),
            resource_tags=_parsed(resource_tags),
        )


@lru_cache(maxsize=10_000)
def _parsed(tags: str) -> dict[str, Any]:
    """Equal texts have one dictionary, because most spans share theirs with others."""
    return json.loads(tags)
