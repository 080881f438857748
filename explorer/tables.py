"""From the rows of a statement to the cells of a table, for templates/table.html. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, tzinfo
from functools import partial
from typing import Any, NamedTuple

from explorer import links
from explorer.links import TimeRange
from explorer.results import QueryResult, Row
from explorer.waterfall import cut
from explorer.web import clock, quantity, traces_url
from queries import PERCENT, SERVICE_COLUMNS, Panel, Unit, label, unit

_MAX_LENGTH = 120  # of a text
_SHOWN_OF_TRACE_ID = 8


class Cell(NamedTuple):
    text: str
    classes: str = ""
    title: str = ""
    url: str = ""
    time: str = ""  # of a cell with a time, in ISO 8601
    colour: int | None = None  # of a service, as an index in COLOURS


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
