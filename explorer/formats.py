"""The result of a user's statement as a file: CSV and JSON. No I/O."""

import csv
import io
import json
import re

from explorer.database import RefusedStatement
from explorer.results import NUMBER_TYPES, TextResult

_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


def csv_text(result: TextResult) -> str:
    """With a line of names; null is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_without_formula, result.columns))
    for row in result.rows:
        writer.writerow(
            value if is_number or value is None else _without_formula(value)
            for value, is_number in zip(row, result.numbers, strict=True)
        )
    return text.getvalue()


def _without_formula(text: str) -> str:
    """A text that spreadsheets do not execute as a formula: https://owasp.org/www-community/attacks/CSV_Injection"""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def json_text(result: TextResult) -> str:
    """An array with an object per row, each on its line.

    Numbers have all digits of PostgreSQL's. Arrays, records, and the objects and arrays of json and jsonb are nested;
    all else, as a time, NaN, or a text in a jsonb column, is a string. Raises RefusedStatement if columns share a
    name.
    """
    if duplicates := [name for name in result.columns if result.columns.count(name) > 1]:
        raise RefusedStatement(f"Several columns are named {duplicates[0]}. In JSON, each needs a name of its own.")
    names = [json.dumps(name, ensure_ascii=False) for name in result.columns]
    lines = [
        ", ".join(f"{name}: {_json(value, kind)}" for name, value, kind in zip(names, row, result.types, strict=True))
        for row in result.rows
    ]
    return "[" + ",\n ".join(f"{{{line}}}" for line in lines) + "]\n"


def _json(value: str | None, kind: str) -> str:
    if value is None:
        return "null"
    if kind == "bool" or (kind in NUMBER_TYPES and _JSON_NUMBER.fullmatch(value)):
        return value
    if _may_nest(kind) and value.startswith(("{", "[")) and _is_json(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _may_nest(kind: str) -> bool:
    """Types that users have made, as composite types, have no name."""
    return kind in ("json", "jsonb", "record") or kind.endswith("[]") or kind.isdecimal()


def _is_json(text: str) -> bool:
    """A text in a jsonb column may only look like an array or an object."""
    try:
        json.loads(text, parse_int=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is Python's, but not JSON's")
