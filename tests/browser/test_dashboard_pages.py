"""The dashboards in a real browser, on a real promscale and PostgreSQL."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from math import log10
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.dashboards import DASHBOARDS, create_dashboards
from explorer.web import clock, quantity
from queries import COLOURS, MILLISECONDS, SERVICES, Kind
from telemetry.services import EXPLORER
from tests.databases import switch_fault
from tests.store.known_traces import NOON, PASSWORD, Export
from tests.store.otlp_messages import add_service, child, request, span

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
UIDS = {dashboard.slug: dashboard.uid for dashboard in DASHBOARDS}
# An element that each kind of panel has when its data is drawn.
DRAWN = {
    Kind.SERIES: ".plot.lines .marks path",
    Kind.PIE: ".shares .share rect",
    Kind.HEATMAP: ".plot.heatmap .cells path",
    Kind.HISTOGRAM: ".plot.histogram .bars",
    Kind.TABLE: "tbody tr",
    Kind.NODE_GRAPH: "svg .node",
}

# The bytes of a page and of everything it has loaded.
TRANSFERRED = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""
# A colour in the browser's notation.
COMPUTED = """colour => {
    document.body.style.outlineColor = colour;
    return getComputedStyle(document.body).outlineColor;
}"""
# For each point of a line, run of cells or bar of the first path that a selector matches: its place in pixels of the
# window, and its numbers in the path.
POSITIONS = """(chart, selector) => {
    const path = chart.querySelector(selector), matrix = path.getScreenCTM(), text = path.getAttribute("d");
    const numbers = part => part.match(/[\\d.]+/g).map(Number);
    const pairs = line => line.flatMap((_, at) => at % 2 ? [] : [line.slice(at, at + 2)]);
    const isLine = path.dataset.name !== undefined, isBar = path.matches(".bars");
    const parts = isLine ? pairs(numbers(text)) : text.split("M").slice(1).map(numbers);
    return parts.map(part => {
        // A bar begins with its left end, the bottom and its height, a run of cells with its left end and its row.
        const [x, y] = isLine ? part : isBar ? [part[0] + 0.45, part[2] / 2] : [part[0] + 0.5, part[1] + 0.5];
        const point = new DOMPoint(x, y).matrixTransform(matrix);
        return [point.x, point.y, ...part];
    });
}"""


@pytest.fixture
def explorer(dsn, promscale, serve, monkeypatch):
    """The explorer's URL, with passwords of an hour: every tenth has failed, and lower has an operation with a hostile
    name."""
    message = request(service="load")
    for number in range(300):
        start = time.time_ns() - (number * 12 + 60) * 10**9
        duration = (50 + 7 * number % 400) * 10**6
        status = Status(code=Status.STATUS_CODE_ERROR) if number % 10 == 0 else None
        times = {"start_time_unix_nano": start, "end_time_unix_nano": start + duration}
        root = span("GET /", kind=Span.SPAN_KIND_SERVER, status=status, **times)
        calls = [child(root, "GET", kind=Span.SPAN_KIND_CLIENT, status=status, **times) for _ in range(2)]
        lower = child(calls[0], "GET /", kind=Span.SPAN_KIND_SERVER, status=status, **times)
        digit = child(calls[1], "GET /", kind=Span.SPAN_KIND_SERVER, **times)
        add_service(message, root, *calls, service="generator")
        add_service(message, lower, child(lower, HOSTILE, **times), service="lower")
        add_service(message, digit, service="digit")
    promscale.export(message)
    url = serve(create_dashboards(make_conninfo(dsn, user="explorer")))
    monkeypatch.setitem(EXPLORER, "dashboards", int(url.rpartition(":")[2]))
    return url


def wait_for_panels(page) -> None:
    page.wait_for_selector(".content:not([data-shown])", state="detached")


@pytest.mark.parametrize(("width", "scheme"), [(1920, "light"), (360, "dark")])
@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.slug)
def test_each_panel_draws_its_data(explorer, open_page, screenshot, dashboard, width, scheme):
    page = open_page(f"{explorer}/d/{dashboard.uid}/{dashboard.slug}?from=now-1h&refresh=", width, scheme)
    wait_for_panels(page)
    for number, panel in enumerate(dashboard.panels):
        shown = page.locator(".content").nth(number).locator(DRAWN[panel.kind])
        assert shown.count() > 0, panel.title
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == dashboard.title
    # Whoever has the browser's cache empty loads less than 100 kB.
    assert page.evaluate(TRANSFERRED) < 100_000
    screenshot(page, f"{dashboard.slug}-{width}")


def dashboard_page(open_page, explorer, slug: str, query: str = "from=now-1h&refresh=", **window):
    page = open_page(f"{explorer}/d/{UIDS[slug]}/{slug}?{query}", **window)
    wait_for_panels(page)
    return page


def chart(page, title: str):
    """The chart of a panel, in the middle of the window."""
    found = page.get_by_role("img", name=f"{title}. ")
    found.evaluate("chart => chart.scrollIntoView({ block: 'center', behavior: 'instant' })")
    return found


def positions(chart, selector: str) -> list:
    return chart.evaluate(POSITIONS, selector)


def inside(chart, across: float, down: float) -> tuple[float, float]:
    """A point of the window, from shares of a chart's plot area."""
    box, plot = chart.bounding_box(), json.loads(chart.get_attribute("data-plot"))
    scale = box["width"] / plot["width"]
    x = plot["left"] + across * (plot["right"] - plot["left"])
    return box["x"] + scale * x, box["y"] + scale * (plot["top"] + down * (plot["bottom"] - plot["top"]))


