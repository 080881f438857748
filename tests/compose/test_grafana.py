"""A real Grafana in the full stack, on a machine where its image is available."""

import json
import re

import pytest
import requests

from tests.compose.images import docker
from tests.panels import ALL, DASHBOARDS, HOME
from tests.panels.checks import check_panel
from tests.panels.reading import read
from tests.waiting import wait_until

GRAFANA = "http://localhost:3000/api"
ADMIN = ("admin", "admin")
BY_UID = {dashboard["uid"]: dashboard for name, dashboard in ALL.items() if name != HOME}
VARIABLES = {"service": "generator", "operation": "generator.generate", "jaeger": "http://localhost:16686"}
EMPTY_RANGE = {"from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:15:00Z"}
LINK_RANGE = {"from": 1, "to": 2}  # milliseconds; used in links only
MAX_BYTES = 200_000  # of a response


@pytest.fixture(autouse=True)
def grafana(stack):
    if "grafana" not in wait_until(stack.pids, "health"):
        pytest.skip("no image of Grafana is available, and there is no stand-in for it")


def ask(path: str, **options) -> dict:
    response = requests.get(f"{GRAFANA}/{path}", timeout=60, **options)
    assert response.ok, response.text
    return response.json()


def query(targets: list[dict], time_range: dict[str, str] | None = None) -> tuple[list[dict], int]:
    """The frames that Grafana returns to an anonymous user for a panel's queries, and the response's size in bytes."""
    queries = [
        target
        | {name: interpolate(target[name]) for name in ("rawSql", "query") if name in target}
        | {"intervalMs": 1000}
        for target in targets
    ]
    body = {"queries": queries} | (time_range or {"from": "now-15m", "to": "now"})
    response = requests.post(f"{GRAFANA}/ds/query", json=body, timeout=60)
    assert response.ok, response.text
    results = response.json()["results"].values()
    assert not [result["error"] for result in results if "error" in result]
    return [frame for result in results for frame in result["frames"]], len(response.content)


def interpolate(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: VARIABLES[match[1]], text)


def panels(kind: str) -> list:
    return [
        pytest.param(panel, id=f"{name}-{panel['id']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        if (panel["type"] == "traces") == (kind == "traces") and panel["type"] != "text"
    ]


@pytest.mark.parametrize("uid", ["promscale-sql", "promscale-tracing"])
def test_the_data_source_works(uid):
    assert ask(f"datasources/uid/{uid}/health", auth=ADMIN)["status"] == "OK"


@pytest.mark.parametrize("uid", BY_UID)
def test_grafana_serves_the_provisioned_dashboards(uid):
    served = ask(f"dashboards/uid/{uid}")["dashboard"]
    assert served["title"] == BY_UID[uid]["title"]
    assert [panel["targets"] for panel in served["panels"]] == [panel["targets"] for panel in BY_UID[uid]["panels"]]
    assert [panel["fieldConfig"] for panel in served["panels"] if panel["type"] != "traces"] == [
        panel["fieldConfig"] for panel in BY_UID[uid]["panels"] if panel["type"] != "traces"
    ]


def test_the_home_page_is_provisioned():
    home = ask("dashboards/home")["dashboard"]
    assert home["title"] == DASHBOARDS[HOME]["title"]
    assert len(home["panels"]) == len(DASHBOARDS[HOME]["panels"])


@pytest.mark.parametrize("panel", panels("sql"))
def test_each_panel_shows_its_figures_and_links_to_traces(panel):
    """Grafana's own library processes the frames of a real Grafana."""

    def complete() -> list[dict] | None:
        frames, _ = query(panel["targets"])
        has_rows = all(frame["schema"]["fields"] and frame["data"]["values"][0] for frame in frames)
        return frames if frames and has_rows else None

    frames = wait_until(complete, f"rows for {panel['title']}")
    [reading] = read([{"panel": panel, "frames": frames, "variables": VARIABLES, "range": LINK_RANGE}])
    check_panel(panel, reading)


@pytest.mark.parametrize("panel", panels("sql"))
def test_a_panel_without_rows_has_no_error(panel):
    frames, _ = query(panel["targets"], EMPTY_RANGE)
    [reading] = read([{"panel": panel, "frames": frames, "variables": VARIABLES, "range": LINK_RANGE}])
    assert "error" not in reading
    assert reading["empty"] or panel["type"] in ("stat", "timeseries")


@pytest.mark.parametrize("days", [1, 7])
def test_responses_for_long_time_ranges_are_small(days):
    for panel in DASHBOARDS["01-request-rate"]["panels"]:
        frames, size = query(panel["targets"], {"from": f"now-{days}d", "to": "now"})
        assert size < MAX_BYTES
        assert 100 < len(frames[0]["data"]["values"][0]) <= 1000


@pytest.mark.parametrize("panel", panels("traces"))
def test_a_trace_is_read_from_jaeger(stack, panel):
    trace_id = requests.get(stack.generator, timeout=60).json()["trace_id"]
    target = panel["targets"][0] | {"query": trace_id}

    def spans() -> list:
        try:
            frames, _ = query([target])
        except AssertionError:
            return []  # not stored yet
        [ids] = [
            values
            for field, values in zip(frames[0]["schema"]["fields"], frames[0]["data"]["values"], strict=True)
            if field["name"] == "spanID"
        ]
        return ids

    wait_until(lambda: len(spans()) > 1, "more than one span of the trace")


@pytest.mark.parametrize("uid", BY_UID)
def test_a_variable_always_has_a_row(uid):
    for variable in BY_UID[uid]["templating"]["list"]:
        if variable["type"] == "query":
            target = {
                "refId": "A",
                "datasource": variable["datasource"],
                "format": "table",
                "rawSql": variable["query"],
            }
            for time_range in (None, EMPTY_RANGE):
                [frame], _ = query([target], time_range)
                assert frame["schema"]["fields"] and frame["data"]["values"][0], variable["name"]


def test_anonymous_users_may_explore_but_not_save():
    assert "datasources:explore" in ask("access-control/user/permissions")
    saved = requests.post(f"{GRAFANA}/dashboards/db", json={"dashboard": {"title": "mine"}}, timeout=60)
    assert not saved.ok
    assert ask("search?query=mine", auth=ADMIN) == []


def test_nothing_is_loaded_from_other_hosts():
    settings = ask("frontend/settings")
    assert not settings["newsFeedEnabled"]
    assert not settings["externalUserMngLinkUrl"]
    apps = [plugin["id"] for plugin in ask("plugins?type=app&core=0", auth=ADMIN)]
    assert apps == []


def test_responses_are_not_compressed():
    response = requests.get(f"{GRAFANA}/frontend/settings", headers={"Accept-Encoding": "gzip"}, timeout=60)
    assert "Content-Encoding" not in response.headers


def test_grafana_started_once_and_without_errors(stack):
    state = json.loads(docker("inspect", stack.container("grafana")).stdout)[0]
    assert state["RestartCount"] == 0
    log = docker("logs", stack.container("grafana"))
    assert [line for line in (log.stdout + log.stderr).splitlines() if "level=error" in line] == []
