"""Grafana's dashboards as they are provisioned, and what their panels show."""

import json
from pathlib import Path

FILES = sorted((Path(__file__).parents[2] / "grafana").glob("*/*.json"))
HOME = "home"
ALL = {path.stem: json.loads(path.read_text()) for path in FILES}
# The dashboards of the demo, and those of the workshop, whose panels have no links and do not follow the time range.
DASHBOARDS = {name: dashboard for name, dashboard in ALL.items() if "workshop" not in dashboard.get("tags", ())}
WORKSHOP = {name: dashboard for name, dashboard in ALL.items() if name not in DASHBOARDS}
