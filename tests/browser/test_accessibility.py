"""All pages, but for the password's, by the rules of axe-core for WCAG 2.2, levels A and AA, in light and dark."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from psycopg.conninfo import make_conninfo

from explorer.dashboards import DASHBOARDS, create_dashboards
from explorer.traces import create_traces
from faults.app import create_app
from faults.cases import CaseFile
from faults.flags import FlagFile
from faults.recorder import Recorder
from telemetry.services import EXPLORER
from tests.databases import switch_fault
from tests.store.known_traces import FAILED, PASSWORD, Export

RULES = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
OPENED = "for (const details of document.querySelectorAll('details')) details.open = true"
LOADING = ".content:not([data-shown])"  # a panel
# By the name of the app in EXPLORER: paths of pages, and what is there when the page is complete.
DASHBOARD_PAGES = {
    "/": "table",
    "/dashboards": "main",
    **{f"/d/{dashboard.uid}/{dashboard.slug}?from=now-1h&refresh=": "h1" for dashboard in DASHBOARDS},
    "/d/QoZDH91nk/01-request-rate?from=now-30m&to=now-20m&refresh=": "h1",
    "/sql?sql=select+service_name,+start_time,+span_tags+from+span": "main",
    "/learn": ".exercises",
    "/learn/02-percentiles": "article",
    "/learn/02-percentiles?check=yes&sql=select+service_name+from+span": ".verdict",
    "/analysis/differences?service=load&tags=error%3Dtrue": "#answer table",
    "/analysis/compare?service=load&tags=error%3Dtrue": "#answer table",
    "/analysis/flame?lookback=1h": "#answer .frame",
    "/nothing": "h1",
}
TRACE_PAGES = {
    "/search?service=load": "main",
    "/search?service=nobody": ".empty",
    "/trace/{trace_id}": ".row",
    "/dependencies": "svg",
    "/trace/1": "h1",
}
FAULT_PAGES = {"/": "table", "/nothing": ".alert"}
ADDRESSES = [("dashboards", *page) for page in DASHBOARD_PAGES.items()]
ADDRESSES += [("traces", *page) for page in TRACE_PAGES.items()]
ADDRESSES += [("faults", *page) for page in FAULT_PAGES.items()]
ADDRESSES += [("case", "/?case", "select")]


@pytest.fixture
def trace_id(promscale, database):
    """40 passwords of the last 20 minutes are stored: every third has failed. The id of one of these.

    A fault was switched in this time.
    """
    switch_fault(database, datetime.now(UTC) - timedelta(minutes=10))
    export = Export()
    for number in range(40):
        is_failed = number % 3 == 0
        begin = datetime.fromtimestamp(time.time() - 60 - 30 * number, UTC)
        tags = {"char": "?" if is_failed else "a"}
        root = export.add_trace(PASSWORD, begin, 1 + number % 4, FAILED if is_failed else (), tags=tags)
    promscale.export(export.message)
    return root.trace_id.hex()


@pytest.fixture
def sites(serve, dsn, promscale, trace_id, tmp_path, monkeypatch):
    """The URLs of the apps, which link to each other, by their names in EXPLORER."""
    uri = make_conninfo(dsn, user="explorer")
    apps = {
        "dashboards": create_dashboards(uri),
        "traces": create_traces(f"127.0.0.1:{promscale.server.port}", uri),
        "faults": faults_app(FlagFile(tmp_path / "flags.json"), dsn),
        "case": faults_app(with_case := FlagFile(tmp_path / "case" / "flags.json"), dsn),
    }
    CaseFile(with_case).start(4)
    sites = {name: serve(app) for name, app in apps.items()}
    for name, url in sites.items():
        monkeypatch.setitem(EXPLORER, name, int(url.rpartition(":")[2]))
    return sites


def faults_app(file: FlagFile, dsn: str) -> Flask:
    """With a fault that is not at its default."""
    file.path.parent.mkdir(exist_ok=True)
    file.prepare()
    file.set({"digit.errors": "strong"})
    recorder = Recorder(file, dsn, None)
    recorder.start()
    return create_app(file, recorder, "a-token-that-the-page-asks-for")


@pytest.mark.parametrize(("site", "path", "complete"), ADDRESSES, ids=[path for _, path, _ in ADDRESSES])
def test_a_page_has_no_violations(chromium, sites, trace_id, site, path, complete):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(sites[site] + path.format(trace_id=trace_id))
    page.locator(complete).first.wait_for()
    page.wait_for_selector(LOADING, state="detached")
    page.evaluate(OPENED)
    violations = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for rule in Axe().run(page, options=RULES).response["violations"]:
            violations[scheme, rule["id"]] = [(node["target"], node["html"][:200]) for node in rule["nodes"][:5]]
    context.close()
    assert violations == {}
