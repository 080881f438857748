"""The service map in a real browser: links, pan, zoom and fit."""

import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from tests.store.otlp_messages import add_service, child, request, span
from tests.waiting import wait_until


@pytest.fixture
def explorer(promscale, dsn, serve):
    """The explorer's URL; the shop calls a bank and, failing, twenty tills."""
    start = time.time_ns() - 60 * 10**9
    root = span("GET /", kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=start)
    message = request(root, service="shop")
    for name in ("bank", *(f"till {number}" for number in range(20))):
        status = Status(code=Status.STATUS_CODE_ERROR if name != "bank" else Status.STATUS_CODE_UNSET)
        add_service(message, child(root, "pay", kind=Span.SPAN_KIND_SERVER, status=status), service=name)
    promscale.export(message)
    return serve(create_traces(f"127.0.0.1:{promscale.server.port}", make_conninfo(dsn, user="explorer")))


def view(page) -> list[float]:
    """x, y, width and height of the part of the drawing that is shown."""
    return [float(number) for number in page.locator(".graph svg").get_attribute("viewBox").split()]


def node(page, name: str):
    return page.locator(".graph .node", has=page.get_by_text(name, exact=True))


def is_inside(page, name: str) -> bool:
    inner, outer = node(page, name).bounding_box(), page.locator(".graph").bounding_box()
    return all(
        outer[start] - 1 <= inner[start] and inner[start] + inner[size] <= outer[start] + outer[size] + 1
        for start, size in (("x", "width"), ("y", "height"))
    )


def test_fit_shows_everything(explorer, open_page):
    page = open_page(f"{explorer}/dependencies")
    assert not is_inside(page, "till 9")  # the last one
    page.get_by_role("button", name="Fit").click()
    assert all(is_inside(page, name) for name in ("shop", "bank", *(f"till {number}" for number in range(20))))


def test_buttons_and_keys_zoom_and_move(explorer, open_page):
    page = open_page(f"{explorer}/dependencies")
    x, y, width, height = view(page)
    page.get_by_role("button", name="Zoom in").click()
    assert view(page) == pytest.approx([x + width / 10, y + height / 10, width / 1.25, height / 1.25])
    page.get_by_role("button", name="Zoom out").click()
    assert view(page) == pytest.approx([x, y, width, height])
    page.get_by_role("region", name="Graph of calls").focus()
    page.keyboard.press("+")
    assert view(page)[2] == pytest.approx(width / 1.25)
    page.keyboard.press("-")
    page.keyboard.press("ArrowRight")
    assert view(page)[0] > x and view(page)[1:] == pytest.approx([y, width, height])
    page.keyboard.press("0")
    assert is_inside(page, "bank") and is_inside(page, "till 9")


def test_the_wheel_zooms_with_ctrl_and_otherwise_scrolls_the_page(explorer, open_page):
    page = open_page(f"{explorer}/dependencies", height=500)
    before = view(page)
    box = page.locator(".graph").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.wheel(0, 100)
    wait_until(lambda: page.evaluate("scrollY") > 0, "scrolling")
    assert view(page) == before
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    wait_until(lambda: view(page) != before, "a zoom")
    page.keyboard.up("Control")
    assert view(page)[2] < before[2]


def test_dragging_moves_the_map_and_follows_no_link(explorer, open_page):
    page = open_page(f"{explorer}/dependencies")
    x, y, width, height = view(page)
    box = node(page, "shop").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] - 50, box["y"] + 60, steps=4)
    page.mouse.up()
    scale = page.locator(".graph").evaluate("graph => graph.clientWidth") / width
    assert view(page) == pytest.approx([x + 100 / scale, y - 40 / scale, width, height])
    node(page, "shop").locator("text").first.click()  # a click still follows it
    page.wait_for_url("**/search?**callee=shop**")


def test_nodes_edges_and_their_failures_lead_to_their_traces(explorer, open_page):
    targets = {
        "node": (lambda page: node(page, "till 3").locator("text").first, "callee=till+3", False),
        "failed": (lambda page: node(page, "till 3").locator("text.failures"), "callee=till+3", True),
        "table": (
            lambda page: page.get_by_role("link", name="shop calls bank: traces with these calls"),
            "caller=shop",
            False,
        ),
    }
    for choose, parameter, failed in targets.values():
        page = open_page(f"{explorer}/dependencies")
        page.get_by_role("button", name="Fit").click()
        choose(page).click()
        page.wait_for_url("**/search?**")
        assert parameter in page.url
        assert ("callFailed=true" in page.url) == failed
        assert page.get_by_role("link", name="shop: GET /").count() == 1
        page.go_back()
        assert page.get_by_role("heading", name="Service map").is_visible()


def test_the_map_of_a_search(explorer, open_page):
    page = open_page(f"{explorer}/dependencies")
    page.locator("#service").select_option("bank")
    page.get_by_label("Min duration").fill("5000")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**service=bank**")
    assert page.get_by_text("No calls between services").is_visible()
    page.go_back()
    page.locator(".graph").wait_for()
    assert page.get_by_label("Min duration").input_value() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1920])
def test_the_map_fits_the_window(explorer, open_page, screenshot, width, scheme):
    page = open_page(f"{explorer}/dependencies", width, scheme)
    screenshot(page, f"map-{width}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in page.locator("input:visible, select:visible").all():
        assert control.evaluate("control => control.labels.length") == 1
