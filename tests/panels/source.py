"""A stand-in for Grafana's PostgreSQL data source: the SQL that it sends for a panel, and the data frames it returns.

It follows pkg/tsdb/grafana-postgresql-datasource in https://github.com/grafana/grafana, and data/ in
https://github.com/grafana/grafana-plugin-sdk-go. A frame has the form in which Grafana's server sends it to browsers.
"""

import re
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

TYPE = "grafana-postgresql-datasource"
# Grafana's server computes the interval from the time range and the panel's width; here it is constant.
INTERVALS = {"$__interval_ms": "1000", "$__interval": "1s"}
NUMBERS = {"int8", "float8"}
KINDS = {"timestamptz": "time", "timestamp": "time", "date": "time", "bool": "boolean"} | dict.fromkeys(
    ("int2", "int4", "int8", "float4", "float8", "numeric"), "number"
)

Frame = dict[str, Any]
Field = dict[str, Any]
Values = list[Any]
Column = tuple[Field, Values]


def interpolate(sql: str, time_from: datetime, time_to: datetime, **variables: str) -> str:
    """The SQL that Grafana sends: it replaces variables first, and then macros. Raises KeyError for unknown ones.

    Source: packages/grafana-sql/src/datasource/SqlDatasource.ts (doubles the quotes in a variable with one value) and
    pkg/tsdb/grafana-postgresql-datasource/macros.go.
    """
    macros = {"__timeFrom": time_from, "__timeTo": time_to}
    sql = re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]].replace("'", "''"), sql)
    for name, value in INTERVALS.items():
        sql = sql.replace(name, value)
    return re.sub(
        r"\$([_a-zA-Z0-9]+)\(([^)]*)\)",
        lambda match: f"'{macros[match[1]].astimezone(UTC).isoformat().replace('+00:00', 'Z')}'",
        sql,
    )


class Result:
    """The rows of a query, and the types of its columns by their names."""

    def __init__(self, cursor: psycopg.Cursor) -> None:
        types = psycopg.adapters.types
        self.types = {column.name: types[column.type_code].name for column in cursor.description or ()}
        self.rows = cursor.fetchall()

    def column(self, name: str) -> Values:
        return [row[list(self.types).index(name)] for row in self.rows]

    def names(self, *types: str) -> list[str]:
        return [name for name, type_name in self.types.items() if type_name in types]


def frames(connection: psycopg.Connection, panel: dict, **parameters: Any) -> list[Frame]:
    """The results of a panel's queries; `parameters` are those of `interpolate`."""
    columns_of = {"table": _table, "time_series": _time_series}
    results = []
    for target in panel["targets"]:
        result = Result(connection.execute(interpolate(target["rawSql"], **parameters)))
        results.append(_frame(target["refId"], columns_of[target["format"]](result) if result.rows else []))
    return results


def _frame(ref_id: str, columns: list[Column]) -> Frame:
    return {
        "schema": {"refId": ref_id, "fields": [field for field, _ in columns]},
        "data": {"values": [values for _, values in columns]},
    }


def _table(result: Result) -> list[Column]:
    columns = zip(result.types.items(), zip(*result.rows, strict=True), strict=True)
    return [
        ({"name": name, "type": KINDS.get(type_name, "string")}, [_json_value(value) for value in values])
        for (name, type_name), values in columns
    ]


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return float(value) if isinstance(value, Decimal) else value


def _time_series(result: Result) -> list[Column]:
    """A field for the time, and one per number column, or per number column and combination of texts."""
    if "time" not in result.types:
        raise ValueError("no time column found")
    columns = _table(result)
    time = columns.pop(list(result.types).index("time"))
    time[0]["name"] = "Time"
    texts = [column for column in columns if column[0]["type"] == "string"]
    numbers = [_as_floats(column) for column in columns if column[0]["type"] != "string"]
    return _wide(time, texts, numbers) if texts else [time, *numbers]


def _as_floats(column: Column) -> Column:
    field, values = column
    return field | {"type": "number"}, [None if value is None else float(value) for value in values]


def _wide(time: Column, texts: list[Column], numbers: list[Column]) -> list[Column]:
    if time[1] != sorted(time[1]):
        raise ValueError("long series must be sorted ascending by time to be converted")
    names = [field["name"] for field, _ in texts]
    # A null becomes an empty label.
    rows = list(zip(*([text or "" for text in values] for _, values in texts), strict=True))
    times = list(dict.fromkeys(time[1]))
    wide = [(time[0], times)]
    for field, values in sorted(numbers, key=lambda number: number[0]["name"]):
        for labels, by_time in sorted(_series(rows, time[1], values).items()):
            labelled = _labelled(field, dict(zip(names, labels, strict=True)), len(numbers))
            wide.append((labelled, [by_time.get(moment) for moment in times]))
    return wide


def _series(rows: list[tuple], times: Values, values: Values) -> dict[tuple, dict[Any, Any]]:
    """The values of each combination of texts by their times."""
    series: dict[tuple, dict[Any, Any]] = defaultdict(dict)
    for labels, moment, value in zip(rows, times, values, strict=True):
        series[labels][moment] = value
    return series


def _labelled(field: Field, labels: dict[str, str], number_count: int) -> Field:
    """The field with these labels. A single text column `metric` is the name of the field, for compatibility."""
    if list(labels) == ["metric"] and number_count == 1:
        return field | {"name": labels["metric"]}
    return field | {"labels": labels}