def drag(page, begin: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*begin)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def searched(page, act) -> dict[str, str]:
    """The parameters of the search that an action opens; the page itself is a stand-in."""
    page.route("**/search?*", lambda route: route.fulfill(body="<title>traces</title>", content_type="text/html"))
    act()
    page.wait_for_url("**/search?*")
    url = urlsplit(page.url)
    assert url.netloc.endswith(":16686")
    return {name: value for name, [value] in parse_qs(url.query, strict_parsing=True).items()}


@pytest.mark.parametrize("service", ["generator", "lower"])
def test_a_click_on_a_line_opens_its_traces(explorer, open_page, service):
    page = dashboard_page(open_page, explorer, "02-error-rates")
    errors = chart(page, "Error rate over time")
    plot = json.loads(errors.get_attribute("data-plot"))
    x, y, step, _ = [point for point in positions(errors, f"[data-name={service}]") if point[2] and point[3]][-1]
    page.mouse.move(x, y)
    assert errors.evaluate("chart => getComputedStyle(chart).cursor") == "pointer"
    parameters = searched(page, lambda: page.mouse.click(x, y))
    start = plot["begin"] + int(step) * plot["step"]
    assert parameters == {
        "service": service,
        "tags": '{"error":"true"}',
        "lookback": "custom",
        "start": f"{start}",
        "end": f"{start + plot['step'] - 1}",
    }


@pytest.mark.parametrize(
    ("title", "selector"), [("Requests by duration, over time", ".cells path"), ("Requests by duration", ".bars")]
)
def test_a_click_on_a_cell_or_bar_opens_its_traces(explorer, open_page, title, selector):
    page = dashboard_page(open_page, explorer, "03-request-durations")
    x, y, *_ = positions(chart(page, title), selector)[-1]
    parameters = searched(page, lambda: page.mouse.click(x, y))
    assert parameters["service"] == "load"
    assert int(parameters["start"]) < int(parameters["end"]) <= time.time_ns() // 1000 + 60 * 10**6
    shortest, longest = (float(parameters[name].removesuffix("ms")) for name in ("minDuration", "maxDuration"))
    assert longest / shortest == pytest.approx(10**0.1, rel=1e-3)


@pytest.mark.parametrize(("slug", "service"), [("02-error-rates", "generator"), ("06-downstream-spans", "lower")])
def test_shares_link_to_their_traces(explorer, open_page, slug, service):
    page = dashboard_page(open_page, explorer, slug)
    parameters = searched(page, page.locator(".shares a").first.click)
    assert parameters["service"] == service


