"""The page of one trace in a real browser: table, folding, errors, zoom, URL, details, flame graph and print."""

import re
import time
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from tests.browser.rows import names
from tests.store.otlp_messages import child, request, span
from tests.waiting import wait_until

MILLISECOND = 10**6
FAILED = Status(code=Status.STATUS_CODE_ERROR, message="no such item")
SIX = "6 \N{MULTIPLICATION SIGN}"
# The rows of the trace `checkout` when it is opened, and the group's members.
FOLDED = ["shop: GET /", f"{SIX} till: scan", "shop: pack", "stock: take"]
OPENED = [*FOLDED[:2], *["till: scan", "bank: look up"] * 6, *FOLDED[2:]]


@pytest.fixture
def explorer(promscale, dsn, serve):
    """The explorer's URL."""
    return serve(create_traces(f"127.0.0.1:{promscale.server.port}", make_conninfo(dsn, user="explorer")))


class Timed:
    """Builds the spans of a trace; times are milliseconds since its start."""

    def __init__(self):
        self.start = time.time_ns() - 60 * 10**9
        self.root = span("GET /", kind=Span.SPAN_KIND_SERVER, **self.times(0, 1000))

    def times(self, start, end):
        return {
            "start_time_unix_nano": self.start + start * MILLISECOND,
            "end_time_unix_nano": self.start + end * MILLISECOND,
        }

    def child(self, parent, name, start, end, **fields):
        return child(parent, name, **fields, **self.times(start, end))


@pytest.fixture
def checkout(promscale):
    """A trace with six similar calls, of which the fourth has failed, and one more failed span."""
    trace = Timed()
    lasting = [12, 50, 20, 30, 40, 25]
    scans = [
        trace.child(
            trace.root, "scan", 100 * n, 100 * n + millis, tags={"item": f"item {n}"}, kind=Span.SPAN_KIND_CLIENT
        )
        for n, millis in enumerate(lasting)
    ]
    lookups = [trace.child(scan, "look up", 100 * n + 5, 100 * n + 10) for n, scan in enumerate(scans)]
    pack = trace.child(trace.root, "pack", 700, 900)
    take = trace.child(pack, "take", 750, 800)
    for failed in (scans[3], take):
        failed.status.CopyFrom(FAILED)
    promscale.export(request(trace.root, pack, service="shop"))
    promscale.export(request(*scans, service="till"))
    promscale.export(request(*lookups, service="bank"))
    promscale.export(request(take, service="stock"))
    return trace.root


@pytest.fixture
def open_checkout(explorer, checkout, open_page):
    """A function that opens the trace; the part of the URL behind the id is its argument."""
    return lambda rest="", **options: open_page(f"{explorer}/trace/{checkout.trace_id.hex()}{rest}", **options)


def details(page):
    return page.get_by_label("Details of the selected span")


def detailed(page) -> str:
    """The heading of the details."""
    return details(page).get_by_role("heading", level=2).inner_text()


def fragment(page) -> dict[str, list[str]]:
    # Playwright learns of a changed fragment later than the page.
    return parse_qs(page.evaluate("location.hash.slice(1)"))


def shown_range(page) -> list[int]:
    """Nanoseconds since the trace's start."""
    return [int(fragment(page)[name][0]) for name in ("from", "to")]


def wait_until_shown(page, begin: float, end: float) -> None:
    """Small steps reach the URL a little later. Times are milliseconds since the trace's start."""
    expected = {"from": [f"{begin * MILLISECOND:.0f}"], "to": [f"{end * MILLISECOND:.0f}"]}
    wait_until(lambda: fragment(page) == expected, f"the range {expected} in the URL")


def ticks(page) -> list[str]:
    return page.locator("#ticks span").all_inner_texts()


