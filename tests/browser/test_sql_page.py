"""The SQL page in a real browser, on a real promscale and PostgreSQL."""

import json
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from explorer.traces import create_traces
from telemetry.services import EXPLORER
from tests.store.otlp_messages import add_service, child, request, span

BY_SERVICE = "select service_name, count(*) as spans\nfrom span\ngroup by service_name"
OVER_TIME = """
select timestamptz '2026-01-01 12:00:00Z' + n * interval '10 s' as time, n as calls, 50 - n as errors
from generate_series(0, 30) as n
"""


@pytest.fixture
def roots(promscale):
    """The root spans of three passwords: generator calls lower in each."""
    roots = [span("GET /", kind=Span.SPAN_KIND_SERVER) for _ in range(3)]
    for root in roots:
        message = request(root, service="generator")
        add_service(message, child(root, "GET /", kind=Span.SPAN_KIND_SERVER), service="lower")
        promscale.export(message)
    return roots


@pytest.fixture
def explorer(dsn, promscale, roots, serve, monkeypatch):
    """The URL of the dashboards' pages; they and the pages of traces link to each other."""
    urls = {
        "dashboards": serve(create_dashboards(make_conninfo(dsn, user="explorer"))),
        "traces": serve(create_traces(f"127.0.0.1:{promscale.server.port}")),
    }
    for name, url in urls.items():
        monkeypatch.setitem(EXPLORER, name, int(url.rpartition(":")[2]))
    return urls["dashboards"]


def open_sql(open_page, explorer, sql: str = "", **window):
    return open_page(f"{explorer}/sql?sql={quote(sql)}" if sql else f"{explorer}/sql", **window)


def editor(page):
    return page.get_by_label("One statement that only reads")


def shown_sql(page) -> str:
    [sql] = parse_qs(urlsplit(page.url).query)["sql"]
    return sql.replace("\r\n", "\n")


def column(page, number: int) -> list[str]:
    return page.locator(f".result td:nth-child({number})").all_text_contents()


def run(page, sql: str) -> None:
    editor(page).fill(sql)
    with page.expect_navigation():
        page.get_by_role("button", name="Run").click()


def test_a_query_is_shared_by_its_url(explorer, open_page):
    page = open_sql(open_page, explorer)
    run(page, BY_SERVICE)
    assert shown_sql(page) == BY_SERVICE
    other = open_page(page.url)
    assert editor(other).input_value() == BY_SERVICE
    assert sorted(column(other, 1)) == ["generator", "lower"]
    assert column(other, 2) == ["3", "3"]


@pytest.mark.parametrize("key", ["Control+Enter", "Meta+Enter"])
def test_a_key_runs_the_statement(explorer, open_page, key):
    page = open_sql(open_page, explorer)
    editor(page).fill("select 6 * 7")
    with page.expect_navigation():
        editor(page).press(key)
    assert column(page, 1) == ["42"]
    assert shown_sql(page) == "select 6 * 7"


def test_back_and_forward_show_the_query_of_the_url(explorer, open_page):
    page = open_sql(open_page, explorer)
    run(page, "select 1")
    run(page, "select 2")
    editor(page).fill("select 3")
    page.go_back()
    page.wait_for_url("**sql=select+1")
    assert (editor(page).input_value(), column(page, 1)) == ("select 1", ["1"])
    page.go_forward()
    page.wait_for_url("**sql=select+2")
    assert (editor(page).input_value(), column(page, 1)) == ("select 2", ["2"])


def test_a_statement_that_is_too_long_for_a_url_runs(explorer, open_page):
    page = open_sql(open_page, explorer)
    text = "x" * 60_000
    run(page, f"select length('{text}')")
    assert column(page, 1) == ["60000"]
    assert urlsplit(page.url).query == ""
    run(page, "select 5")
    assert column(page, 1) == ["5"]
    assert shown_sql(page) == "select 5"


def test_an_example_is_put_into_the_editor_and_can_be_undone(explorer, open_page):
    page = open_sql(open_page, explorer)
    editor(page).type("select 1")
    page.get_by_role("button", name="Which services have sent spans?").click()
    assert editor(page).input_value().startswith("select distinct service_name")
    editor(page).press("Control+z")
    assert editor(page).input_value() == "select 1"
    editor(page).press("Control+Shift+z")
    with page.expect_navigation():
        editor(page).press("Control+Enter")
    assert column(page, 1) == ["generator", "lower"]


def test_names_are_inserted_where_the_cursor_is(explorer, open_page):
    page = open_sql(open_page, explorer)
    editor(page).fill("select  from ")
    for _ in " from ":
        editor(page).press("ArrowLeft")
    views = page.locator("details.view-columns", has=page.locator("summary", has_text="service_call_minute"))
    views.locator("summary").click()
    views.get_by_role("button", name="caller").click()
    editor(page).press("End")
    views.get_by_role("button", name="service_call_minute").click()
    assert editor(page).input_value() == "select caller from service_call_minute"


