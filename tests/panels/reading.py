"""What Grafana's panels show, found out by panels.cjs with Grafana's own library."""

import json
from datetime import datetime
from pathlib import Path

import psycopg

from tests import built
from tests.panels import source

PROGRAM = Path(__file__).with_name("panels.cjs")


def request(
    connection: psycopg.Connection, panel: dict, time_from: datetime, time_to: datetime, **variables: str
) -> dict:
    """The input of panels.cjs for a panel."""
    return {
        "panel": panel,
        "frames": source.frames(connection, panel, time_from=time_from, time_to=time_to, **variables),
        "variables": variables,
        "range": {"from": milliseconds(time_from), "to": milliseconds(time_to)},
    }


def read(requests: list[dict]) -> list[dict]:
    """The output of panels.cjs for each of the panels."""
    process = built.node(PROGRAM, json.dumps(requests))
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)


def milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
