"""The pages of traces in a real browser, on a real promscale and PostgreSQL."""

import re
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from tests.browser.rows import names
from tests.store.otlp_messages import attributes, child, request, span

MILLISECOND = 10**6
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def explorer(promscale, dsn, serve):
    """The explorer's URL."""
    return serve(create_traces(f"127.0.0.1:{promscale.server.port}", make_conninfo(dsn, user="explorer")))


@pytest.fixture
def shopping(promscale):
    """The id of a trace of three services. A span with a hostile name and a long attribute has failed."""
    start = time.time_ns() - 60 * 10**9
    root = span("GET /", start_time_unix_nano=start, end_time_unix_nano=start + 100 * MILLISECOND)

    def timed_child(parent, name, start_ms, end_ms, **fields):
        fields["start_time_unix_nano"] = start + start_ms * MILLISECOND
        fields["end_time_unix_nano"] = start + end_ms * MILLISECOND
        return child(parent, name, **fields)

    pay = timed_child(root, "pay", 50, 90)
    look = timed_child(root, "look", 10, 40, tags={"shelf": "upper"})
    hostile = timed_child(pay, HOSTILE, 60, 80, tags={"<b>key</b>": HOSTILE, "long": "x" * 2**20})
    hostile.status.code, hostile.status.message = Status.STATUS_CODE_ERROR, "no money"
    hostile.events.add(name="exception", time_unix_nano=start, attributes=attributes({"exception.type": "Poor"}))
    hostile.links.add(trace_id=root.trace_id, span_id=look.span_id)
    promscale.export(request(root, look, service="shop"))
    promscale.export(request(pay, service="till"))
    promscale.export(request(hostile, service="bank"))
    return root.trace_id.hex()


IN_ORDER = ["shop: GET /", "shop: look", "till: pay", f"bank: {HOSTILE}"]


def test_the_waterfall_has_its_spans_in_order_and_escapes_html(explorer, shopping, open_page):
    page = open_page(f"{explorer}/trace/{shopping}")
    assert names(page) == IN_ORDER
    assert page.get_by_role("tree").get_by_text(HOSTILE).is_visible()
    assert page.title() == "shop: GET /"
    assert page.locator("img").count() == 0


def test_a_span_shows_its_details(explorer, shopping, open_page):
    page = open_page(f"{explorer}/trace/{shopping}")
    page.get_by_role("treeitem").nth(3).click()
    details = page.get_by_label("Details of the selected span")
    for text in ("bank", "20 ms", "no money", "<b>key</b>", "exception.type", "Poor", "service.name"):
        assert details.get_by_text(text, exact=True).first.is_visible(), text
    details.get_by_role("button", name="show all 1,048,576 characters").click()
    assert details.get_by_text("the first 10,000 of 1,048,576 characters").is_visible()
    details.get_by_role("link", name=f"trace {shopping}").click()
    page.wait_for_url("**#span=*")
    assert page.get_by_label("Details of the selected span").get_by_role("heading", name="look").is_visible()
    assert page.title() == "shop: GET /"


def test_the_waterfall_works_with_the_keyboard(explorer, shopping, open_page):
    page = open_page(f"{explorer}/trace/{shopping}")
    page.get_by_role("tree").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert names(page) == IN_ORDER[:3]
    page.keyboard.press("ArrowRight")
    assert names(page) == IN_ORDER
    page.keyboard.press("Enter")
    assert page.get_by_label("Details of the selected span").get_by_role("heading", name="pay").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_label("Details of the selected span").is_hidden()


def test_collapse_expand_find(explorer, shopping, open_page):
    page = open_page(f"{explorer}/trace/{shopping}")
    page.get_by_role("button", name="Collapse all").click()
    assert names(page) == IN_ORDER[:1]
    page.get_by_label("Find").fill("poor")
    assert page.get_by_text("1 of 4 spans").is_visible()
    page.get_by_label("Find").press("Enter")
    assert names(page) == IN_ORDER
    page.get_by_label("Find").fill("shelf=upper")
    assert page.get_by_text("1 of 4 spans").is_visible()


def test_ten_thousand_spans_can_be_scrolled_through(explorer, promscale, open_page):
    root = span("root")
    start = root.start_time_unix_nano
    steps = (child(root, f"step {n}", start_time_unix_nano=start + n) for n in range(9999))
    promscale.export(request(root, *steps))
    page = open_page(f"{explorer}/trace/{root.trace_id.hex()}")
    assert page.get_by_role("treeitem").count() < 100
    page.get_by_role("tree").focus()
    page.keyboard.press("End")
    last = page.get_by_role("tree").get_by_text("step 9998")
    last.wait_for()
    assert last.is_visible()
    page.keyboard.press("Home")
    page.get_by_role("treeitem", name="shop: root").wait_for()


def test_the_search_form_finds_the_trace(explorer, shopping, open_page):
    page = open_page(explorer)
    assert page.url == f"{explorer}/search"
    page.get_by_label("Service").select_option("till")
    page.get_by_label("Operation").select_option("pay")
    page.get_by_label("Tags").fill("error=false")
    page.get_by_label("Min duration").fill("1ms")
    page.get_by_role("button", name="Find traces").click()
    page.wait_for_url("**service=till**")
    assert parse_qs(urlsplit(page.url).query) == {
        "service": ["till"],
        "operation": ["pay"],
        "tags": ["error=false"],
        "minDuration": ["1ms"],
        "lookback": ["1h"],
        "limit": ["20"],
    }
    assert page.locator("svg circle").count() == 1
    page.get_by_role("link", name="shop: GET /").click()
    page.get_by_role("treeitem").first.wait_for()
    assert names(page) == IN_ORDER


def test_a_custom_range_is_in_the_browsers_time_zone(explorer, shopping, open_page):
    page = open_page(f"{explorer}/search")
    page.get_by_label("Range").select_option("custom")
    page.get_by_label("From").fill("2026-01-01T10:00:00")
    page.get_by_label("to", exact=True).fill("2026-01-01T11:00:00")
    page.get_by_role("button", name="Find traces").click()
    page.wait_for_url("**start=**")
    parameters = parse_qs(urlsplit(page.url).query)
    assert int(parameters["end"][0]) - int(parameters["start"][0]) == 3600 * 10**6
    assert page.get_by_text("No traces found").is_visible()
    assert page.get_by_label("From").input_value().startswith("2026-01-01T10:00")


def test_times_are_relative_to_the_browsers_clock(explorer, shopping, open_page):
    page = open_page(f"{explorer}/search")
    assert page.get_by_text(re.compile(r"^\d+ minutes? ago$")).is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1920])
def test_pages_fit_the_window(explorer, shopping, open_page, screenshot, width, scheme):
    paths = {
        "search": "/search",
        "trace": f"/trace/{shopping}",
        "span": f"/trace/{shopping}?uiFind=no money",
        "dependencies": "/dependencies",
        "empty": "/search?service=nobody",
    }
    for name, path in paths.items():
        page = open_page(explorer + path, width, scheme)
        screenshot(page, f"traces-{name}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.get_by_role("heading", level=1).is_visible()
        for control in page.locator("input:visible, select:visible").all():
            assert control.evaluate("control => control.labels.length") == 1
