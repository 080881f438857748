"""The dashboards in a real browser, on a real promscale and PostgreSQL."""

import time
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from explorer.dashboards import create_dashboards, shown_panels
from queries import COLOURS, SERVICES, Kind
from queries.dashboards import DASHBOARDS
from tests.store.otlp_messages import add_service, child, request, span

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
UIDS = {board.slug: board.uid for board in DASHBOARDS}
# What a panel of each kind has when its data is drawn.
DRAWN = {
    Kind.SERIES: ".scatterlayer .trace",
    Kind.PIE: ".pielayer .slice",
    Kind.HEATMAP: ".heatmaplayer image",
    Kind.HISTOGRAM: ".barlayer .point",
    Kind.TABLE: "tbody tr",
    Kind.NODE_GRAPH: "svg .node",
}
# What can be clicked in a chart of each kind.
MARKS = {
    Kind.SERIES: ".nsewdrag",
    Kind.PIE: ".slice",
    Kind.HEATMAP: ".nsewdrag",  # only where there are requests
    Kind.HISTOGRAM: ".barlayer .point path",
}
# Where in the heat map there is a cell with requests.
CELL = """chart => {
    const { x, y, z } = chart.data[0];
    const row = z.findIndex(counts => counts.some(Boolean));
    const { xaxis, yaxis } = chart._fullLayout;
    return [xaxis.d2p(x[z[row].findIndex(Boolean)]), yaxis.d2p(y[row])];
}"""
# The name and the colour of each slice or line of some charts.
DRAWN_COLOURS = """charts => charts.map(chart => chart.calcdata.flatMap(points => {
    const { type, name, line } = points[0].trace;
    return type === "pie" ? points.map(({ label, color }) => [label, color]) : [[name, line.color]];
}))"""
CHARTS = [
    (board, number, panel)
    for board in DASHBOARDS
    for number, panel in enumerate(shown_panels(board))
    if panel.kind in MARKS
]


@pytest.fixture
def explorer(dsn, promscale, serve):
    """The explorer's URL, with an hour of passwords behind it: a tenth has failed, and lower has a hostile operation."""
    message = request(service="load")
    for number in range(300):
        start = time.time_ns() - (number * 12 + 60) * 10**9
        took = (50 + 7 * number % 400) * 10**6
        status = Status(code=Status.STATUS_CODE_ERROR) if number % 10 == 0 else None
        times = {"start_time_unix_nano": start, "end_time_unix_nano": start + took}
        root = span("GET /", kind=Span.SPAN_KIND_SERVER, status=status, **times)
        calls = [child(root, "GET", kind=Span.SPAN_KIND_CLIENT, status=status, **times) for _ in range(2)]
        lower = child(calls[0], "GET /", kind=Span.SPAN_KIND_SERVER, status=status, **times)
        digit = child(calls[1], "GET /", kind=Span.SPAN_KIND_SERVER, **times)
        add_service(message, root, *calls, service="generator")
        add_service(message, lower, child(lower, HOSTILE, **times), service="lower")
        add_service(message, digit, service="digit")
    promscale.export(message)
    viewer = {name: value for name, value in conninfo_to_dict(dsn).items() if name != "password"}
    return serve(create_dashboards(make_conninfo(**viewer | {"user": "explorer"})))


def settled(page) -> None:
    page.wait_for_selector(".content:not([data-shown])", state="detached")


@pytest.mark.parametrize(("width", "scheme"), [(1920, "light"), (360, "dark")])
@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.slug)
def test_each_panel_has_drawn_its_data(explorer, open_page, screenshot, board, width, scheme):
    page = open_page(f"{explorer}/d/{board.uid}/{board.slug}?from=now-1h&refresh=", width, scheme)
    settled(page)
    for number, panel in enumerate(shown_panels(board)):
        shown = page.locator(".content").nth(number).locator(DRAWN[panel.kind])
        assert shown.count() > 0, panel.title
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == board.title
    screenshot(page, f"{board.slug}-{width}")