def test_a_service_has_the_same_colour_on_all_panels(explorer, open_page):
    names_and_colours = """panel => [
        ...[...panel.querySelectorAll(".plot [data-name]")].map(
            line => [line.dataset.name, getComputedStyle(line).stroke]),
        ...[...panel.querySelectorAll(".shares tr")].map(
            row => [row.querySelector("a").textContent, getComputedStyle(row.querySelector("rect")).fill]),
    ]"""
    drawn = {}
    for slug, panels in (("02-error-rates", (0, 3)), ("06-downstream-spans", (1, 2))):
        page = dashboard_page(open_page, explorer, slug)
        for panel in panels:
            for name, colour in page.locator(".content").nth(panel).evaluate(names_and_colours):
                drawn.setdefault(name, set()).add(colour)
        if slug.startswith("06"):
            box = page.locator("svg .node").first.locator("rect").first
            drawn["lower"].add(box.evaluate("rect => getComputedStyle(rect).stroke"))
    assert {name: len(colours) for name, colours in drawn.items()} == dict.fromkeys(drawn, 1)
    for service in ("generator", "lower"):
        assert drawn[service] == {page.evaluate(COMPUTED, COLOURS[SERVICES.index(service)])}
    assert drawn["lower GET /"] != drawn[next(name for name in drawn if "<img" in name)]


# What charts do -------------------------------------------------------------------------------------------------------


def shown_values(page) -> dict[str, str]:
    """The values in the tooltip, by name."""
    rows = page.locator(".tip > div:has(bdi)")
    return {row.locator("bdi").inner_text(): row.locator(".value").inner_text() for row in rows.all()}


def cursors(page) -> list[float]:
    """The position of the cursor in each chart that shows one, as the time of its axis."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".plot")].flatMap(chart => {
            const x = parseFloat((chart.querySelector(".cursor").getAttribute("d") ?? "").slice(1));
            const { left, right, start, end } = JSON.parse(chart.dataset.plot);
            return Number.isNaN(x) ? [] : [start + (x - left) / (right - left) * (end - start)];
        })"""
    )


def test_a_pointer_shows_values_in_a_tooltip_and_the_time_on_all_charts(explorer, open_page):
    page = dashboard_page(open_page, explorer, "03-request-durations", height=1400)
    percentiles = chart(page, "Duration percentiles")
    x, y, step, median = positions(percentiles, "[data-name=p50]")[-5]
    page.mouse.move(x, y)
    values = shown_values(page)
    assert list(values) == ["p99", "p95", "p90", "p50"]  # from the top, as in the chart
    assert values["p50"] == quantity(median, MILLISECONDS)
    assert page.locator(".tip .near bdi").inner_text() == "p50"
    plot = json.loads(percentiles.get_attribute("data-plot"))
    zone = page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    begin, end = (datetime.fromtimestamp((plot["begin"] + (step + at) * plot["step"]) / 10**6, UTC) for at in (0, 1))
    period = f"{clock(begin, ZoneInfo(zone))} to {clock(end, ZoneInfo(zone))[11:]}"
    assert page.locator(".tip .time").inner_text() == period
    # The heat map shows the same time; the histogram has no time axis.
    times = cursors(page)
    assert len(times) == 2
    assert times[0] == pytest.approx(times[1], abs=plot["step"] / 10)
    page.mouse.move(5, 5)
    assert cursors(page) == []
    assert page.locator(".tip").is_hidden()


@pytest.mark.parametrize("title", ["Requests by duration, over time", "Duration percentiles"])
def test_the_tooltip_says_which_fault_was_switched(explorer, open_page, database, title):
    switch_fault(database, datetime.now(UTC) - timedelta(minutes=20))
    page = dashboard_page(open_page, explorer, "03-request-durations", height=1400)
    shown = chart(page, title)
    page.mouse.move(*inside(shown, 2 / 3, 0.9))
    change = page.locator(".tip .change")
    assert change.locator("bdi").inner_text() == "digit.errors from mild to strong"
    page.mouse.move(*inside(shown, 1 / 3, 0.9))
    assert change.count() == 0
    # The arrow keys reach it as well, from there in steps of a minute.
    shown.focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
        if change.count():
            break
    assert change.count() == 1 and page.locator(".tip").get_attribute("aria-live") == "polite"


def test_the_tooltip_of_a_cell_has_its_requests_and_durations(explorer, open_page):
    page = dashboard_page(open_page, explorer, "03-request-durations")
    x, y, *_ = positions(chart(page, "Requests by duration, over time"), ".cells path")[0]
    page.mouse.move(x, y)
    [(durations, requests)] = shown_values(page).items()
    assert re.fullmatch(r"[\d.]+ ms to [\d.]+ ms", durations)
    assert re.fullmatch(r"1 request|\d+ requests", requests)


