"""The results of statements: of the project's own, and of those that users write. No I/O."""

from typing import Any, NamedTuple

from queries import SERVICE_COLUMNS

Row = dict[str, Any]  # by column; the values are what psycopg makes of PostgreSQL's types
NUMBER_TYPES = {"int2", "int4", "int8", "float4", "float8", "numeric", "oid"}


class QueryResult(NamedTuple):
    columns: list[str]
    rows: list[tuple[Any, ...]]

    def values(self, column: str) -> list[Any]:
        index = self.columns.index(column)
        return [row[index] for row in self.rows]

    def services(self) -> set[str]:
        """The names of services in all columns that have such names."""
        return {name for column in SERVICE_COLUMNS if column in self.columns for name in self.values(column)}

    def text_columns(self) -> list[int]:
        """Indexes of the columns that have texts; there must be a row."""
        return [index for index, value in enumerate(self.rows[0]) if isinstance(value, str)]

    def as_dicts(self) -> list[Row]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class TextResult(NamedTuple):
    """The result of a user's statement: each value as text or None.

    `types` are PostgreSQL's names, as int8 or int8[]: of a domain that of its base type, and of types that users have
    made the number of the type. Arrays, records, json and jsonb are texts in JSON.
    """

    columns: list[str]
    types: list[str]
    rows: list[list[str | None]]

    @property
    def numbers(self) -> list[bool]:
        """Which columns have numbers."""
        return [name in NUMBER_TYPES for name in self.types]
