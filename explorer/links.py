"""From a panel's figures to the traces behind them: paths on the pages of port 16686. No I/O."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from explorer.query import MAX_MICROS
from queries import Link

# A panel can have thousands of links, and a server takes no URL of any length. What would be longer is no link.
LONGEST = 2_000
_UNKNOWN = ("{start}", "{end}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Times = tuple[datetime, datetime]  # from the first one until before the second one


def path(link: Link, row: Mapping[str, object], shown: Times) -> str:
    """Where a row leads, of which all is known here; `shown` is the time of the rows that have none. "" is nowhere."""
    times = (row["time"], row["time_end"]) if "time_end" in row else shown
    found = link.path(lambda column: quoted(row[column]), *_range(times))
    return found if len(found) <= LONGEST else ""


def line_template(link: Link, row: Mapping[str, object]) -> str:
    """Where the points of a line lead, whose names are those of `row`: the browser fills in {start} and {end}."""
    found = link.path(lambda column: quoted(row[column]), *_UNKNOWN)
    return found if len(found) <= LONGEST else ""


def template(link: Link, columns: Sequence[str], shown: Times | None) -> str:
    """Where all figures of a chart lead: the browser fills in `quoted` values, for {0} that of the first of `columns`.

    Without `shown`, each figure has times of its own, as those of a line.
    """
    return link.path(lambda column: f"{{{columns.index(column)}}}", *(_range(shown) if shown else _UNKNOWN))


def quoted(value: object) -> str:
    """For a URL. Numbers have plain decimals, for Go's durations have no exponents; six of a millisecond are enough."""
    return quote(f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value), safe="")


def micros(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _range(times: Times) -> tuple[str, str]:
    """As a search has it, which includes its end."""
    begin, end = (min(max(micros(time), 0), MAX_MICROS) for time in times)
    return str(begin), str(max(end - 1, begin))