@pytest.mark.parametrize(
    ("slug", "title"),
    [
        ("01-request-rate", "Requests per second, by second"),
        ("03-request-durations", "Requests by duration, over time"),
    ],
)
def test_dragging_chooses_the_time_range_and_back_restores_it(explorer, open_page, slug, title):
    page = dashboard_page(open_page, explorer, slug)
    before = page.url
    dragged = chart(page, title)
    plot = json.loads(dragged.get_attribute("data-plot"))
    drag(page, inside(dragged, 0.25, 0.5), inside(dragged, 0.5, 0.52))
    page.wait_for_url("**from=1*")
    chosen = {name: int(parse_qs(urlsplit(page.url).query)[name][0]) for name in ("from", "to")}
    quarter = (plot["end"] - plot["start"]) / 4 / 1000
    assert chosen["from"] == pytest.approx(plot["start"] / 1000 + quarter, abs=quarter / 50)
    assert chosen["to"] == pytest.approx(plot["start"] / 1000 + 2 * quarter, abs=quarter / 50)
    wait_for_panels(page)
    plot = json.loads(chart(page, title).get_attribute("data-plot"))
    assert (plot["start"], plot["end"]) == (chosen["from"] * 1000, chosen["to"] * 1000)
    assert page.locator("[name=from]").evaluate("select => select.selectedOptions[0].text") == "custom range"
    page.go_back()
    page.wait_for_url(before)
    wait_for_panels(page)
    assert page.locator("[name=from]").input_value() == "now-1h"
    page.go_forward()
    page.wait_for_url("**from=1*")
    assert page.locator("[name=to]").input_value() == str(chosen["to"])


def menu(page):
    """What the traces of a selection can be asked."""
    return page.get_by_role("navigation", name="The selected requests")


def test_a_box_on_the_heat_map_opens_the_traces_of_its_time_and_durations(explorer, open_page):
    page = dashboard_page(open_page, explorer, "03-request-durations")
    heatmap = chart(page, "Requests by duration, over time")
    plot = json.loads(heatmap.get_attribute("data-plot"))
    drag(page, inside(heatmap, 0.25, 0.1), inside(heatmap, 0.5, 0.6))
    parameters = searched(page, menu(page).get_by_role("link", name="Show traces").click)
    assert (parameters["service"], parameters["operation"]) == ("load", "load.request")
    quarter = (plot["end"] - plot["start"]) / 4
    # Whole cells.
    for name, expected in (("start", plot["start"] + quarter), ("end", plot["start"] + 2 * quarter)):
        assert int(parameters[name]) == pytest.approx(expected, abs=plot["step"])
        assert (int(parameters[name]) + (name == "end") - plot["begin"]) % plot["step"] == 0
    shortest, longest = (
        10 * log10(float(parameters[name].removesuffix("ms"))) for name in ("minDuration", "maxDuration")
    )
    height = plot["high"] - plot["low"]
    assert shortest == pytest.approx(plot["low"] + 0.4 * height, abs=1)
    assert longest == pytest.approx(plot["low"] + 0.9 * height, abs=1)


def test_from_a_box_on_the_heat_map_to_what_differs_there(explorer, open_page, promscale):
    export = Export()
    for number in range(60):
        is_slow = number % 3 == 0
        time = NOON + timedelta(minutes=number)
        export.add_trace(PASSWORD, time, slowness=20 if is_slow else 1, tags={"char": "?" if is_slow else "a"})
    promscale.export(export.message)
    begin = round(NOON.timestamp() * 1000)
    page = dashboard_page(open_page, explorer, "03-request-durations", f"from={begin}&to={begin + 3_600_000}&refresh=")
    heatmap = chart(page, "Requests by duration, over time")
    # The upper half, where requests of 2 s are, of nearly the whole hour.
    drag(page, inside(heatmap, 0.002, 0.01), inside(heatmap, 0.998, 0.5))
    selected = menu(page).inner_text().splitlines()
    assert selected[2] == "20 requests"
    menu(page).get_by_role("link", name="What differs").click()
    page.wait_for_url("**/analysis/differences?*")
    selection = page.locator("p", has_text="Selection:")
    selection.wait_for()
    words = selection.inner_text()
    assert re.search(r"traces with a span of load load\.request that takes at least \d+(\.\d+)? ms and at most", words)
    zone = page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    times = [clock(NOON + timedelta(hours=hours), ZoneInfo(zone)) for hours in (0, 1)]
    assert selected[0] == f"{times[0]} to {times[1][11:]}"
    assert words.endswith(f"{times[0]} to {times[1]}. 20 traces.")
    finding = page.get_by_role("region", name="Values of attributes").get_by_role("row").nth(1)
    assert finding.inner_text().startswith("load char = ?")
    page.go_back()
    wait_for_panels(page)
    assert menu(page).count() == 0


