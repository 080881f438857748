"""The dashboards in a real browser, on a real promscale and PostgreSQL."""

import time
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.dashboards import DASHBOARDS, create_dashboards
from queries import COLOURS, SERVICES, Kind
from tests.store.otlp_messages import add_service, child, request, span

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
UIDS = {dashboard.slug: dashboard.uid for dashboard in DASHBOARDS}
# An element that each kind of panel has when its data is drawn.
DRAWN = {
    Kind.SERIES: ".scatterlayer .trace",
    Kind.PIE: ".pielayer .slice",
    Kind.HEATMAP: ".heatmaplayer image",
    Kind.HISTOGRAM: ".barlayer .point",
    Kind.TABLE: "tbody tr",
    Kind.NODE_GRAPH: "svg .node",
}


# A colour in the browser's notation.
COMPUTED = """colour => {
    document.body.style.outlineColor = colour;
    return getComputedStyle(document.body).outlineColor;
}"""
# The position of a mark of a trace in pixels, by the type of the trace; `index` counts the marks.
POSITIONS = {
    "scatter": "({ xaxis, yaxis }, trace, index) => [xaxis.d2p(trace.x[index]), yaxis.d2p(trace.y[index])]",
    "bar": "({ xaxis, yaxis }, trace, index) => [xaxis.d2p(trace.x[index]), yaxis.d2p(trace.y[index] / 2)]",
    "heatmap": """({ xaxis, yaxis }, trace, index) => {
        const rows = trace.z.map((row, y) => row.map((value, x) => [value, trace.x[x], trace.y[y]]));
        const [, x, y] = rows.flat().filter(([value]) => value)[index];
        return [xaxis.d2p(x), yaxis.d2p(y)];
    }""",
}


@pytest.fixture
def explorer(dsn, promscale, serve):
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
    return serve(create_dashboards(make_conninfo(dsn, user="explorer")))


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
    screenshot(page, f"{dashboard.slug}-{width}")


def click_mark(page, chart, trace: int, index: int) -> dict[str, str]:
    """The parameters of the search that a click on a mark opens; the page itself is a stand-in."""
    page.route("**/search?*", lambda route: route.fulfill(body="<title>traces</title>", content_type="text/html"))
    chart.scroll_into_view_if_needed()
    kind = chart.evaluate("(chart, trace) => chart.data[trace].type", trace)
    if kind == "pie":
        # Events instead of the mouse, because the middle of a slice's bounding box may be another slice.
        for event in ("mouseover", "click"):
            chart.locator(".slice").nth(index).dispatch_event(event)
    else:
        position = f"(chart, [trace, index]) => ({POSITIONS[kind]})(chart._fullLayout, chart._fullData[trace], index)"
        x, y = chart.evaluate(position, [trace, index])
        area = chart.locator(".nsewdrag")
        corner = area.bounding_box()
        page.mouse.move(corner["x"] + x, corner["y"] + y)
        page.wait_for_function("area => getComputedStyle(area).cursor === 'pointer'", arg=area.element_handle())
        page.mouse.click(corner["x"] + x, corner["y"] + y)
    page.wait_for_url("**/search?*")
    url = urlsplit(page.url)
    assert url.netloc.endswith(":16686")
    return {name: value for name, [value] in parse_qs(url.query, strict_parsing=True).items()}


@pytest.mark.parametrize("service", ["generator", "lower"])
def test_a_click_on_a_line_opens_its_traces(explorer, open_page, service):
    page = open_page(f"{explorer}/d/CiE9l917z/02-error-rates?from=now-1h&refresh=")
    wait_for_panels(page)
    chart = page.locator(".content").nth(3)
    line, index, begin, step = chart.evaluate(
        """(chart, service) => {
            const line = chart.data.findIndex(trace => trace.name === service);
            const { begin, step } = chart.data[line].about;
            return [line, chart.data[line].y.findIndex((value, index) => index && value > 0), begin, step];
        }""",
        service,
    )
    parameters = click_mark(page, chart, line, index)
    start = begin + index * step
    assert parameters == {
        "service": service,
        "tags": '{"error":"true"}',
        "lookback": "custom",
        "start": f"{start}",
        "end": f"{start + step - 1}",
    }