def test_rows_are_sorted_by_a_column(explorer, open_page):
    values = "(9007199254740993, 'b10'), (9007199254740992, 'b9'), (-1, 'A'), (null, null), (10, 'c'), (9, '')"
    page = open_sql(open_page, explorer, f"select * from (values {values}) as v (number, text)")
    numbers = ["-1", "9", "10", "9007199254740992", "9007199254740993"]
    head = page.get_by_role("columnheader", name="number")
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 1) == [*numbers, "null"]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, 1) == [*reversed(numbers), "null"]
    page.get_by_role("button", name="text").press("Space")
    assert head.get_attribute("aria-sort") is None
    assert column(page, 2) == ["", "A", "b9", "b10", "c", "null"]
    assert column(page, 1)[1] == "-1"


def test_open_in_sql_runs_the_statement_of_a_panel(explorer, open_page):
    page = open_page(f"{explorer}/d/CiE9l917z/02-error-rates?refresh=")
    panel = page.locator(".panel", has=page.get_by_role("heading", name="Error rate by operation", exact=True))
    panel.get_by_text("SQL", exact=True).click()
    sql = panel.locator("pre").inner_text()
    panel.get_by_role("link", name="Open in SQL").click()
    page.wait_for_url("**/sql?sql=*")
    assert editor(page).input_value() == sql
    assert sorted(column(page, 1)) == ["generator", "lower"]


def test_ids_open_the_trace_with_the_span_selected(explorer, open_page, roots):
    statement = "select trace_id, span_id from span where is_root_span order by start_time limit 1"
    page = open_sql(open_page, explorer, statement)
    trace, selected = page.locator(".result td a").all()
    assert urlsplit(trace.get_attribute("href")).path == f"/trace/{roots[0].trace_id.hex()}"
    selected.click()
    details = page.get_by_role("complementary", name="Details of the selected span")
    details.get_by_text(roots[0].span_id.hex()).wait_for()
    # And from there back to SQL.
    details.get_by_role("link", name="Open in SQL").click()
    page.wait_for_url("**/sql?sql=*")
    assert page.get_by_role("status").first.inner_text().startswith("1 row ")


def test_files_have_the_result_of_the_statement(explorer, open_page):
    page = open_sql(open_page, explorer)
    editor(page).fill("select 12345678901234567890 as n, span_tags from span limit 1")
    contents = {}
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {name}").click()
        assert download.value.suggested_filename == f"result.{name.lower()}"
        contents[name] = download.value.path().read_text()
    assert contents["CSV"].splitlines() == ["n,span_tags", "12345678901234567890,{}"]
    assert json.loads(contents["JSON"]) == [{"n": 12345678901234567890, "span_tags": {}}]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1250, "dark"), (800, "light"), (360, "dark")])
def test_a_chart_fits_into_the_window_and_shows_times_in_utc(explorer, open_page, screenshot, width, scheme):
    page = open_sql(open_page, explorer, OVER_TIME, width=width, scheme=scheme, timezone_id="Asia/Kathmandu")
    [chart] = page.get_by_role("img", name="calls, errors").all()
    box = chart.bounding_box()
    # Its texts, of 12 pixels, are readable.
    assert 0.9 <= box["width"] / json.loads(chart.get_attribute("data-plot"))["width"] <= 1.8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator(".tip .time").inner_text().startswith("2026-01-01 12:02:")
    screenshot(page, f"sql-{width}")
    # A drag chooses no range: the statement has its own.
    url = page.url
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 40, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert page.url == url
    page.get_by_role("button", name="errors", exact=True).first.click()
    assert chart.locator("[data-name=errors]").is_hidden() and chart.locator("[data-name=calls]").is_visible()


def test_the_editor_shows_its_coloured_text_where_it_is(explorer, open_page):
    page = open_sql(open_page, explorer, width=700)
    sql = (
        "-- why\nselect 'it''s -- no comment', \"from\", 1.5e3, E'\\'', $x$ select $x$ /* a\nb */ from span\n"
        + "a, " * 200
    )
    editor(page).fill(sql)
    tokens = page.locator(".editor pre span").evaluate_all("spans => spans.map(s => [s.className, s.textContent])")
    assert tokens == [
        ["comment", "-- why"],
        ["keyword", "select"],
        ["string", "'it''s -- no comment'"],
        ["number", "1.5e3"],
        ["string", "E'\\''"],
        ["string", "$x$ select $x$"],
        ["comment", "/* a\nb */"],
        ["keyword", "from"],
    ]
    assert page.locator(".editor pre").text_content() == f"{sql}\n"
    # Both break lines at the same places if they have the same height and nothing of the text area is hidden.
    heights = editor(page).evaluate(
        "area => [area.clientHeight, area.scrollHeight, area.previousElementSibling.offsetHeight]"
    )
    assert len(set(heights)) == 1


def test_html_in_a_statement_and_in_its_result_is_text(explorer, open_page):
    hostile = "<img src=x onerror=\"document.title='owned'\"></textarea><b>"
    text = hostile.replace("'", "''")
    sql = f"select '{text}' as \"<i>\", now() + n * interval '1 s', n from generate_series(1, 3) as n"
    page = open_sql(open_page, explorer, sql)
    assert editor(page).input_value() == sql
    assert column(page, 1) == [hostile] * 3
    assert page.locator(".plot").count() > 0
    page.locator(".plot:visible").hover()
    assert page.locator("img, main b, th i").count() == 0
    assert page.title() == "SQL on traces"
