"""Orders, pages, columns and live results of the search page, in a real browser."""

import re
import time
from datetime import timedelta

import pytest
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from faults.recorder import State, record
from tests.store.otlp_messages import request, span

SECOND = 10**9


@pytest.fixture
def explorer(promscale, dsn, serve):
    """The explorer's URL."""
    return serve(create_traces(f"127.0.0.1:{promscale.server.port}", make_conninfo(dsn, user="explorer")))


@pytest.fixture
def export(promscale):
    """A function that stores a trace of the last hour and returns its id."""

    began = time.time_ns()

    def export(name: str, seconds_ago: int, duration_ms: int = 1, **tags) -> str:
        start = began - seconds_ago * SECOND
        made = span(name, tags, start_time_unix_nano=start, end_time_unix_nano=start + duration_ms * 10**6)
        promscale.export(request(made))
        return made.trace_id.hex()

    return export


@pytest.fixture
def thirty(export) -> list[str]:
    """Traces that are longer the older they are; the ids of the newest first."""
    return [export(f"request {number}", 60 + number, 1 + number, number=number) for number in range(30)]


def shown(page) -> list[str]:
    return page.locator("tr[data-trace]").evaluate_all("rows => rows.map(row => row.dataset.trace)")


def test_from_page_to_page_and_back(explorer, thirty, open_page):
    page = open_page(f"{explorer}/search?limit=12")
    pages = [shown(page)]
    for _ in range(2):
        with page.expect_navigation():
            page.get_by_role("link", name="Older traces").click()
        pages.append(shown(page))
    assert pages == [thirty[:12], thirty[12:24], thirty[24:]]
    assert page.get_by_role("link", name="Older traces").count() == 0
    page.go_back()
    assert shown(page) == thirty[12:24]
    page.get_by_role("link", name="Newer traces").click()
    page.wait_for_url("**before=**")
    assert shown(page) == thirty[:12]
    page.go_back()
    assert shown(page) == thirty[12:24]
    page.go_forward()
    assert shown(page) == thirty[:12]


def test_the_order_and_the_columns_stay_with_a_new_search(explorer, thirty, open_page):
    page = open_page(f"{explorer}/search?limit=5")
    page.get_by_role("link", name="Longest first").click()
    page.wait_for_url("**sort=longest**")
    assert shown(page) == thirty[:-6:-1]
    page.get_by_label("Columns").fill("number")
    page.get_by_label("Max duration").fill("10")
    page.get_by_role("button", name="Find traces").click()
    page.wait_for_url("**columns=number**")
    assert shown(page) == thirty[9:4:-1]
    assert page.get_by_role("columnheader", name="number").is_visible()
    assert page.locator("td.attribute").all_text_contents() == ["9", "8", "7", "6", "5"]
    page.go_back()
    page.wait_for_url(re.compile("sort=longest$"))
    assert page.get_by_label("Columns").input_value() == page.get_by_label("Max duration").input_value() == ""
    assert shown(page) == thirty[:-6:-1]


def test_what_was_typed_and_not_searched_is_gone_after_going_back(explorer, thirty, open_page):
    page = open_page(f"{explorer}/search?service=shop")
    page.get_by_label("Tags").fill("number=7")
    page.get_by_label("Service").select_option("")
    page.locator("tr[data-trace] a").first.click()
    page.get_by_role("treeitem").first.wait_for()
    page.go_back()
    page.get_by_role("heading", name="Search traces").wait_for()
    assert page.get_by_label("Tags").input_value() == ""
    assert page.get_by_label("Service").input_value() == "shop"


def test_live_results_keep_the_place_and_the_focus(explorer, thirty, export, open_page):
    page = open_page(f"{explorer}/search?limit=100")
    page.get_by_label("Live").check()
    page.wait_for_url("**live=1")
    link = page.locator(f"tr[data-trace='{thirty[20]}'] a")
    link.focus()
    link.evaluate("link => link.scrollIntoView({ block: 'center', behavior: 'instant' })")
    top = link.evaluate("link => link.getBoundingClientRect().top")
    late = export("late", 1)
    page.locator(f"tr[data-trace='{late}']").wait_for()
    assert shown(page) == [late, *thirty]
    assert page.evaluate("document.activeElement.getAttribute('href')") == f"/trace/{thirty[20]}"
    assert abs(link.evaluate("link => link.getBoundingClientRect().top") - top) < 2
    assert page.get_by_text(re.compile(r"^\d+ minutes? ago$")).count() > 0