def test_a_box_can_be_zoomed_into_and_closed(explorer, open_page):
    page = dashboard_page(open_page, explorer, "03-request-durations", "from=now-1h&refresh=10s")
    heatmap = chart(page, "Requests by duration, over time")
    heatmap.evaluate("chart => chart.dataset.old = 'yes'")
    drag(page, inside(heatmap, 0.25, 0.1), inside(heatmap, 0.5, 0.6))
    # A refresh waits until the menu is closed. By the second answer, the page has handled the first one.
    with page.expect_response("**/panels/3?*"):
        pass
    assert page.locator(".plot[data-old] .selection[d*=H]").count() == 1
    page.keyboard.press("Escape")
    assert menu(page).count() == 0
    assert page.locator(".selection[d*=H]").count() == 0
    page.wait_for_selector(".plot[data-old]", state="detached")
    heatmap = chart(page, "Requests by duration, over time")
    plot = json.loads(heatmap.get_attribute("data-plot"))
    drag(page, inside(heatmap, 0.25, 0.1), inside(heatmap, 0.5, 0.6))
    menu(page).get_by_role("link", name="Zoom in").click()
    page.wait_for_url("**from=1*")
    chosen = [int(parse_qs(urlsplit(page.url).query)[name][0]) * 1000 for name in ("from", "to")]
    quarter = (plot["end"] - plot["start"]) / 4
    expected = [plot["start"] + quarter, plot["start"] + 2 * quarter]
    assert chosen == pytest.approx(expected, abs=plot["step"])