@pytest.mark.parametrize(
    ("slug", "panel", "service"),
    [
        ("03-request-durations", 0, "load"),
        ("03-request-durations", 1, "load"),
        ("02-error-rates", 0, "generator"),
        ("06-downstream-spans", 1, "lower"),
    ],
)
def test_a_click_on_other_marks_opens_their_traces(explorer, open_page, slug, panel, service):
    page = open_page(f"{explorer}/d/{UIDS[slug]}/{slug}?from=now-1h&refresh=")
    wait_for_panels(page)
    parameters = click_mark(page, page.locator(".content").nth(panel), 0, 0)
    assert parameters["service"] == service
    assert int(parameters["start"]) < int(parameters["end"]) <= time.time_ns() // 1000
    if slug.startswith("03"):
        assert float(parameters["minDuration"].removesuffix("ms")) < float(parameters["maxDuration"].removesuffix("ms"))


def test_a_service_has_the_same_colour_on_all_panels(explorer, open_page):
    names_and_colours = """chart => chart.calcdata.flatMap(points => {
        const { type, name, line } = points[0].trace;
        return type === "pie" ? points.map(({ label, color }) => [label, color]) : [[name, line.color]];
    })"""
    drawn = {}
    for slug, panels in (("02-error-rates", (0, 3)), ("06-downstream-spans", (1, 2))):
        page = open_page(f"{explorer}/d/{UIDS[slug]}/{slug}?from=now-1h&refresh=")
        wait_for_panels(page)
        for panel in panels:
            for name, colour in page.locator(".content").nth(panel).evaluate(names_and_colours):
                drawn.setdefault(name, set()).add(page.evaluate(COMPUTED, colour))
        if slug.startswith("06"):
            box = page.locator("svg .node").first.locator("rect").first
            drawn["lower"].add(box.evaluate("rect => getComputedStyle(rect).stroke"))
    assert {name: len(colours) for name, colours in drawn.items()} == dict.fromkeys(drawn, 1)
    for service in ("generator", "lower"):
        assert drawn[service] == {page.evaluate(COMPUTED, COLOURS[SERVICES.index(service)])}
    assert drawn["lower GET /"] != drawn[next(name for name in drawn if "<img" in name or "&lt;img" in name)]


@pytest.mark.parametrize(("width", "scheme"), [(1920, "light"), (360, "dark")])
def test_the_home_page_and_sql(explorer, open_page, screenshot, width, scheme):
    page = open_page(explorer, width, scheme)
    assert page.get_by_role("heading", level=2).count() == len(DASHBOARDS)
    screenshot(page, f"dashboards-{width}")
    page.get_by_role("navigation").get_by_role("link", name="SQL").click()
    page.wait_for_url("**/sql")
    page.get_by_label("Start from").select_option("error_rate_by_operation")
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
    page = open_page(f"{explorer}/d/{UIDS[slug]}/{slug}?from=now-1h&refresh=")
    wait_for_panels(page)
    charts = page.locator(".js-plotly-plot")
    legends = charts.locator(".legendtext").all_text_contents()
    assert any(name in text for text in legends), legends
    hovered = []
    for area in charts.locator(".nsewdrag, .slice").all():
        if area.get_attribute("class") == "slice":
            area.dispatch_event("mouseover")  # the middle of its bounding box may be another slice
        else:
            area.hover()
        page.wait_for_function("() => document.querySelector('.hoverlayer text')")
        hovered += charts.locator(".hoverlayer text").all_text_contents()
    assert any(name in text for text in hovered), hovered
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
    table = page.locator(".scroll").first
    table.focus()
    table.evaluate("table => { table.scrollTop = 100; table.dataset.old = 'yes'; }")
    assert table.evaluate("table => table.scrollTop") == 100
    page.wait_for_selector(".scroll:not([data-old])")
    assert table.evaluate("table => [table.scrollTop, table === document.activeElement]") == [100, True]


def test_new_figures_appear_on_the_home_page_without_a_reload(explorer, open_page, promscale):
    page = open_page(explorer)
    page.clock.install()
    page.reload()
    page.evaluate("window.isTheSame = true")
    before = page.locator(".figure").all_text_contents()
    promscale.export(request(span("broken", status=Status(code=Status.STATUS_CODE_ERROR)), service="shop"))
    page.clock.fast_forward(31_000)
    page.wait_for_function("before => document.querySelectorAll('.figure')[1].textContent !== before", arg=before[1])
    assert page.evaluate("window.isTheSame")