def test_live_is_in_the_url_and_back_matches_it(explorer, thirty, export, open_page):
    page = open_page(f"{explorer}/search?limit=100")
    page.get_by_label("Live").check()
    page.wait_for_url("**live=1")
    page.locator("tr[data-trace] a").first.click()
    page.get_by_role("treeitem").first.wait_for()
    page.go_back()
    page.wait_for_url("**live=1")
    assert page.get_by_label("Live").is_checked()
    late = export("late", 1)
    page.locator(f"tr[data-trace='{late}']").wait_for()
    page.get_by_label("Live").uncheck()
    page.wait_for_url(re.compile("limit=100$"))
    page.reload()
    assert not page.get_by_label("Live").is_checked()


def test_a_page_with_a_fixed_end_cannot_be_live(explorer, thirty, open_page):
    page = open_page(f"{explorer}/search?limit=10&live=1")
    page.get_by_role("link", name="Older traces").click()
    page.wait_for_url("**after=**")
    assert "live" not in page.url
    assert page.get_by_label("Live").is_disabled()


@pytest.fixture
def switched(database, thirty):
    """digit.errors was switched to mild before the traces, and twice in their time: to strong and back to mild."""
    [(first, last)] = database.execute("select min(start_time), max(start_time) from span")
    times = (first - timedelta(hours=1), first + (last - first) / 3, first + (last - first) * 2 / 3)
    variants = zip(times, ("mild", "strong", "mild"), strict=True)
    record(database, [State(begin, None, {"digit.errors": variant}) for begin, variant in variants])


def scatter(page):
    return page.get_by_role("group", name="Duration of each trace over time")


def test_the_tooltip_of_the_scatter_plot_says_which_fault_was_switched(explorer, switched, open_page):
    page = open_page(f"{explorer}/search?limit=100")
    change, tip = page.locator(".tip .change bdi"), page.locator(".tip")
    box = scatter(page).locator(".changes line").first.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 20)
    assert change.inner_text() == "digit.errors from mild to strong"
    page.mouse.move(box["x"] - 60, box["y"] + 20)
    assert tip.is_visible() and change.count() == 0
    # The arrow keys lead from change to change.
    scatter(page).focus()
    for key, text in (("Right", "mild to strong"), ("Right", "strong to mild"), ("Left", "mild to strong")):
        page.keyboard.press(f"Arrow{key}")
        assert change.inner_text() == f"digit.errors from {text}"
    assert tip.get_attribute("aria-live") == "polite"
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_dot_of_a_plot_with_marks_leads_to_its_trace(explorer, switched, thirty, open_page):
    page = open_page(f"{explorer}/search?limit=100")
    page.locator(f"a[href='/trace/{thirty[7]}'] circle").click()
    page.wait_for_url(f"**/trace/{thirty[7]}")


def test_live_results_keep_the_cursor_at_a_change(explorer, switched, export, open_page):
    page = open_page(f"{explorer}/search?limit=100&live=1")
    scatter(page).focus()
    page.keyboard.press("ArrowRight")
    before = page.locator(".tip .change").inner_text()
    late = export("late", 1)
    page.locator(f"tr[data-trace='{late}']").wait_for()
    assert page.locator(".tip .change").inner_text() == before
    assert page.evaluate("document.activeElement.matches('.scatter .plot')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1920])
def test_results_fit_the_window(explorer, switched, open_page, screenshot, width, scheme):
    page = open_page(f"{explorer}/search?limit=30&sort=spans&columns=number+http.response.status_code", width, scheme)
    screenshot(page, f"search-{width}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in page.locator("input:visible, select:visible").all():
        assert control.evaluate("control => control.labels.length") == 1
