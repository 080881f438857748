"""What a person reads in Grafana's panels: see panels.cjs."""

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
    """What panels.cjs needs to know of a panel."""
    return {
        "panel": panel,
        "frames": source.frames(connection, panel, time_from=time_from, time_to=time_to, **variables),
        "variables": variables,
        "range": {"from": milliseconds(time_from), "to": milliseconds(time_to)},
    }


def read(requests: list[dict]) -> list[dict]:
    """What there is to read in each of the panels."""
    done = built.node(PROGRAM, json.dumps(requests))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
