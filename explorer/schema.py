"""What a user's statement can read, from the database's catalogue."""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import aiosql

from explorer.database import Database

_queries = aiosql.from_path(Path(__file__).with_name("schema.sql"), "psycopg")


class Column(NamedTuple):
    name: str
    type: str
    comment: str


class View(NamedTuple):
    name: str
    comment: str
    columns: list[Column]


def read_views(database: Database) -> list[View]:
    """The views of the SQL interface by name, and their columns in order; comments are "" where there are none.

    Raises psycopg.Error.
    """
    rows = database.run(_queries.columns_of_views.sql, {}).rows
    return [
        View(name, comment, [Column(*column) for _, _, *column in columns])
        for (name, comment), columns in groupby(rows, key=lambda row: row[:2])
    ]
