"""Grafana's own answers, on a machine where its image can be had: what a user of the full stack would meet."""

import json
import re

import pytest
import requests

from tests.compose.images import docker
from tests.panels import DASHBOARDS, HOME
from tests.panels.checks import check_panel
from tests.panels.reading import read
from tests.stack.checkout import wait_for

GRAFANA = "http://localhost:3000/api"
ADMIN = ("admin", "admin")
BOARDS = {found["uid"]: found for name, found in DASHBOARDS.items() if name != HOME}
CHOSEN = {"service": "generator", "operation": "generator.generate", "jaeger": "http://localhost:16686"}
EMPTY = {"from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:15:00Z"}
RANGE = {"from": 1, "to": 2}  # milliseconds; only links have it
SIZE = 200_000  # bytes of an answer


@pytest.fixture(autouse=True)
def grafana(stack):
    if "grafana" not in wait_for(stack.pids, "health"):
        pytest.skip("there is no image of Grafana here, and no stand-in for it")


def ask(path: str, **options) -> dict:
    answer = requests.get(f"{GRAFANA}/{path}", timeout=60, **options)
    assert answer.ok, answer.text
    return answer.json()


def query(targets: list[dict], **range: str) -> tuple[list[dict], int]:
    """The frames of a panel's queries, for someone who has not logged in, and the size of the answer in bytes."""
    queries = [
        target | {name: filled(target[name]) for name in ("rawSql", "query") if name in target} | {"intervalMs": 1000}
        for target in targets
    ]
    asked = {"queries": queries, "from": "now-15m", "to": "now"} | range
    answer = requests.post(f"{GRAFANA}/ds/query", json=asked, timeout=60)
    assert answer.ok, answer.text
    results = answer.json()["results"].values()
    assert not [result["error"] for result in results if "error" in result]
    return [frame for result in results for frame in result["frames"]], len(answer.content)


def filled(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda name: CHOSEN[name[1]], text)


def panels(kind: str) -> list:
    return [
        pytest.param(panel, id=f"{name}-{panel['id']}")
        for name, found in DASHBOARDS.items()
        for panel in found["panels"]
        if (panel["type"] == "traces") == (kind == "traces") and panel["type"] != "text"
    ]


@pytest.mark.parametrize("uid", ["promscale-sql", "promscale-tracing"])
def test_the_data_source_works(uid):
    assert ask(f"datasources/uid/{uid}/health", auth=ADMIN)["status"] == "OK"


@pytest.mark.parametrize("uid", BOARDS)
def test_it_shows_the_dashboards_of_the_checkout(uid):
    served = ask(f"dashboards/uid/{uid}")["dashboard"]
    assert served["title"] == BOARDS[uid]["title"]
    assert [panel["targets"] for panel in served["panels"]] == [panel["targets"] for panel in BOARDS[uid]["panels"]]
    assert [panel["fieldConfig"] for panel in served["panels"] if panel["type"] != "traces"] == [
        panel["fieldConfig"] for panel in BOARDS[uid]["panels"] if panel["type"] != "traces"
    ]


def test_the_first_page_is_our_own():
    home = ask("dashboards/home")["dashboard"]
    assert home["title"] == DASHBOARDS[HOME]["title"]
    assert len(home["panels"]) == len(DASHBOARDS[HOME]["panels"])


@pytest.mark.parametrize("panel", panels("sql"))
def test_each_panel_shows_its_figures_and_leads_to_traces(panel):
    """What Grafana's own library makes of Grafana's own answers."""

    def complete() -> list[dict] | None:
        frames, _ = query(panel["targets"])
        has_rows = all(frame["schema"]["fields"] and frame["data"]["values"][0] for frame in frames)
        return frames if frames and has_rows else None

    frames = wait_for(complete, f"rows for {panel['title']}")
    [reading] = read([{"panel": panel, "frames": frames, "variables": CHOSEN, "range": RANGE}])
    check_panel(panel, reading)


@pytest.mark.parametrize("panel", panels("sql"))
def test_a_panel_without_rows_has_no_error(panel):
    frames, _ = query(panel["targets"], **EMPTY)
    [reading] = read([{"panel": panel, "frames": frames, "variables": CHOSEN, "range": RANGE}])
    assert "error" not in reading
    assert reading["empty"] or panel["type"] in ("stat", "timeseries")


@pytest.mark.parametrize("days", [1, 7])
def test_series_of_long_times_are_small(days):
    for panel in DASHBOARDS["01-request-rate"]["panels"]:
        frames, size = query(panel["targets"], **{"from": f"now-{days}d"})
        assert size < SIZE
        assert 100 < len(frames[0]["data"]["values"][0]) <= 1000


@pytest.mark.parametrize("panel", panels("traces"))
def test_a_trace_is_read_from_jaeger(stack, panel):
    trace_id = requests.get(stack.generator, timeout=60).json()["trace_id"]
    target = panel["targets"][0] | {"query": trace_id}

    def spans() -> list | None:
        try:
            frames, _ = query([target])
        except AssertionError:
            return None  # not there yet
        [ids] = [
            values
            for field, values in zip(frames[0]["schema"]["fields"], frames[0]["data"]["values"], strict=True)
            if field["name"] == "spanID"
        ]
        return ids

    assert len(wait_for(spans, "the trace")) > 1


@pytest.mark.parametrize("uid", BOARDS)
def test_a_variable_always_has_a_row(uid):
    for variable in BOARDS[uid]["templating"]["list"]:
        if variable["type"] == "query":
            target = {
                "refId": "A",
                "datasource": variable["datasource"],
                "format": "table",
                "rawSql": variable["query"],
            }
            for range in ({}, EMPTY):
                [frame], _ = query([target], **range)
                assert frame["schema"]["fields"] and frame["data"]["values"][0], variable["name"]


def test_who_has_not_logged_in_may_explore_and_save_nothing():
    assert "datasources:explore" in ask("access-control/user/permissions")
    saved = requests.post(f"{GRAFANA}/dashboards/db", json={"dashboard": {"title": "mine"}}, timeout=60)
    assert saved.status_code in (401, 403)


def test_nothing_is_asked_of_or_shown_from_other_places():
    settings = ask("frontend/settings")
    assert not settings["newsFeedEnabled"]
    assert not settings["externalUserMngLinkUrl"]
    apps = [plugin["id"] for plugin in ask("plugins?type=app&core=0", auth=ADMIN)]
    assert apps == []


def test_answers_are_not_compressed():
    answer = requests.get(f"{GRAFANA}/frontend/settings", headers={"Accept-Encoding": "gzip"}, timeout=60)
    assert "Content-Encoding" not in answer.headers


def test_it_started_once_and_without_errors(stack):
    state = json.loads(docker("inspect", stack.container("grafana")).stdout)[0]
    assert state["RestartCount"] == 0
    log = docker("logs", stack.container("grafana"))
    assert [line for line in (log.stdout + log.stderr).splitlines() if "level=error" in line] == []
