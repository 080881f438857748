"""Grafana's dashboards as they are provisioned, and what their panels show."""

import json
from pathlib import Path

FILES = sorted((Path(__file__).parents[2] / "grafana").glob("*/*.json"))
HOME = "home"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