@pytest.mark.parametrize(("board", "number", "panel"), CHARTS, ids=lambda value: getattr(value, "title", ""))
def test_a_click_leads_to_the_traces_behind_a_mark(explorer, open_page, board, number, panel):
    page = open_page(f"{explorer}/d/{board.uid}/{board.slug}?from=now-1h&refresh=")
    page.context.route("**/search?**", lambda route: route.fulfill(body="the traces", content_type="text/html"))
    settled(page)
    chart = page.locator(".content").nth(number)
    mark = chart.locator(MARKS[panel.kind]).last
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    x, y = box["width"] / 2, box["height"] / 2
    if panel.kind == Kind.HEATMAP:
        x, y = chart.evaluate(CELL)
    if panel.kind == Kind.PIE:
        mark.dispatch_event("mouseover")  # what is in the middle of a slice's box may be its neighbour
        mark.dispatch_event("click")
    else:
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_url("**/search?**")
    fields = parse_qs(urlsplit(page.url).query, strict_parsing=True)
    assert fields["service"][0] in ("generator", "lower", "digit", "load")
    start, end = int(fields["start"][0]), int(fields["end"][0])
    assert 0 < end - start < 3_601_000_000
    assert abs(time.time_ns() // 1000 - end) < 3_700_000_000


def test_a_service_has_its_colour_in_all_charts(explorer, open_page):
    page = open_page(f"{explorer}/d/CiE9l917z/02-error-rates?from=now-1h&refresh=")
    settled(page)
    drawn = page.locator(".js-plotly-plot").evaluate_all(DRAWN_COLOURS)
    assert len(drawn) == 2
    for chart in map(dict, drawn):
        for service in ("generator", "lower"):
            colour = COLOURS[SERVICES.index(service)]
            parts = ", ".join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))
            assert chart[service] in (colour, f"rgb({parts})")


@pytest.mark.parametrize(("width", "scheme"), [(1920, "light"), (360, "dark")])
def test_the_list_and_sql(explorer, open_page, screenshot, width, scheme):
    page = open_page(explorer, width, scheme)
    assert page.get_by_role("heading", level=2).count() == len(DASHBOARDS)
    screenshot(page, f"dashboards-{width}")
    page.get_by_role("navigation").get_by_role("link", name="SQL").click()
    page.wait_for_url("**/sql")
    page.get_by_label("Start from").select_option("error_rate_by_operation")
    page.get_by_role("button", name="Run").click()
    page.get_by_role("cell", name="generator").first.wait_for()
    page.wait_for_load_state()  # with its style sheets
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    screenshot(page, f"sql-{width}")


def test_another_service_changes_the_graph(explorer, open_page):
    page = open_page(f"{explorer}/d/SdzI3eJnk/06-downstream-spans?from=now-1h&refresh=")
    settled(page)
    graph = page.locator(".content").first
    assert graph.locator("text", has_text=HOSTILE[:10]).count() == 1
    assert page.locator("img").count() == 0
    page.locator("[name=var-service]").select_option("generator")
    page.wait_for_url("**var-service=generator**")
    settled(page)
    assert "var-operation" not in page.url
    page.locator("[name=var-operation]").select_option("GET")
    page.wait_for_url("**var-operation=GET*")
    settled(page)
    assert graph.locator("text").get_by_text("generator GET", exact=True).count() == 1
    assert graph.locator("text", has_text=HOSTILE[:10]).count() == 1


@pytest.mark.parametrize("board", ["02-error-rates", "06-downstream-spans"])
def test_charts_show_names_exactly_as_they_are(explorer, open_page, promscale, board):
    name = """<a href="https://evil.example">&lt;b&gt;</a><br><b>bold</b> %{x} &amp; 'more'"""
    message = request(service="load")
    for number in range(20):
        times = {"start_time_unix_nano": time.time_ns() - (number + 2) * 60 * 10**9}
        times["end_time_unix_nano"] = times["start_time_unix_nano"] + 10**9
        failed = Status(code=Status.STATUS_CODE_ERROR)
        served = span("GET /", kind=Span.SPAN_KIND_SERVER, status=failed, **times)
        add_service(message, served, child(served, name, status=failed, **times), service="lower")
        add_service(message, span(name, status=failed, **times), service=name)
    promscale.export(message)
    page = open_page(f"{explorer}/d/{UIDS[board]}/{board}?from=now-1h&refresh=")
    settled(page)
    charts = page.locator(".js-plotly-plot")
    legends = charts.locator(".legendtext").all_text_contents()
    assert any(name in text for text in legends), legends
    hovered = []
    for area in charts.locator(".nsewdrag, .slice").all():
        if area.get_attribute("class") == "slice":
            area.dispatch_event("mouseover")  # what is in the middle of a slice's box may be its neighbour
        else:
            area.hover()
        page.wait_for_function("() => document.querySelector('.hoverlayer text')")
        hovered += charts.locator(".hoverlayer text").all_text_contents()
    assert any(name in text for text in hovered), hovered
    leading = page.locator("[*|href*=evil]").evaluate_all("found => found.map(link => link.href.baseVal ?? link.href)")
    assert [link for link in leading if not link.startswith("http://127.0.0.1:16686/search?service=")] == []