def test_the_keyboard_selects_a_box(explorer, open_page):
    page = dashboard_page(open_page, explorer, "03-request-durations")
    heatmap = chart(page, "Requests by duration, over time")
    plot = json.loads(heatmap.get_attribute("data-plot"))
    heatmap.focus()
    for key in ("ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert page.locator(".tip").get_attribute("aria-live") == "polite"
    assert page.locator(".tip").inner_text().splitlines()[2].endswith(("request", "requests"))
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "What differs"
    page.keyboard.press("Escape")
    assert heatmap.evaluate("chart => chart === document.activeElement")
    for key in ("ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp", "Enter", "ArrowDown"):
        page.keyboard.press(key)
    parameters = searched(page, lambda: page.keyboard.press("Enter"))
    assert int(parameters["end"]) + 1 - int(parameters["start"]) == 3 * plot["step"]
    shortest, longest = (float(parameters[name].removesuffix("ms")) for name in ("minDuration", "maxDuration"))
    assert longest / shortest == pytest.approx(10**0.2, rel=1e-3)


def test_the_time_range_travels_to_an_analysis_and_back(explorer, open_page):
    page = dashboard_page(open_page, explorer, "06-downstream-spans", "from=now-6h&refresh=&var-service=digit")
    page.get_by_role("link", name="flame graph").click()
    page.locator(".frame").first.wait_for()
    assert page.get_by_label("Service").input_value() == "digit"
    assert page.get_by_label("Range").input_value() == "6h"
    page.get_by_role("link", name="05 Upstream spans").click()
    wait_for_panels(page)
    assert page.locator("[name=from]").input_value() == "now-6h"
    assert page.locator("[name=var-service]").input_value() == "digit"
    page.get_by_role("link", name="03 Request durations").click()
    wait_for_panels(page)
    assert page.locator("[name=from]").input_value() == "now-6h"
    page.get_by_role("link", name="What differs: slow traces").first.click()
    page.locator("p", has_text="Selection:").wait_for()
    assert page.get_by_label("Range").input_value() == "6h"


def test_bars_of_a_histogram_can_be_selected(explorer, open_page):
    page = dashboard_page(open_page, explorer, "03-request-durations")
    histogram = chart(page, "Requests by duration")
    bars = positions(histogram, ".bars")
    drag(page, bars[0][:2], bars[2][:2])
    assert menu(page).get_by_role("link").all_inner_texts() == ["What differs", "Show traces"]
    parameters = searched(page, menu(page).get_by_role("link", name="Show traces").click)
    shortest, longest = (float(parameters[name].removesuffix("ms")) for name in ("minDuration", "maxDuration"))
    assert longest / shortest == pytest.approx(10**0.3, rel=1e-3)


def test_escape_ends_a_drag(explorer, open_page):
    page = dashboard_page(open_page, explorer, "01-request-rate")
    before = page.url
    dragged = chart(page, "Requests per second, by minute")
    page.mouse.move(*inside(dragged, 0.2, 0.5))
    page.mouse.down()
    page.mouse.move(*inside(dragged, 0.6, 0.5))
    assert page.locator(".selection[d*=H]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".selection[d*=H]").count() == 0
    page.mouse.up()
    assert page.url == before


def test_charts_work_with_the_keyboard(explorer, open_page):
    page = dashboard_page(open_page, explorer, "02-error-rates")
    errors = chart(page, "Error rate over time")
    errors.focus()
    times = []
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
        times.append(page.locator(".tip .time").inner_text())
    assert times[0] == times[2] > times[1]
    names = list(shown_values(page))
    for _ in names:
        page.keyboard.press("ArrowUp")
    assert page.locator(".tip .near bdi").inner_text() == names[0]
    page.keyboard.press("ArrowDown")
    below = page.locator(".tip .near bdi").inner_text()
    assert below in names
    assert page.locator(".tip").get_attribute("aria-live") == "polite"
    parameters = searched(page, lambda: page.keyboard.press("Enter"))
    assert parameters["service"] == below


def test_a_legend_hides_lines_also_after_a_refresh(explorer, open_page):
    page = dashboard_page(open_page, explorer, "02-error-rates", "from=now-1h&refresh=5s")
    panel = page.locator(".content").nth(3)
    button, line = panel.get_by_role("button", name="lower"), panel.locator(".plot [data-name=lower]")
    button.click()
    assert line.is_hidden()
    assert panel.locator(".plot [data-name=generator]").is_visible()
    errors = chart(page, "Error rate over time")
    page.mouse.move(*inside(errors, 0.5, 0.5))
    assert "generator" in shown_values(page) and "lower" not in shown_values(page)
    errors.evaluate("chart => chart.dataset.old = 'yes'")
    page.wait_for_selector(".plot[data-old]", state="detached")
    # The tooltip is still there, too.
    assert "generator" in shown_values(page) and "lower" not in shown_values(page)
    assert line.is_hidden()
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert line.is_visible()


def test_the_cursor_of_the_keyboard_stays_after_a_refresh(explorer, open_page):
    page = dashboard_page(open_page, explorer, "02-error-rates", "from=now-1h&refresh=5s")
    errors = chart(page, "Error rate over time")
    errors.focus()
    page.keyboard.press("ArrowLeft")
    errors.evaluate("chart => chart.dataset.old = 'yes'")
    page.wait_for_selector(".plot[data-old]", state="detached")
    assert page.locator(".tip").is_visible() and cursors(page)
    page.keyboard.press("Tab")
    assert page.locator(".tip").is_hidden() and not cursors(page)


def test_a_refresh_waits_for_the_end_of_a_drag(explorer, open_page):
    page = dashboard_page(open_page, explorer, "01-request-rate", "from=now-1h&refresh=10s")
    dragged = chart(page, "Requests per second, by minute")
    dragged.evaluate("chart => chart.dataset.old = 'yes'")
    page.mouse.move(*inside(dragged, 0.2, 0.5))
    page.mouse.down()
    page.mouse.move(*inside(dragged, 0.6, 0.5))
    # The second answer: the page has handled the first one by then.
    with page.expect_response("**/panels/1?*"):
        pass
    assert page.locator(".plot[data-old] .selection[d*=H]").count() == 1
    page.keyboard.press("Escape")
    page.wait_for_selector(".plot[data-old]", state="detached")


def test_charts_are_drawn_for_the_width_of_the_window(explorer, open_page):
    page = dashboard_page(open_page, explorer, "01-request-rate")
    for width in (700, 1300):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            """() => [...document.querySelectorAll(".plot")].every(
                chart => chart.viewBox.baseVal.width === chart.parentElement.clientWidth)"""
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("slug", ["01-request-rate", "02-error-rates", "03-request-durations", "06-downstream-spans"])
def test_no_labels_of_a_chart_overlap(explorer, open_page, slug, width):
    page = dashboard_page(open_page, explorer, slug, width=width)
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll(".plot .x, .plot .y")].flatMap(axis => {
            const texts = [...axis.querySelectorAll("text")], boxes = texts.map(text => text.getBoundingClientRect());
            const plot = axis.ownerSVGElement.getBoundingClientRect();
            const isApart = (a, b) => a.right < b.left || b.right < a.left || a.bottom <= b.top || b.bottom <= a.top;
            return texts.filter((_, at) => boxes[at].left < plot.left || boxes[at].right > plot.right
                || boxes.some((box, other) => other !== at && !isApart(box, boxes[at]))).map(text => text.textContent);
        })"""
    )
    assert page.locator(".plot .x text").count() > 1
    assert overlaps == []


def test_the_data_of_a_chart_can_be_read_as_a_table_also_after_a_refresh(explorer, open_page):
    page = dashboard_page(open_page, explorer, "02-error-rates", "from=now-1h&refresh=5s")
    panel = page.locator(".content").nth(3)
    panel.get_by_text("Data", exact=True).click()
    assert panel.get_by_role("cell", name="generator").first.is_visible()
    panel.locator(".plot").evaluate("chart => chart.dataset.old = 'yes'")
    page.wait_for_selector(".plot[data-old]", state="detached")
    assert panel.get_by_role("cell", name="generator").first.is_visible()


@pytest.mark.parametrize(("width", "scheme"), [(1920, "light"), (360, "dark")])
def test_the_home_page_the_list_of_dashboards_and_sql(explorer, open_page, screenshot, width, scheme):
    page = open_page(explorer, width, scheme)
    page.get_by_role("row", name="generator").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    screenshot(page, f"home-{width}")
    page.get_by_role("navigation").get_by_role("link", name="Dashboards").click()
    page.wait_for_url("**/dashboards")
    assert page.get_by_role("heading", level=2).count() == len(DASHBOARDS)
    screenshot(page, f"dashboards-{width}")
    page.get_by_role("navigation").get_by_role("link", name="SQL").click()
    page.wait_for_url("**/sql")
    if width < 1000:
        page.get_by_text("Examples", exact=True).click()
    page.get_by_role("button", name="error_rate_by_operation").click()
    page.get_by_role("button", name="Run").click()
    page.get_by_role("cell", name="generator").first.wait_for()
    page.wait_for_load_state()  # the style sheets are loaded
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    screenshot(page, f"sql-{width}")


def test_another_service_changes_the_graph(explorer, open_page):
    page = open_page(f"{explorer}/d/SdzI3eJnk/06-downstream-spans?from=now-1h&refresh=")
    wait_for_panels(page)
    graph = page.locator(".content").first
    assert graph.locator("text", has_text=HOSTILE[:10]).count() == 1
    assert page.locator("img").count() == 0
    page.locator("[name=var-service]").select_option("generator")
    page.wait_for_url("**var-service=generator**")
    wait_for_panels(page)
    assert "var-operation" not in page.url
    page.locator("[name=var-operation]").select_option("GET")
    page.wait_for_url("**var-operation=GET*")
    wait_for_panels(page)
    assert graph.locator("text").get_by_text("generator GET", exact=True).count() == 1
    assert graph.locator("text", has_text=HOSTILE[:10]).count() == 1


@pytest.mark.parametrize("slug", ["02-error-rates", "06-downstream-spans"])
def test_charts_show_html_in_names_as_text(explorer, open_page, promscale, slug):
    name = """<a href="https://evil.example">&lt;b&gt;</a><br><b>bold</b> %{x} &amp; 'more'"""
    message = request(service="load")
    for number in range(20):
        start = time.time_ns() - (number + 2) * 60 * 10**9
        times = {"start_time_unix_nano": start, "end_time_unix_nano": start + 10**9}
        failed = Status(code=Status.STATUS_CODE_ERROR)
        served = span("GET /", kind=Span.SPAN_KIND_SERVER, status=failed, **times)
        add_service(message, served, child(served, name, status=failed, **times), service="lower")
        add_service(message, span(name, status=failed, **times), service=name)
    promscale.export(message)
    page = dashboard_page(open_page, explorer, slug)
    assert any(name in text for text in page.locator(".legend").all_text_contents())
    assert any(name in text for text in page.locator(".shares").all_text_contents())
    for drawn in page.locator(".plot").all():
        drawn.evaluate("chart => chart.scrollIntoView({ block: 'center', behavior: 'instant' })")
        page.mouse.move(*inside(drawn, 0.9, 0.5))
        assert any(name in text for text in shown_values(page)), shown_values(page)
    assert page.locator("[*|href*='//evil']").count() == 0


def test_a_custom_range_is_in_the_url(explorer, open_page):
    page = open_page(f"{explorer}/d/CiE9l917z/02-error-rates")
    page.locator("[name=from]").select_option(label="custom range")
    page.locator("#custom-from").fill("2020-01-01T00:00:00")
    page.locator("#custom-to").fill("2020-01-02T00:00:00")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**from=157*")
    page.get_by_text("No data in this time range.").first.wait_for()


def test_the_sql_of_a_panel_can_be_seen(explorer, open_page):
    page = open_page(f"{explorer}/d/QoZDH91nk/01-request-rate")
    page.get_by_text("SQL", exact=True).nth(1).click()
    assert page.get_by_text("is_root_span").first.is_visible()


def test_new_data_appears_without_a_reload(explorer, open_page, promscale):
    page = open_page(f"{explorer}/d/scyq99J7k/04-service-dependencies?refresh=5s&from=now-1h")
    wait_for_panels(page)
    assert page.get_by_text("newcomer").count() == 0
    root = span("GET", kind=Span.SPAN_KIND_CLIENT)
    message = request(root, service="generator")
    add_service(message, child(root, "GET /", kind=Span.SPAN_KIND_SERVER), service="newcomer")
    promscale.export(message)
    page.locator("svg .node text", has_text="newcomer").wait_for()


def test_after_going_back_the_form_has_the_state_of_the_url(explorer, open_page):
    page = open_page(
        f"{explorer}/d/SdzI3eJnk/06-downstream-spans?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z&refresh="
    )
    page.get_by_text("No data in this time range.").first.wait_for()
    page.locator("[name=from]").select_option("now-1h")
    page.wait_for_url("**from=now-1h**")
    page.locator("[name=var-service]").select_option("generator")
    page.wait_for_url("**var-service=generator**")
    wait_for_panels(page)
    page.go_back()
    page.wait_for_url("**from=now-1h**")
    assert page.locator("[name=var-service]").input_value() == "lower"
    assert page.locator("[name=var-operation]").is_enabled()
    page.go_back()
    page.get_by_text("No data in this time range.").first.wait_for()
    assert page.locator("[name=from]").evaluate("select => select.selectedOptions[0].text") == "custom range"
    assert page.locator("#custom-from").is_visible()
    assert page.locator("[name=to]").input_value() == "2020-01-02T00:00:00Z"


def test_new_data_keeps_scroll_position_and_focus_of_a_table(explorer, open_page):
    page = open_page(f"{explorer}/d/GkrS6rJ7z/03-request-durations?refresh=5s&from=now-1h", height=2000)
    wait_for_panels(page)
    table = page.locator(".content > .scroll").first
    table.focus()
    table.evaluate("table => { table.scrollTop = 100; table.dataset.old = 'yes'; }")
    assert table.evaluate("table => table.scrollTop") == 100
    page.wait_for_selector("[data-old]", state="detached")
    assert table.evaluate("table => [table.scrollTop, table === document.activeElement]") == [100, True]


def test_new_figures_appear_in_the_list_of_dashboards_without_a_reload(explorer, open_page, promscale):
    page = open_page(f"{explorer}/dashboards")
    page.clock.install()
    page.reload()
    page.evaluate("window.isTheSame = true")
    before = page.locator(".figure").all_text_contents()
    promscale.export(request(span("broken", status=Status(code=Status.STATUS_CODE_ERROR)), service="shop"))
    page.clock.fast_forward(31_000)
    page.wait_for_function("before => document.querySelectorAll('.figure')[1].textContent !== before", arg=before[1])
    assert page.evaluate("window.isTheSame")


def test_paper_has_all_panels_and_all_rows_without_controls(explorer, open_page):
    page = dashboard_page(open_page, explorer, "02-error-rates", width=720)
    table = page.locator(".content > .scroll").last
    assert table.evaluate("table => table.scrollHeight > table.clientHeight")
    page.emulate_media(media="print")
    assert not table.evaluate("table => table.scrollHeight > table.clientHeight")
    assert all(panel.is_visible() for panel in page.locator(".panel").all())
    for controls in ("form", "header", "nav", "button.copy", "summary"):
        assert not any(shown.is_visible() for shown in page.locator(controls).all()), controls
