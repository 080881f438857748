"""A stand-in for Grafana's PostgreSQL data source: what SQL it sends for a panel, and what data frames it answers.

Its rules are those of pkg/tsdb/grafana-postgresql-datasource in https://github.com/grafana/grafana, and of data/ in
https://github.com/grafana/grafana-plugin-sdk-go. A frame here is what Grafana's server sends to the browser.
"""

import re
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal

import psycopg

TYPE = "grafana-postgresql-datasource"
# What Grafana's server puts in for a step; it would depend on the time range and the panel's width.
INTERVALS = {"$__interval_ms": "1000", "$__interval": "1s"}
NUMBERS = {"int8", "float8"}
KINDS = {"timestamptz": "time", "timestamp": "time", "date": "time", "bool": "boolean"} | dict.fromkeys(
    ("int2", "int4", "int8", "float4", "float8", "numeric"), "number"
)

Frame = dict[str, dict]
Field = dict[str, object]
Values = list[object]


def filled_in(sql: str, time_from: datetime, time_to: datetime, **variables: str) -> str:
    """The SQL that Grafana sends: first it fills in variables, and then macros, wherever it sees any.

    Rules: packages/grafana-sql/src/datasource/SqlDatasource.ts (of a variable with one value, quotes are doubled) and
    pkg/tsdb/grafana-postgresql-datasource/macros.go of its sources. KeyError for what Grafana does not know.
    """
    macros = {"__timeFrom": time_from, "__timeTo": time_to}
    sql = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]].replace("'", "''"), sql)
    for name, value in INTERVALS.items():
        sql = sql.replace(name, value)
    return re.sub(
        r"\$([_a-zA-Z0-9]+)\(([^)]*)\)",
        lambda found: f"'{macros[found[1]].astimezone(UTC).isoformat().replace('+00:00', 'Z')}'",
        sql,
    )


class Answer:
    """The rows of a query, and the names and types of its columns."""

    def __init__(self, cursor: psycopg.Cursor) -> None:
        types = psycopg.adapters.types
        self.types = {column.name: types[column.type_code].name for column in cursor.description}
        self.rows = cursor.fetchall()

    def column(self, name: str) -> list:
        return [row[list(self.types).index(name)] for row in self.rows]

    def names(self, *types: str) -> list[str]:
        return [name for name, type_name in self.types.items() if type_name in types]


def frames(connection: psycopg.Connection, panel: dict, **parameters) -> list[Frame]:
    """The answers to a panel's queries; `parameters` are those of `filled_in`."""
    made = {"table": _table, "time_series": _time_series}
    answered = []
    for target in panel["targets"]:
        answer = Answer(connection.execute(filled_in(target["rawSql"], **parameters)))
        answered.append(_frame(target["refId"], made[target["format"]](answer) if answer.rows else []))
    return answered


def _frame(ref_id: str, columns: list[tuple[Field, Values]]) -> Frame:
    return {
        "schema": {"refId": ref_id, "fields": [field for field, _ in columns]},
        "data": {"values": [values for _, values in columns]},
    }


def _table(answer: Answer) -> list[tuple[Field, Values]]:
    columns = zip(answer.types.items(), zip(*answer.rows, strict=True), strict=True)
    return [
        ({"name": name, "type": KINDS.get(type_name, "string")}, [_json_value(value) for value in values])
        for (name, type_name), values in columns
    ]


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return float(value) if isinstance(value, Decimal) else value


def _time_series(answer: Answer) -> list[tuple[Field, Values]]:
    """One field for the time, and one for each number; of rows with texts, one for each number and texts."""
    if "time" not in answer.types:
        raise ValueError("no time column found")
    columns = _table(answer)
    time = columns.pop(list(answer.types).index("time"))
    time[0]["name"] = "Time"
    texts = [column for column in columns if column[0]["type"] == "string"]
    numbers = [_as_floats(column) for column in columns if column[0]["type"] != "string"]
    return _wide(time, texts, numbers) if texts else [time, *numbers]


def _as_floats(column: tuple[Field, Values]) -> tuple[Field, Values]:
    field, values = column
    return field | {"type": "number"}, [None if value is None else float(value) for value in values]


def _wide(time, texts, numbers) -> list[tuple[Field, Values]]:
    if time[1] != sorted(time[1]):
        raise ValueError("long series must be sorted ascending by time to be converted")
    names = [field["name"] for field, _ in texts]
    # A text that is null makes an empty label.
    rows = list(zip(*([text or "" for text in values] for _, values in texts), strict=True))
    times = list(dict.fromkeys(time[1]))
    wide = [(time[0], times)]
    for field, values in sorted(numbers, key=lambda number: number[0]["name"]):
        for labels, by_time in sorted(_series(rows, time[1], values).items()):
            labelled = _labelled(field, dict(zip(names, labels, strict=True)), len(numbers))
            wide.append((labelled, [by_time.get(moment) for moment in times]))
    return wide


def _series(rows: list[tuple], times: Values, values: Values) -> dict[tuple, dict]:
    """For each combination of texts, its values by their times."""
    series = defaultdict(dict)
    for labels, moment, value in zip(rows, times, values, strict=True):
        series[labels][moment] = value
    return series


def _labelled(field: Field, labels: dict[str, str], how_many_numbers: int) -> Field:
    """A single column called `metric` names the field instead, as it did before there were labels."""
    if list(labels) == ["metric"] and how_many_numbers == 1:
        return field | {"name": labels["metric"]}
    return field | {"labels": labels}
