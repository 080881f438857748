"""A selection as a condition of SQL, shared by all statements about a set of traces. No I/O."""

from pathlib import Path
from typing import NamedTuple

import aiosql
from psycopg import sql

from explorer.analysis.selection import Selection
from promscale.jaeger import HAS_ATTRIBUTE, Attribute

_STATEMENTS = aiosql.from_path(Path(__file__).with_name("analysis.sql"), "psycopg")


class Condition(NamedTuple):
    """A condition on a row of the view jaeger_span, whose columns it names without a table, and its parameters."""

    text: str
    parameters: dict[str, object]

    def indented(self, spaces: int) -> str:
        return self.text.replace("\n", "\n" + spaces * " ")


def matching(selection: Selection) -> Condition:
    """A span fulfils the selection, but for its time. Attributes are found wherever a search in Jaeger finds them."""
    parameters = selection.parameters()
    attributes = []
    for number, attribute in enumerate(attributes_of(selection)):
        values = {f"tag_{number}_{name}": value for name, value in attribute.parameters().items()}
        names = dict(zip(attribute.parameters(), map(sql.Placeholder, values), strict=True))
        attributes.append(sql.SQL(HAS_ATTRIBUTE).format(**names).as_string().replace("\n", "\n    "))
        parameters |= values
    return Condition(
        _STATEMENTS.matches.sql.replace("{attributes}", "\n    and ".join(attributes) or "true"), parameters
    )


def attributes_of(selection: Selection) -> list[Attribute]:
    return [Attribute.of(key, value) for key, value in selection.tags.items()]
