"""From the rows of a statement to the cells of a table, for templates/table.html. No I/O."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, tzinfo
from functools import partial
from typing import Any, NamedTuple

from markupsafe import Markup

from explorer import links
from explorer.links import TimeRange
from explorer.results import QueryResult, Row, TextResult
from explorer.waterfall import cut
from explorer.web import clock, quantity, traces_url
from queries import PERCENT, SERVICE_COLUMNS, Panel, Unit, label, unit

_MAX_LENGTH = 120  # of a text
_MAX_NAME, _MAX_VALUE = 80, 300  # of a column's name and a value, as texts of a user's statement
_LONG = 60  # a longer value needs several lines
_SHOWN_OF_TRACE_ID = 8
# The columns with ids of the views: of spans, of their parents, and of linked ones.
_ID_COLUMN = re.compile(r"(linked_)?(?:trace_id|((?:parent_)?span_id))")
_WORDS = ("timestamptz", "timestamp", "date", "uuid")  # types whose texts are shown on one line
_TRACE_ID = re.compile("[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BIGINT = re.compile(r"-?\d{1,19}")


class Cell(NamedTuple):
    text: str
    classes: str = ""
    title: str = ""
    url: str = ""
    time: str = ""  # of a cell with a time, in ISO 8601
    colour: int | None = None  # of a service, as an index in COLOURS


_NULL = Cell(Markup("<i>null</i>"))


class Table(NamedTuple):
    heads: list[Cell]
    rows: list[list[Cell]]


def table(
    panel: Panel, result: QueryResult, colours: Mapping[str, int], zone: tzinfo, time_range: TimeRange | None = None
) -> Table:
    """A table of a result with at least one row. With a time range, its cells have the panel's links.

    `colours` are those of the services, as indexes in COLOURS.
    """
    columns, rows = result
    cells = [_cells(panel, column, colours, zone) for column in columns]
    plain = [[make(value) for make, value in zip(cells, row, strict=True)] for row in rows]
    heads = [
        Cell(label(column), "number" if isinstance(value, (int, float)) else "")
        for column, value in zip(columns, rows[0], strict=True)
    ]
    if time_range is None or not panel.links:
        return Table(heads, plain)
    linked = [
        [_linked(cell, urls.get(column)) for cell, column in zip(row, columns, strict=True)]
        for row, urls in zip(plain, (_urls(panel, row, time_range) for row in result.as_dicts()), strict=True)
    ]
    return Table(heads, linked)


def text_table(result: TextResult) -> Table:
    """A table of the result of a user's statement. Trace ids and span ids are links."""
    classes = [
        "number" if is_number else "word" if kind in _WORDS else ""
        for kind, is_number in zip(result.types, result.numbers, strict=True)
    ]
    heads = [Cell(cut(column, _MAX_NAME), kind) for column, kind in zip(result.columns, classes, strict=True)]
    makers = [_id_link(result.columns, column) for column in range(len(result.columns))]
    return Table(
        heads,
        [
            [
                _NULL._replace(classes=kind) if text is None else make(_text_cell(text, kind), row)
                for text, kind, make in zip(row, classes, makers, strict=True)
            ]
            for row in result.rows
        ],
    )


def _text_cell(text: str, kind: str) -> Cell:
    return Cell(cut(text, _MAX_VALUE), kind or ("long" if len(text) > _LONG else ""))


def _id_link(columns: Sequence[str], column: int) -> Callable[[Cell, Sequence[str | None]], Cell]:
    """What adds the link to the cells of a column, if it has ids. A span's link needs its trace in the same row."""
    found = _ID_COLUMN.fullmatch(columns[column])
    trace_column = f"{found[1] or ''}trace_id" if found else ""
    if found is None or trace_column not in columns:
        return lambda cell, row: cell
    place, is_span = columns.index(trace_column), bool(found[2])

    def linked(cell: Cell, row: Sequence[str | None]) -> Cell:
        trace, span = _TRACE_ID.fullmatch(row[place] or ""), _BIGINT.fullmatch(row[column] or "") if is_span else None
        if trace is None or (is_span and span is None):
            return cell
        path = "trace/" + trace[0].replace("-", "")
        if span is None:
            return cell._replace(title="This trace", url=traces_url(path))
        return cell._replace(title="This span", url=traces_url(f"{path}#span={int(span[0]) % 2**64:016x}"))

    return linked


def _cells(panel: Panel, column: str, colours: Mapping[str, int], zone: tzinfo) -> Callable[[Any], Cell]:
    """What makes the cells of a column."""
    if column in SERVICE_COLUMNS:
        return lambda value: Cell(cut(value, _MAX_LENGTH), colour=colours[value])
    if column == "trace_id":
        return lambda value: Cell(value[:_SHOWN_OF_TRACE_ID], "code")
    return partial(_cell, unit=unit(column), thresholds=panel.thresholds, zone=zone)


def _cell(value: Any, unit: Unit, thresholds: tuple[float, float] | None, zone: tzinfo) -> Cell:
    match value:
        case None:
            return Cell("")
        case bool() | str():
            return Cell(cut(str(value), _MAX_LENGTH))
        case int() | float():
            return Cell(quantity(value, unit), f"number{_level(value, unit, thresholds)}")
        case datetime():
            return Cell(clock(value, zone), time=value.isoformat())
    return Cell(cut(str(value), _MAX_LENGTH))


def _level(value: float, unit: Unit, thresholds: tuple[float, float] | None) -> str:
    if thresholds is None or unit != PERCENT:
        return ""
    warning, bad = thresholds
    return " bad" if value >= bad else " warning" if value >= warning else ""


def _urls(panel: Panel, row: Row, time_range: TimeRange) -> Mapping[str, tuple[str, str]]:
    """Title and URL of the cells of a row that have a link, by column. Zeros and empty cells have none."""
    paths = ((link, links.path(link, row, time_range)) for link in panel.links if row.get(link.column))
    return {link.column: (link.title, traces_url(path)) for link, path in paths if path}


def _linked(cell: Cell, link: Sequence[str] | None) -> Cell:
    return cell if link is None else cell._replace(title=link[0], url=link[1])