def test_a_view_of_ones_own_is_in_the_url(explorer, open_page):
    page = open_page(f"{explorer}/d/CiE9l917z/02-error-rates")
    page.locator("[name=from]").select_option(label="a time of your own")
    page.locator("#own-from").fill("2020-01-01T00:00:00")
    page.locator("#own-to").fill("2020-01-02T00:00:00")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**from=157*")
    page.get_by_text("Nothing in this time.").first.wait_for()


def test_the_sql_of_a_panel_can_be_seen(explorer, open_page):
    page = open_page(f"{explorer}/d/QoZDH91nk/01-request-rate")
    page.get_by_text("SQL", exact=True).nth(1).click()
    assert page.get_by_text("is_root_span").first.is_visible()


def test_new_data_comes_without_a_reload(explorer, open_page, promscale):
    page = open_page(f"{explorer}/d/scyq99J7k/04-service-dependencies?refresh=5s&from=now-1h")
    settled(page)
    assert page.get_by_text("newcomer").count() == 0
    root = span("GET", kind=Span.SPAN_KIND_CLIENT)
    message = request(root, service="generator")
    add_service(message, child(root, "GET /", kind=Span.SPAN_KIND_SERVER), service="newcomer")
    promscale.export(message)
    page.locator("svg .node text", has_text="newcomer").wait_for()


def test_back_in_the_history_the_form_says_what_is_shown(explorer, open_page):
    page = open_page(
        f"{explorer}/d/SdzI3eJnk/06-downstream-spans?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z&refresh="
    )
    page.get_by_text("Nothing in this time.").first.wait_for()
    page.locator("[name=from]").select_option("now-1h")
    page.wait_for_url("**from=now-1h**")
    page.locator("[name=var-service]").select_option("generator")
    page.wait_for_url("**var-service=generator**")
    settled(page)
    page.go_back()
    page.wait_for_url("**from=now-1h**")
    assert page.locator("[name=var-service]").input_value() == "lower"
    assert page.locator("[name=var-operation]").is_enabled()
    page.go_back()
    page.get_by_text("Nothing in this time.").first.wait_for()
    assert page.locator("[name=from]").evaluate("select => select.selectedOptions[0].text") == "a time of your own"
    assert page.locator("#own-from").is_visible()
    assert page.locator("[name=to]").input_value() == "2020-01-02T00:00:00Z"


def test_new_data_leaves_a_table_where_it_was(explorer, open_page):
    page = open_page(f"{explorer}/d/GkrS6rJ7z/03-request-durations?refresh=5s&from=now-1h", height=2000)
    settled(page)
    table = page.locator(".scroll").first
    table.focus()
    table.evaluate("table => { table.scrollTop = 100; table.dataset.old = 'yes'; }")
    assert table.evaluate("table => table.scrollTop") == 100
    page.wait_for_selector(".scroll:not([data-old])")
    assert table.evaluate("table => [table.scrollTop, table === document.activeElement]") == [100, True]


def test_new_figures_come_to_the_list_without_a_reload(explorer, open_page, promscale):
    page = open_page(explorer)
    page.clock.install()
    page.reload()
    page.evaluate("window.isTheSame = true")
    before = page.locator(".figure").all_text_contents()
    promscale.export(request(span("broken", status=Status(code=Status.STATUS_CODE_ERROR)), service="shop"))
    page.clock.fast_forward(31_000)
    page.wait_for_function("before => document.querySelectorAll('.figure')[1].textContent !== before", arg=before[1])
    assert page.evaluate("window.isTheSame")
