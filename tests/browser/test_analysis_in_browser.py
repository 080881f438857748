"""The explorer's pages of questions about many traces, in a real browser."""

from datetime import timedelta

import pytest
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from explorer.traces import create_traces
from telemetry.services import EXPLORER
from tests.store.known_traces import FAILED, NOON, PASSWORD, Export

MICROS = 10**6


@pytest.fixture
def hour(promscale):
    """60 passwords in an hour: every third has failed, with another attribute. Returns the parameters of a URL."""
    export = Export()
    for number in range(60):
        failed = number % 3 == 0
        time = NOON + timedelta(minutes=number)
        export.add_trace(PASSWORD, time, failed=FAILED if failed else (), tags={"char": "?" if failed else "a"})
    promscale.export(export.message)
    begin = round(NOON.timestamp())
    return f"start={begin * MICROS}&end={(begin + 3600) * MICROS}"


@pytest.fixture
def pages(serve, dsn, promscale, monkeypatch):
    """The URLs of the dashboards' and of the traces' pages, which link to each other."""
    monkeypatch.setitem(
        EXPLORER, "traces", port_of(traces := serve(create_traces(f"127.0.0.1:{promscale.server.port}")))
    )
    dashboards = serve(create_dashboards(make_conninfo(dsn, user="explorer")))
    monkeypatch.setitem(EXPLORER, "dashboards", port_of(dashboards))
    return dashboards, traces


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_from_a_search_to_what_differs_and_to_the_traces_that_have_it(open_page, pages, hour):
    _, traces = pages
    page = open_page(f"{traces}/search?service=load&tags=error%3Dtrue&limit=100&{hour}")
    page.get_by_role("link", name="what differs from others").click()
    finding = page.get_by_role("region", name="Values of attributes").get_by_role("row").nth(1)
    finding.wait_for()
    assert finding.inner_text().split("\t")[:2] == ["load char = ?", "\N{BLACK UP-POINTING TRIANGLE} more often"]
    finding.get_by_text("SQL", exact=True).click()
    assert "jaeger_span" in finding.locator("pre").inner_text()
    finding.get_by_role("link", name="Open in SQL").click()
    page.get_by_role("row", name="selection 20 20").wait_for()
    page.go_back()
    finding.get_by_role("link", name="traces").click()
    page.get_by_text("20 traces, newest first").wait_for()
    page.go_back()
    assert page.get_by_label("Service").input_value() == "load"
    assert page.get_by_label("Tags").input_value() == "error=true"


def test_a_frame_of_the_flame_graph_is_enlarged_and_reset(open_page, pages, hour):
    dashboards, _ = pages
    page = open_page(f"{dashboards}/analysis/flame?{hour}")
    frame = page.locator(".frame").filter(has_text="random_lower").first
    frame.wait_for()
    narrow = frame.bounding_box()["width"]
    frame.click()
    whole = page.locator("svg.flame").bounding_box()["width"]
    assert narrow < whole / 2 < whole * 0.99 < frame.bounding_box()["width"]
    page.get_by_role("button", name="Show all").click()
    assert frame.bounding_box()["width"] == narrow


@pytest.mark.parametrize("question", ["differences?service=load&tags=error%3Dtrue&", "compare?", "flame?"])
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_an_analysis_fits_the_window(open_page, pages, hour, screenshot, question, width, scheme):
    dashboards, _ = pages
    page = open_page(f"{dashboards}/analysis/{question}{hour}", width, scheme)
    page.locator("#answer table").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    screenshot(page, f"analysis-{question.partition('?')[0]}-{width}-{scheme}")