def drag(page, selector: str, begin: float, end: float) -> None:
    """Drag over the element, between two shares of its width."""
    box = page.locator(selector).bounding_box()
    page.mouse.move(box["x"] + begin * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()


def operations(page) -> list[list[str]]:
    rows = page.locator("#operations tbody tr").all()
    return [row.locator("td").all_inner_texts() for row in rows]


# Table ---------------------------------------------------------------------------------------------------------------


def test_the_table_says_where_the_time_went_and_can_be_sorted(open_checkout):
    page = open_checkout()
    assert operations(page) == [
        ["shop", "GET /", "1", "623 ms", "62.3 %", "0"],
        ["shop", "pack", "1", "150 ms", "15.0 %", "0"],
        ["till", "scan", "6", "147 ms", "14.7 %", "1"],
        ["stock", "take", "1", "50 ms", "5.0 %", "1"],
        ["bank", "look up", "6", "30 ms", "3.0 %", "0"],
    ]
    for column, first in (("Count", "scan"), ("Self time", "GET /"), ("Operation", "GET /"), ("Errors", "scan")):
        page.get_by_role("columnheader", name=column).get_by_role("button").click()
        assert operations(page)[0][1] == first
    page.get_by_role("columnheader", name="Operation").get_by_role("button").click()
    page.get_by_role("columnheader", name="Operation").get_by_role("button").click()
    assert operations(page)[0][1] == "take"
    assert page.get_by_role("columnheader", name="Operation").get_attribute("aria-sort") == "descending"


def test_a_row_of_the_table_goes_through_its_spans(open_checkout):
    page = open_checkout()
    for number in (1, 2):
        page.get_by_role("button", name="look up").click()
        assert page.get_by_text(f"span {number} of 6 of bank: look up").is_visible()
    assert names(page) == OPENED
    assert page.locator(".row.match").count() == 6
    assert page.locator(".row.current").get_attribute("aria-label") == "bank: look up, 5 ms"
    page.get_by_role("tree").focus()
    page.keyboard.press("Escape")
    assert page.locator(".row.match").count() == 0


# Folding -------------------------------------------------------------------------------------------------------------


def test_similar_siblings_are_one_row_that_opens(open_checkout):
    page = open_checkout()
    assert names(page) == FOLDED
    group = page.get_by_role("treeitem", name=f"{SIX} till: scan, 12 to 50 ms")
    assert group.get_by_text("1 error").is_visible()
    group.click()
    assert names(page) == OPENED
    group.click()
    assert names(page) == FOLDED


def test_find_finds_folded_spans(open_checkout):
    page = open_checkout()
    page.get_by_label("Find").fill("item 4")
    assert page.get_by_text("1 of 15 spans").is_visible()
    assert page.locator(".row.match").get_attribute("aria-label").startswith(f"{SIX} till: scan")
    page.get_by_label("Find").press("Enter")
    assert names(page) == OPENED
    assert page.locator(".row.match").get_attribute("aria-label") == "till: scan, 40 ms"


def test_the_calls_of_a_service_can_be_collapsed(open_checkout):
    page = open_checkout()
    page.get_by_role("button", name="Expand all").click()
    till = page.get_by_role("button", name="till 6")
    till.click()
    assert names(page) == [*FOLDED[:2], *["till: scan"] * 6, *FOLDED[2:]]
    assert till.get_attribute("aria-pressed") == "true"
    till.click()
    assert names(page) == OPENED


# Errors --------------------------------------------------------------------------------------------------------------


def test_buttons_and_keys_go_from_error_to_error(open_checkout):
    page = open_checkout()
    assert page.get_by_text("2 errors").is_visible()
    page.get_by_role("button", name="Next error").click()
    assert detailed(page) == "scan"
    assert page.get_by_text("error 1 of 2").is_visible()
    assert names(page) == OPENED
    page.get_by_role("tree").focus()
    page.keyboard.press("e")
    assert detailed(page) == "take"
    page.keyboard.press("e")
    assert detailed(page) == "scan"
    page.get_by_role("button", name="Previous error").click()
    assert detailed(page) == "take"
    assert details(page).get_by_text("no such item").is_visible()


def test_a_trace_without_errors_has_no_buttons_for_them(explorer, promscale, open_page):
    root = span()
    promscale.export(request(root))
    page = open_page(f"{explorer}/trace/{root.trace_id.hex()}")
    assert names(page) == ["shop: work"]
    assert page.get_by_role("button", name="Next error").count() == 0


# Zoom and URL --------------------------------------------------------------------------------------------------------


def test_dragging_zooms_and_back_undoes_it(open_checkout):
    page = open_checkout()
    whole = ticks(page)
    drag(page, "#minimap", 0.25, 0.75)
    zoomed = fragment(page)
    assert shown_range(page) == pytest.approx([250e6, 750e6], abs=2e6)
    assert ticks(page)[0] == "300 ms"
    drag(page, "#ticks", 0.5, 0.6)
    assert shown_range(page) == pytest.approx([500e6, 550e6], abs=2e6)
    page.go_back()
    assert fragment(page) == zoomed
    assert ticks(page)[0] == "300 ms"
    page.go_back()
    assert ticks(page) == whole
    page.go_forward()
    assert ticks(page)[0] == "300 ms"
    page.locator("#minimap").dblclick()
    assert ticks(page) == whole
    assert fragment(page) == {}


def test_the_keyboard_zooms(open_checkout):
    page = open_checkout()
    whole = ticks(page)
    page.get_by_role("tree").focus()
    page.keyboard.press("End")
    for key, begin, end in (("z", 750, 800), ("Shift+ArrowLeft", 745, 795), ("-", 715, 815)):
        page.keyboard.press(key)
        wait_until_shown(page, begin, end)
    page.keyboard.press("Escape")
    assert ticks(page) == whole
    minimap = page.get_by_role("slider", name="Shown range of time")
    minimap.focus()
    for key in ("+", "ArrowLeft"):
        page.keyboard.press(key)
    assert minimap.get_attribute("aria-valuetext") == "500 ms from 338 ms on, of 1 s"
    wait_until_shown(page, 337.5, 837.5)
    page.keyboard.press("Escape")
    assert fragment(page) == {}


def test_a_span_out_of_the_shown_time_is_brought_into_it(open_checkout):
    page = open_checkout("#from=0&to=100000000")
    page.get_by_role("button", name="Previous error").click()
    assert {name: value for name, [value] in fragment(page).items() if name != "span"} == {
        "from": "725000000",
        "to": "825000000",
    }


def test_a_link_opens_with_its_span_selected_and_scrolled_to(explorer, promscale, open_page):
    trace = Timed()
    steps = [trace.child(trace.root, f"step {n}", n, n + 1) for n in range(500)]
    promscale.export(request(trace.root, *steps))
    address = f"{explorer}/trace/{trace.root.trace_id.hex()}"
    page = open_page(f"{address}#span={steps[400].span_id.hex()}")
    assert detailed(page) == "step 400"
    assert page.get_by_role("treeitem", name="shop: step 400").bounding_box()["y"] < 900
    page.get_by_role("treeitem", name="shop: step 401").click()
    assert fragment(page) == {"span": [steps[401].span_id.hex()]}
    page.go_back()
    page.get_by_role("heading", name="step 400").wait_for()
    page.keyboard.press("Escape")
    assert details(page).is_hidden()
    assert fragment(page) == {}
    page.go_back()
    page.get_by_role("heading", name="step 400").wait_for()


def test_spans_with_the_same_id_have_links_of_their_own(explorer, promscale, open_page):
    trace = Timed()
    caller = trace.child(trace.root, "call", 10, 90, kind=Span.SPAN_KIND_CLIENT)
    callee = trace.child(trace.root, "answer", 20, 80, kind=Span.SPAN_KIND_SERVER, span_id=caller.span_id)
    promscale.export(request(trace.root, caller, callee))
    page = open_page(f"{explorer}/trace/{trace.root.trace_id.hex()}")
    page.get_by_role("treeitem", name="shop: answer").click()
    page.reload()
    assert detailed(page) == "answer"


# Details -------------------------------------------------------------------------------------------------------------


def test_the_details_follow_the_arrow_keys(open_checkout):
    page = open_checkout()
    page.get_by_role("treeitem", name="shop: GET /").click()
    expected = [f"{SIX} scan", "pack", "take"]
    for heading in expected:
        page.keyboard.press("ArrowDown")
        assert detailed(page) == heading
    page.go_back()
    assert details(page).is_hidden()


def test_a_group_has_details_of_its_own(open_checkout):
    page = open_checkout()
    page.get_by_role("treeitem", name="shop: GET /").click()
    page.keyboard.press("ArrowDown")
    cells = dict(row.locator("th, td").all_inner_texts() for row in details(page).locator("tr").all())
    assert (cells["shortest"], cells["median"], cells["longest"]) == ("12 ms", "25 ms", "50 ms")
    assert (cells["spans"], cells["errors"]) == ("6", "1")


def test_the_details_compare_a_span_with_earlier_calls(open_checkout, checkout, promscale):
    start = checkout.start_time_unix_nano
    for number in range(10):
        begin = start - (number + 1) * 10**9
        length = (500 if number < 9 else 2000) * MILLISECOND
        promscale.export(request(span("GET /", start_time_unix_nano=begin, end_time_unix_nano=begin + length)))
    page = open_checkout(f"#span={checkout.span_id.hex()}")
    details(page).get_by_text("slower than 90 % of 10 calls of this operation in the hour before").wait_for()


def test_the_details_link_to_what_is_similar(open_checkout, checkout, explorer):
    page = open_checkout()
    page.get_by_label("Find").fill("item 4")
    page.get_by_label("Find").press("Enter")
    page.get_by_role("treeitem", name="till: scan, 40 ms").click()

    def target(name: str) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(details(page).get_by_role("link", name=name, exact=True).evaluate("link => link.href"))
        return f"{url.netloc}{url.path}", parse_qs(url.query)

    for name, path in (
        ("Upstream operations", "127.0.0.1:3000/d/lyIow61nz/05-upstream-spans"),
        ("Downstream operations", "127.0.0.1:3000/d/SdzI3eJnk/06-downstream-spans"),
    ):
        address, parameters = target(name)
        assert address == path
        assert (parameters["var-service"], parameters["var-operation"]) == (["till"], ["scan"])
        start = checkout.start_time_unix_nano // MILLISECOND
        assert int(parameters["from"][0]) < start < int(parameters["to"][0])
    assert target("Similar traces")[1]["operation"] == ["scan"]
    details(page).get_by_role("link", name="item 4", exact=True).click()
    page.wait_for_url("**/search?**")
    assert page.get_by_label("Tags").input_value() == 'item="item 4"'
    page.get_by_role("link", name="shop: GET /").wait_for()


def test_the_sql_of_a_span_returns_it(open_checkout, checkout, database):
    page = open_checkout(f"#span={checkout.span_id.hex()}")
    statement = details(page).locator("pre").inner_text()
    assert [row[5:7] for row in database.execute(statement)] == [("shop", "GET /")]


# Flame graph ---------------------------------------------------------------------------------------------------------


def test_the_flame_graph_shows_and_selects_spans(open_checkout):
    page = open_checkout()
    page.get_by_role("button", name="Flame graph").click()
    assert fragment(page) == {"view": ["flame"]}
    assert page.get_by_role("tree").is_hidden()
    box = page.locator("#flame").bounding_box()
    # The span "take" is on the third level, from 750 to 800 ms of 1,000 ms.
    page.mouse.move(box["x"] + 0.775 * box["width"], box["y"] + 2.5 * box["height"] / 3)
    assert page.get_by_text("stock: take, 50 ms, 5.0 % of the trace, error").is_visible()
    page.mouse.down()
    page.mouse.up()
    seen = []

    def in_url() -> bool:
        return fragment(page).get("span", "") not in ("", *seen)

    for key, name in ((None, "take"), ("ArrowUp", "pack"), ("ArrowLeft", "scan")):
        if key:
            page.keyboard.press(key)
        assert detailed(page) == name
        wait_until(in_url, "the span in the URL")
        seen.append(fragment(page)["span"])
    page.reload()
    assert detailed(page) == "scan"
    page.get_by_role("button", name="Waterfall").click()
    assert names(page) == OPENED


def test_spans_that_overlap_do_not_cover_each_other_in_the_flame_graph(explorer, promscale, open_page):
    trace = Timed()
    parallel = [trace.child(trace.root, f"part {n}", 10 * n, 900) for n in range(3)]
    promscale.export(request(trace.root, *parallel))
    page = open_page(f"{explorer}/trace/{trace.root.trace_id.hex()}#view=flame")
    box = page.locator("#flame").bounding_box()
    found = set()
    for lane in (1.5, 2.5, 3.5):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + lane * box["height"] / 4)
        found.add(page.locator("#flame-note").inner_text().split(",")[0])
    assert found == {"shop: part 0", "shop: part 1", "shop: part 2"}


