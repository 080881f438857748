"""The result of a statement of queries/. No I/O."""

from typing import Any, NamedTuple

Row = dict[str, Any]  # by column; the values are what psycopg makes of PostgreSQL's types


class QueryResult(NamedTuple):
    columns: list[str]
    rows: list[tuple[Any, ...]]

    def values(self, column: str) -> list[Any]:
        index = self.columns.index(column)
        return [row[index] for row in self.rows]

    def services(self) -> set[str]:
        """The values of the column service_name, if there is one."""
        return set(self.values("service_name")) if "service_name" in self.columns else set()

    def text_columns(self) -> list[int]:
        """Indexes of the columns that have texts; there must be a row."""
        return [index for index, value in enumerate(self.rows[0]) if isinstance(value, str)]

    def as_dicts(self) -> list[Row]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]
