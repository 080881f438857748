"""Reads a list of traces from the database page by page: in several orders, with attributes of each trace.

A page begins after a key, so that pages stay the same while other traces are stored. The database's timeout bounds
every statement.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import aiosql

from explorer.analysis.matching import attributes_of, matching
from explorer.analysis.selection import Selection
from explorer.database import Database
from explorer.store import TraceSummary, trace_summary
from promscale.jaeger import TRACE_SUMMARIES, attributes_of_times, summary

MAX_KEY = 2**63 - 1
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATEMENTS = aiosql.from_path(Path(__file__).with_name("trace_list.sql"), "psycopg")


class Order(NamedTuple):
    """An order of traces: its name, and the names of the pages on both sides of a page."""

    name: str
    previous: str
    next: str


ORDERS = {
    "newest": Order("newest first", "Newer traces", "Older traces"),
    "longest": Order("longest first", "Longer traces", "Shorter traces"),
    "spans": Order("most spans first", "Traces with more spans", "Traces with fewer spans"),
    "errors": Order("most errors first", "Traces with more errors", "Traces with fewer errors"),
}


class Key(NamedTuple):
    """A trace's place in an order: microseconds since 1970 or of its duration, or a count of spans."""

    value: int
    trace_id: UUID

    def __str__(self) -> str:
        return f"{self.value}-{self.trace_id.hex}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Raises ValueError."""
        match = re.fullmatch("([0-9]{1,19})-([0-9a-f]{32})", text)
        if not match or int(match[1]) > MAX_KEY:
            raise ValueError(f"{text!r} is not the key of a trace")
        return cls(int(match[1]), UUID(match[2]))


class Call(NamedTuple):
    """A call of the callee by the caller; "" is any other service, or none."""

    caller: str
    callee: str
    failed: bool


class Place(NamedTuple):
    """Where a page is: it has the first traces after a key, or the last before one; without a key, the first of all."""

    key: Key | None = None
    before: bool = False


class Page(NamedTuple):
    """Traces in their order, and the places of the pages on both sides; None where there is none."""

    traces: list[TraceSummary]
    previous: Place | None
    next: Place | None


def read_page(
    database: Database, selection: Selection, order: str, place: Place, limit: int, call: Call | None = None
) -> Page:
    """A page of the traces of the selection; only those with the call if it is given. Raises psycopg.Error."""
    rows = _keys(database, selection, order, place, limit + 1, call)
    more, rows = len(rows) > limit, rows[:limit]
    if place.before:
        rows.reverse()
    summaries = _summaries(database, [row.trace_id for row in rows])
    has_previous, has_next = (more, True) if place.before else (place.key is not None, more)
    return Page(
        [summaries[row.trace_id] for row in rows if row.trace_id in summaries],
        Place(rows[0], before=True) if rows and has_previous else None,
        Place(rows[-1]) if rows and has_next else None,
    )


def read_attributes(
    database: Database, selection: Selection, traces: list[TraceSummary], keys: list[str]
) -> Mapping[tuple[str, str], str]:
    """The texts of these attributes, by the hexadecimal trace id and the key. Raises psycopg.Error.

    A trace's value is that of its first span that matches the selection and has the attribute, or otherwise of its
    first span that has it.
    """
    if not (keys and traces):
        return {}
    matches = matching(selection)
    values = matches.parameters | {"trace_ids": [UUID(trace.id) for trace in traces], "keys": keys}
    rows = database.run(_STATEMENTS.attributes.sql.replace("{matches}", matches.text), values).rows
    return {(trace_id.hex, key): value for trace_id, key, value in rows}


def _keys(
    database: Database, selection: Selection, order: str, place: Place, most: int, call: Call | None
) -> list[Key]:
    matches = matching(selection)
    direction, comparison = ("asc", ">") if place.before else ("desc", "<")
    values = matches.parameters | {"most": most}
    if order == "newest" and not database.is_distributed:
        statement, key_column = _STATEMENTS.newest.sql, "found.last_start"
        values |= {"first_start": selection.time_from, "last_start": selection.time_to - _MICROSECOND}
        values["attributes"] = attributes_of_times(attributes_of(selection))
        if place.key:
            key_time = _EPOCH + timedelta(microseconds=place.key.value)
            values |= {"key": key_time, "first_start" if place.before else "last_start": key_time}
    else:
        statement, key_column = _STATEMENTS.ranked.sql, "key"
        measure = "last_start" if order == "newest" else order
        statement = statement.replace("{measure}", getattr(_STATEMENTS, measure).sql)
        values["key"] = place.key.value if place.key else None
    beyond = "true"
    if place.key:
        beyond = f"({key_column}, found.trace_id) {comparison} (%(key)s, cast(%(key_trace_id)s as uuid))"
        values["key_trace_id"] = place.key.trace_id
    if call:
        values |= {"caller": call.caller, "callee": call.callee, "call_failed": call.failed}
    parts = {
        "{matches}": matches.text,
        "{beyond}": beyond,
        "{called}": _STATEMENTS.called.sql if call else "true",
        "{order}": direction,
    }
    for name, text in parts.items():
        statement = statement.replace(name, text)
    return [Key(*row) for row in database.run(statement, values).rows]


def _summaries(database: Database, trace_ids: list[UUID]) -> dict[UUID, TraceSummary]:
    rows = database.run(TRACE_SUMMARIES, {"trace_ids": trace_ids}).rows if trace_ids else []
    return {row[0]: trace_summary(summary(row)) for row in rows}