def test_the_flame_graph_of_ten_thousand_spans(explorer, promscale, open_page):
    trace = Timed()
    steps = [trace.child(trace.root, "step", n % 1000, n % 1000 + 1, tags={"number": f"<{n}>"}) for n in range(9_999)]
    promscale.export(request(trace.root, *steps))
    page = open_page(f"{explorer}/trace/{trace.root.trace_id.hex()}#view=flame")
    page.get_by_label("Find").fill("<9998>")
    page.get_by_label("Find").press("Enter")
    assert page.get_by_text("shop: step, 1 ms").is_visible()
    page.locator("#flame").focus()
    page.keyboard.press("Enter")
    assert details(page).get_by_text("<9998>").is_visible()


# Print ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["", "&view=flame"])
def test_all_rows_and_the_chosen_details_are_printed_in_light_colours(explorer, promscale, open_page, view):
    trace = Timed()
    steps = [trace.child(trace.root, f"step {n}", n, n + 1) for n in range(300)]
    promscale.export(request(trace.root, *steps))
    address = f"{explorer}/trace/{trace.root.trace_id.hex()}#span={steps[0].span_id.hex()}{view}"
    page = open_page(address, scheme="dark")
    assert page.get_by_role("treeitem").count() < 100
    page.emulate_media(media="print")
    page.get_by_role("treeitem").nth(300).wait_for()
    assert page.get_by_role("treeitem").count() == 301
    assert len(operations(page)) == 301
    assert details(page).get_by_role("heading", name="step 0").is_visible()
    assert page.get_by_role("button", name="Next error").count() == 0
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    boxes = [row.bounding_box() for row in page.get_by_role("treeitem").all()[:20]]
    assert all(one["y"] + one["height"] <= other["y"] for one, other in pairwise(boxes))
    page.emulate_media(media="screen")
    wait_until(lambda: page.locator(".row:visible").count() < 100, "the rows of the window only")


# Sizes and colours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 1920])
def test_the_page_fits_the_window(open_checkout, checkout, screenshot, width, scheme):
    views = {
        "details": f"#span={checkout.span_id.hex()}",
        "flame": "#view=flame",
        "zoom": "#from=100000000&to=300000000",
    }
    for name, rest in views.items():
        page = open_checkout(f"#{rest}", width=width, scheme=scheme)
        screenshot(page, f"trace-{name}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_names_that_look_like_html_stay_texts(explorer, promscale, open_page):
    hostile = "<img src=x onerror=\"document.title='owned'\">" + "x" * 600
    root = span(hostile, tags={hostile: hostile})
    promscale.export(request(root, *(child(root, hostile) for _ in range(5)), service=hostile))
    page = open_page(f"{explorer}/trace/{root.trace_id.hex()}#span={root.span_id.hex()}", width=360)
    page.get_by_role("button", name=re.compile("^Expand")).click()
    page.get_by_role("button", name="Flame graph").click()
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert "owned" not in page.title().partition("<")[0]
