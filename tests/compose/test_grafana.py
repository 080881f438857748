"""Grafana's own answers: it reaches its data sources, and each panel of the six dashboards gets its data through it."""

import re

import pytest
import requests

from tests.stack.checkout import wait_for

GRAFANA = "http://localhost:3000/api"
ADMIN = ("admin", "admin")
DASHBOARDS = ["QoZDH91nk", "CiE9l917z", "GkrS6rJ7z", "scyq99J7k", "lyIow61nz", "SdzI3eJnk"]
CHOSEN = {"service": "generator", "operation": "generator.generate"}


@pytest.fixture(autouse=True)
def grafana(stack):
    if "grafana" not in wait_for(stack.pids, "health"):
        pytest.skip("there is no image of Grafana here, and no stand-in for it")


def ask(path: str, **options) -> dict:
    answer = requests.get(f"{GRAFANA}/{path}", timeout=60, **options)
    assert answer.ok, answer.text
    return answer.json()


@pytest.mark.parametrize("uid", ["promscale-sql", "promscale-tracing"])
def test_the_data_source_works(uid):
    assert ask(f"datasources/uid/{uid}/health", auth=ADMIN)["status"] == "OK"


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_each_panel_gets_its_data(uid):
    """As someone who has not logged in."""
    for panel in ask(f"dashboards/uid/{uid}")["dashboard"]["panels"]:
        queries = [
            target | {"rawSql": re.sub(r"\$\{(\w+)\}", lambda name: CHOSEN[name[1]], target["rawSql"])}
            for target in panel["targets"]
        ]
        asked = {"queries": queries, "from": "now-15m", "to": "now"}
        answer = requests.post(f"{GRAFANA}/ds/query", json=asked, timeout=60)
        assert answer.ok, (panel["title"], answer.text)
        for result in answer.json()["results"].values():
            assert result["frames"] and "error" not in result, (panel["title"], result)
