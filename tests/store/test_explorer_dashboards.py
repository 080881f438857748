"""The explorer's dashboards (port 3000), on a real database."""

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html import unescape
from xml.etree import ElementTree

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

import queries
from explorer import database as database_module
from explorer.dashboards import DASHBOARDS, create_dashboards
from explorer.traces import create_traces
from queries import Kind
from tests.databases import switch_fault
from tests.store.otlp_messages import add_service, child, request, span

HOSTILE = "<script>alert('1')</script>"
PANELS = [(dashboard, number, panel) for dashboard in DASHBOARDS for number, panel in enumerate(dashboard.panels)]

# A dashboard with variables.
[DOWNSTREAM] = [dashboard for dashboard in DASHBOARDS if dashboard.slug == "06-downstream-spans"]


@pytest.fixture
def client(dsn, promscale):
    return create_dashboards(make_conninfo(dsn, user="explorer")).test_client()


@pytest.fixture
def traffic(promscale):
    """Three passwords of the last minutes: each has a failed call, one has failed itself. An operation has a hostile
    name."""
    failed = Status(code=Status.STATUS_CODE_ERROR)
    for minutes in (1, 2, 3):
        start = time.time_ns() - minutes * 60 * 10**9
        status = failed if minutes == 1 else None
        root = span("GET /", kind=Span.SPAN_KIND_SERVER, start_time_unix_nano=start, status=status)
        calls = child(root, "GET", kind=Span.SPAN_KIND_CLIENT)
        served = child(calls, "GET /", kind=Span.SPAN_KIND_SERVER, status=failed)
        inner = child(served, HOSTILE)
        message = request(root, calls, service="generator")
        add_service(message, served, inner, service="lower")
        promscale.export(message)


def url(dashboard, number: int) -> str:
    return f"/d/{dashboard.uid}/panels/{number}"


@pytest.mark.parametrize(("dashboard", "number", "panel"), PANELS, ids=lambda value: getattr(value, "title", ""))
def test_a_panel_has_a_limited_size_for_any_time_range(client, traffic, promscale, dashboard, number, panel):
    promscale.export(request(span("of 1970", start_time_unix_nano=10**9, end_time_unix_nano=2 * 10**9)))
    latest = 2**64 - 1
    promscale.export(request(span("of 2554", start_time_unix_nano=latest - 10**9, end_time_unix_nano=latest)))
    for begin in ("0", f"{time.time_ns() // 10**6 - 400 * 86_400_000}", "now-30d"):
        answer = client.get(f"{url(dashboard, number)}?from={begin}&to=253402300799000")
        assert answer.status_code == 200
        assert len(answer.data) < 200_000


def test_the_dashboards_are_listed_with_their_headlines(client, traffic):
    page = client.get("/dashboards").text
    for dashboard in DASHBOARDS:
        assert f'href="/d/{dashboard.uid}/{dashboard.slug}"' in page
    assert "<strong>4</strong> spans with an error" in page
    assert "<strong>3</strong> operations in GET / of lower" not in page
    assert "<strong>2</strong> operations in GET / of lower" in page


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.slug)
def test_a_dashboard_shows_its_panels_and_their_sql(client, traffic, dashboard, database):
    page = client.get(f"/d/{dashboard.uid}/{dashboard.slug}")
    assert page.status_code == 200
    for number, panel in enumerate(dashboard.panels):
        assert panel.title in page.text
        assert f'data-source="{url(dashboard, number)}"' in page.text
    for text in page.text.split('<pre class="sql" tabindex="0">')[1:]:
        database.execute(unescape(text.partition("</pre>")[0]))


@pytest.mark.parametrize(("dashboard", "number", "panel"), PANELS, ids=lambda value: getattr(value, "title", ""))
def test_a_panel_shows_stored_spans(client, traffic, dashboard, number, panel):
    answer = client.get(url(dashboard, number))
    assert answer.status_code == 200
    match panel.kind:
        case Kind.TABLE:
            assert answer.text.count("<tr>") > 1
        case Kind.NODE_GRAPH:
            assert answer.text.count("<rect") > 1
            assert answer.text.count('class="edge"') >= 1
        case Kind.PIE:
            assert shares(answer.text)
        case _:
            assert points(answer.text)
            # The same in words and in numbers, for those who do not see the chart.
            assert plot(answer.text).attrib["aria-label"].startswith(panel.title)
            assert cells(answer.text)


def test_times_in_a_panel_are_in_the_zone_of_the_request(client, traffic):
    shown = {}
    for zone in ("UTC", "Asia/Kathmandu"):
        failed = panel_of(client, "Failed traces", f"?zone={zone}")
        [(time, text), *_] = re.findall(r'<time datetime="([^"]*)">([^<]*)</time>', failed)
        shown[zone] = datetime.fromisoformat(f"{text}Z")
    assert shown["UTC"] == datetime.fromisoformat(time).replace(microsecond=0)
    assert shown["Asia/Kathmandu"] - shown["UTC"] == timedelta(hours=5, minutes=45)


@pytest.mark.parametrize(("dashboard", "number", "panel"), PANELS, ids=lambda value: getattr(value, "title", ""))
def test_an_empty_panel_says_what_to_do(client, dashboard, number, panel):
    answer = client.get(url(dashboard, number) + "?from=2020-01-01T00:00:00Z&to=2020-01-01T01:00:00Z")
    assert answer.status_code == 200
    if "request_rate" in panel.statements[0]:  # a rate of zero
        assert points(answer.text) == []
        assert "Lines over time" in answer.text
    else:
        assert "Choose a longer time range" in answer.text


def test_the_url_chooses_service_and_operation(client, traffic):
    page = client.get(f"/d/{DOWNSTREAM.uid}/{DOWNSTREAM.slug}?var-service=generator&var-operation=GET").text
    assert '<option value="generator" selected>' in page
    assert '<option value="GET" selected>' in page
    table = client.get(url(DOWNSTREAM, 3) + "?var-service=generator&var-operation=GET").text
    assert "generator" in table
    assert "generator" not in client.get(url(DOWNSTREAM, 3)).text


def test_html_in_names_is_escaped(client, traffic):
    for number, panel in enumerate(DOWNSTREAM.panels):
        answer = client.get(url(DOWNSTREAM, number)).text
        assert "<script" not in answer, panel.title
        assert "&lt;script&gt;" in answer, panel.title
    page = client.get(f"/d/{DOWNSTREAM.uid}/{DOWNSTREAM.slug}?var-service={HOSTILE}&var-operation='; select 1; --").text
    assert HOSTILE not in page
    assert client.get(url(DOWNSTREAM, 0) + "?var-service='; select pg_sleep(9); --").status_code == 200


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("from=yesterday", "from"),
        ("to=now-1y", "to"),
        ("from=now&to=now-5m", "from"),
        ("from=99999999999999999999", "from"),
        ("refresh=1ms", "refresh"),
        ("var-service=%00", "var-service"),
        ("width=wide", "width"),
        ("width=99999", "width"),
        ("zone=Berlin", "zone"),
        ("zone=../../etc/passwd", "zone"),
        ("zone=Europe", "zone"),
    ],
)
def test_an_invalid_parameter_is_named(client, query, name):
    # The page itself has neither width nor zone.
    paths = [url(DOWNSTREAM, 0)] + ([] if name in ("width", "zone") else [f"/d/{DOWNSTREAM.uid}/{DOWNSTREAM.slug}"])
    for path in paths:
        answer = client.get(f"{path}?{query}")
        assert answer.status_code == 400
        assert f"Parameter {name}:" in answer.text


def test_unknown_dashboards_panels_and_slugs(client):
    assert client.get("/d/nothing/at-all").status_code == 404
    assert client.get(f"/d/{DASHBOARDS[0].uid}/panels/9").status_code == 404
    # Parameters of any name are kept, also those that Flask's url_for would interpret.
    answer = client.get(f"/d/{DASHBOARDS[0].uid}/old-name?from=now-1h&_scheme=x&uid=y")
    assert answer.location == f"/d/{DASHBOARDS[0].uid}/{DASHBOARDS[0].slug}?from=now-1h&_scheme=x&uid=y"


def test_a_panel_shows_the_error_of_its_sql(client, traffic, database):
    database.execute("revoke select on ps_trace.span from prom_reader")
    answer = client.get(url(DASHBOARDS[0], 0))
    assert answer.status_code == 500
    assert "permission denied for view span" in answer.text
    assert client.get(f"/d/{DASHBOARDS[0].uid}/{DASHBOARDS[0].slug}").status_code == 200


def test_a_page_without_a_database_says_so_and_retries(monkeypatch):
    monkeypatch.setattr(database_module, "CONNECT_SECONDS", 1)
    client = create_dashboards("postgresql://explorer@127.0.0.1:1/postgres").test_client()
    answer = client.get("/")
    assert answer.status_code == 503
    assert "PostgreSQL at 127.0.0.1:1 does not answer" in answer.text
    assert 'http-equiv="refresh"' in answer.text


# Links and colours ---------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(promscale):
    """The pages of traces, which links lead to."""
    return create_traces(f"127.0.0.1:{promscale.server.port}").test_client()


EVIL = 'a&b=c #"{start}{0} %41 <b>'


@pytest.fixture
def requests(promscale):
    """Nine requests of the last minutes with different durations, every third of which failed: their root spans, by the
    operation that was called last. The service of one of these operations has the same hostile name."""
    roots = {"GET /": [], EVIL: []}
    for number in range(9):
        start = time.time_ns() - (60 + number * 40) * 10**9
        times = {"start_time_unix_nano": start, "end_time_unix_nano": start + (number + 1) ** 3 * 10**6}
        status = Status(code=Status.STATUS_CODE_ERROR) if number % 3 == 0 else None
        load = span("load.request", kind=Span.SPAN_KIND_CLIENT, status=status, **times)
        root = child(load, "GET /", kind=Span.SPAN_KIND_SERVER, status=status, **times)
        calls = child(root, "GET", kind=Span.SPAN_KIND_CLIENT, status=status, **times)
        name = "GET /" if number % 2 else EVIL
        served = child(calls, name, kind=Span.SPAN_KIND_SERVER, status=status, **times)
        message = request(load, service="load")
        add_service(message, root, calls, service="generator")
        add_service(message, served, service="lower" if number % 2 else EVIL)
        promscale.export(message)
        roots[name].append(load)
    return roots


def all_roots(requests: dict[str, list[Span]]) -> list[Span]:
    return [root for roots in requests.values() for root in roots]


def ids(roots, failed: bool = False) -> set[str]:
    return {root.trace_id.hex() for root in roots if root.status.code == Status.STATUS_CODE_ERROR or not failed}


def search(browser, link: str) -> set[str]:
    """The ids of the traces on a link's page, which must accept all of its parameters."""
    address, _, query = link.partition("?")
    assert address == "http://localhost:16686/search"
    answer = browser.get(f"/search?{query}")
    assert answer.status_code == 200, answer.text
    return set(re.findall(r'class="root" href="/trace/([0-9a-f]{32})"', answer.text))


def cells(table: str) -> list[dict[str, tuple[str, str]]]:
    """The text and the link of each cell, by row and column."""
    columns = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)
    rows = []
    for row in table.partition("<tbody>")[2].split("<tr>")[1:]:
        values = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        links = [re.search(r'href="([^"]*)"', value) for value in values]
        texts = [unescape(re.sub(r"<[^>]*>", "", value)) for value in values]
        urls = [unescape(link[1]) if link else "" for link in links]
        rows.append(dict(zip(columns, zip(texts, urls, strict=True), strict=True)))
    return rows


def plot(panel: str) -> ElementTree.Element:
    """The chart in a panel."""
    end = '<path class="selection"/></svg>'
    return ElementTree.fromstring(panel[panel.index('<svg class="plot') : panel.index(end) + len(end)])


def points(panel: str) -> list[tuple[str, float, str]]:
    """Name, value and link of each point, bar and cell that is not zero, as static/charts.js computes them."""
    drawn = plot(panel)
    about = json.loads(drawn.attrib["data-plot"])
    points = []
    for mark in drawn.iterfind(".//*[@data-url]"):
        data = {name.removeprefix("data-"): text for name, text in mark.attrib.items()}
        bounds = json.loads(data.get("bounds", "null"))
        if about["kind"] == "lines":
            pairs = [float(number) for number in mark.attrib["d"][1:].split()]
            steps = dict(zip(map(int, pairs[::2]), pairs[1::2], strict=True))
            points += [
                (data["name"], value, link_of(about, data["url"], step)) for step, value in steps.items() if value
            ]
            continue
        rows = json.loads(data["values"])
        cells = (
            enumerate(rows) if about["kind"] == "heatmap" else [(index, [count]) for index, count in enumerate(rows)]
        )
        points += [
            ("", value, link_of(about, data["url"], step, bounds[row]))
            for row, values in cells
            for step, value in enumerate(values)
            if value
        ]
    return points


def link_of(about: dict, url: str, step: int, bounds: Sequence[str] = ()) -> str:
    fields = {f"{index}": text for index, text in enumerate(bounds)}
    begin = about["begin"] + step * about["step"]
    fields |= {"start": f"{begin}", "end": f"{begin + about['step'] - 1}"}
    path = re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], url)
    return f"http://localhost:16686/{path}"


def shares(panel: str) -> dict[str, tuple[str, str, str]]:
    """Value, link and colour of each row of a table of shares, by its name."""
    rows = re.findall(
        r'<th [^>]*>\s*<a href="([^"]*)">([^<]*)</a>\s*</th>\s*<td class="number">([^<]*)<.*?fill="([^"]*)"',
        panel,
        re.DOTALL,
    )
    return {unescape(name): (value, unescape(link), colour) for link, name, value, colour in rows}


def panel_of(client, title: str, query: str = ""):
    [(dashboard, number)] = [(dashboard, number) for dashboard, number, panel in PANELS if panel.title == title]
    answer = client.get(f"{url(dashboard, number)}{query}")
    assert answer.status_code == 200
    return answer.text


def test_numbers_in_a_table_link_to_exactly_their_traces(client, browser, requests):
    rows = {
        (row["service name"][0], row["span name"][0]): row for row in cells(panel_of(client, "Error rate by operation"))
    }
    expected = {
        ("load", "load.request"): all_roots(requests),
        ("generator", "GET"): all_roots(requests),
        ("lower", "GET /"): requests["GET /"],
        (EVIL, EVIL): requests[EVIL],
    }
    for operation, roots in expected.items():
        row = rows[operation]
        for column, wanted in (("calls", ids(roots)), ("errors", ids(roots, failed=True))):
            text, link = row[column]
            assert int(text) == len(wanted)
            assert search(browser, link) == wanted
    calls = {row["callee"][0]: row for row in cells(panel_of(client, "Service calls, in numbers"))}
    assert search(browser, calls[EVIL]["errors"][1]) == ids(requests[EVIL], failed=True)


def links_of(page: str, start: str) -> list[str]:
    """The URLs of the links whose text begins so."""
    return [unescape(link) for link in re.findall(rf'<a href="([^"]*)">{re.escape(start)}', page)]


def test_panels_of_durations_and_errors_lead_to_what_differs(client, requests):
    durations = client.get("/d/GkrS6rJ7z/03-request-durations?from=now-30m").text
    [slow] = set(links_of(durations, "What differs: slow traces"))
    answer = client.get(slow)
    # The duration that a tenth exceeds: between those of the slowest two of nine, 512 ms and 729 ms.
    assert answer.location == f"{slow.replace('/slow?', '/differences?')}&minDuration=555ms"
    assert "load load.request" in client.get(answer.location.replace("?", "/answer?")).text
    errors = client.get("/d/CiE9l917z/02-error-rates?from=now-30m").text
    [failed] = set(links_of(errors, "What differs: failed traces"))
    assert re.search(r"failed span, .*\b3 traces", client.get(failed.replace("?", "/answer?")).text, re.DOTALL)


def test_a_dashboard_links_to_analyses_of_its_time_and_operation(client, browser, requests):
    page = client.get(
        f"/d/{DOWNSTREAM.uid}/{DOWNSTREAM.slug}?var-service=generator&var-operation=GET&from=now-30m"
    ).text
    for text, path in (("compare with the time before", "/analysis/compare"), ("flame graph", "/analysis/flame")):
        [link] = links_of(page, text)
        assert link.startswith(f"{path}?service=generator&operation=GET&lookback=30m")
        answer = client.get(link.replace("?", "/answer?"))
        assert "with a span of generator GET" in answer.text and "9 traces" in answer.text
    [found] = links_of(page, "search")
    assert search(browser, found) == ids(all_roots(requests))
    [same] = links_of(page, "05 Upstream spans")
    assert same.endswith("/05-upstream-spans?var-service=generator&var-operation=GET&from=now-30m")
    in_header, service_map = links_of(page, "Service map")
    assert "lookback=30m" in in_header
    assert browser.get(service_map.removeprefix("http://localhost:16686")).status_code == 200


def test_services_in_tables_have_their_colours(client, requests):
    for title in ("Error rate by operation", "Service calls, in numbers", "Slowest traces"):
        table = panel_of(client, title)
        names = {row.get("service name", row.get("callee"))[0] for row in cells(table)}
        tags = {unescape(name): int(number) for number, name in re.findall(r'class="service s(\d+)">([^<]*)<', table)}
        assert names <= tags.keys()
        assert tags.items() <= queries.colour_numbers([EVIL]).items()


def test_a_zero_in_a_table_has_no_link(client, traffic):
    table = cells(panel_of(client, "Error rate by operation"))
    assert {bool(row["errors"][1]) for row in table if row["errors"][0] == "0"} == {False}
    assert {bool(row["errors"][1]) for row in table if row["errors"][0] != "0"} == {True}
    assert all(row["calls"][1] for row in table)


def test_percentiles_link_to_traces_that_took_longer(client, browser, requests):
    [row] = [
        row
        for row in cells(panel_of(client, "Operations downstream, in numbers", "?var-service=generator"))
        if (row["service name"][0], row["span name"][0]) == ("generator", "GET /")
    ]
    # The more recent a request, the shorter it is; the median is the fifth.
    longest_first = sorted(all_roots(requests), key=lambda root: root.start_time_unix_nano)
    assert search(browser, row["p50"][1]) == ids(longest_first[:5])


@pytest.mark.parametrize("title", ["Failed traces", "Slowest traces"])
def test_trace_ids_in_a_table_link_to_their_pages(client, browser, requests, title):
    links = [row["trace id"][1] for row in cells(panel_of(client, title))]
    pages = {link.removeprefix("http://localhost:16686") for link in links}
    assert pages == {f"/trace/{trace_id}" for trace_id in ids(all_roots(requests), failed=title.startswith("Failed"))}
    assert {browser.get(page).status_code for page in pages} == {200}


def test_points_of_a_line_link_to_the_traces_that_failed_then(client, browser, requests):
    seen = {}
    for name, _, link in points(panel_of(client, "Error rate over time")):
        seen.setdefault(name, []).append(search(browser, link))
    for name, roots in (("lower", requests["GET /"]), (EVIL, requests[EVIL])):
        assert all(seen[name])
        assert set().union(*seen[name]) == ids(roots, failed=True)
        assert sum(map(len, seen[name])) == len(ids(roots, failed=True))


def test_shares_link_to_their_traces(client, browser, requests):
    by_service = shares(panel_of(client, "Where errors begin"))
    # Not load and generator, which failed only because these did.
    assert by_service.keys() == {"lower", EVIL}
    for name, roots in (("lower", requests["GET /"]), (EVIL, requests[EVIL])):
        value, link, _ = by_service[name]
        assert int(value) == len(ids(roots, failed=True))
        assert search(browser, link) == ids(roots, failed=True)
    [(name, (_, link, _))] = shares(panel_of(client, "Share of execution time")).items()
    assert name == "lower GET /"
    assert search(browser, link) == ids(requests["GET /"])


@pytest.mark.parametrize("title", ["Requests by duration, over time", "Requests by duration"])
def test_bars_and_cells_link_to_as_many_traces_as_they_count(client, browser, requests, title):
    seen = []
    for _, value, link in points(panel_of(client, title)):
        traces = search(browser, link)
        assert len(traces) == value
        seen += traces
    assert sorted(seen) == sorted(ids(all_roots(requests)))


def test_points_of_a_rate_link_to_the_passwords_of_that_time(client, browser, requests):
    seen = []
    for _, value, link in points(panel_of(client, "Requests per second, by minute")):
        traces = search(browser, link)
        assert len(traces) == round(60 * value)
        seen += traces
    assert (
        set(seen) <= ids(all_roots(requests)) and len(seen) == len(set(seen)) >= 7
    )  # without those of the current, incomplete minute


def test_nodes_and_edges_link_to_their_traces(client, browser, requests):
    graph = panel_of(client, "Service calls")
    links = re.findall(r'href="([^"]*)" tabindex="-1">\s*<title>([^<]*)</title>', graph)
    by_title = {unescape(title): unescape(link) for link, title in links}
    [node] = [link for title, link in by_title.items() if title.startswith(f"{EVIL}: 5 calls, 2 errors, ")]
    assert search(browser, node) == ids(requests[EVIL])
    assert search(browser, by_title["2 errors. Click: Traces with an error in this service"]) == ids(
        requests[EVIL], failed=True
    )
    title_start = f"generator calls {EVIL}: 5 calls, 2 errors, "
    [edge] = [link for title, link in by_title.items() if title.startswith(title_start)]
    assert search(browser, edge) == ids(requests[EVIL])


def test_the_red_share_of_a_node_is_the_share_of_failed_calls(client, requests):
    graph = panel_of(client, "Service calls")
    widths = re.findall(r'class="(all|failed)" [^>]* width="([0-9.]+)"', graph)
    shares = [float(failed) / float(whole) for (_, whole), (_, failed) in zip(widths[::2], widths[1::2], strict=True)]
    assert [round(share, 2) for share in sorted(shares)] == [0.25, 0.33, 0.4]  # lower, generator, EVIL


def colours_of_lines(panel: str) -> dict[str, str]:
    return {line.attrib["data-name"]: line.attrib["stroke"] for line in plot(panel).iterfind(".//path[@data-name]")}


def test_a_service_has_the_same_colour_everywhere(client, browser, promscale):
    failed = Status(code=Status.STATUS_CODE_ERROR)
    served = span("GET /", kind=Span.SPAN_KIND_SERVER, status=failed)
    message = request(served, service="lower")
    trace_id = served.trace_id.hex()
    for name in ("zebra", "audit", "upper"):
        caller = child(served, f"ask {name}", kind=Span.SPAN_KIND_CLIENT, status=failed)
        answer = child(caller, "answer", kind=Span.SPAN_KIND_SERVER, status=failed)
        add_service(message, caller, service="lower")
        add_service(message, answer, service=name)
    promscale.export(message)
    promscale.export(request(span("long ago", start_time_unix_nano=10**18), service="another"))
    styles = [app.get(f"{app.application.static_url_path}/services.css").text for app in (client, browser)]
    rules = dict(re.findall(r"\.(s\d+) \{ --service: (#[0-9a-f]{6}); \}", styles[0]))
    assert list(rules.values()) == list(queries.COLOURS)
    assert styles[0] == styles[1]
    expected = {"upper": 1, "lower": 2, "another": 6, "audit": 7, "zebra": 8}
    tags = browser.get(f"/trace/{trace_id}").text
    graphs = [panel_of(client, title) for title in ("Service calls", "Operations downstream")]
    lines = colours_of_lines(panel_of(client, "Error rate over time"))
    times = colours_of_lines(panel_of(client, "Duration over time"))
    for title in ("Where errors begin", "Share of execution time"):
        rows = {name: colour for name, (_, _, colour) in shares(panel_of(client, title)).items()}
        assert rows and rows.items() <= (lines | times).items()
    for name in ("audit", "upper", "zebra"):
        number = expected[name]
        assert lines[name] == times[f"{name} answer"] == rules[f"s{number}"]
        assert re.search(rf'class="service s{number}"[^>]*>\s*{name} ', tags)
        assert all(re.search(rf'class="node s{number}">\s*<a [^>]*>\s*<title>{name}', graph) for graph in graphs)
    assert lines["lower"] == rules["s2"]
    assert len({color for name, color in times.items() if name.startswith("lower ")}) == 4


@pytest.mark.parametrize(
    ("host", "traces"),
    [
        ("localhost:3000", "localhost"),
        ("demo", "demo"),
        ("127.0.0.1:3000", "127.0.0.1"),
        ("[::1]:3000", "[::1]"),
        ("[::1]", "[::1]"),
    ],
)
def test_links_to_traces_have_the_host_of_the_request(client, host, traces):
    assert f'href="http://{traces}:16686/search"' in client.get("/", headers={"Host": host}).text


# Marks of changes ----------------------------------------------------------------------------------------------------

OVER_TIME = [(dashboard, number) for dashboard, number, panel in PANELS if panel.kind in (Kind.SERIES, Kind.HEATMAP)]
CHANGE = "digit.errors from mild to strong"


@pytest.mark.parametrize(("dashboard", "number"), OVER_TIME)
def test_charts_mark_when_a_fault_was_switched(client, traffic, database, dashboard, number):
    switch_fault(database, datetime.now(UTC) - timedelta(minutes=2))
    shown = client.get(url(dashboard, number)).text
    assert CHANGE in shown and "a fault was switched" in shown
    before = client.get(url(dashboard, number), query_string={"from": "now-15m", "to": "now-150s"}).text
    assert 'class="plot' in before and CHANGE not in before


def test_in_a_store_without_recorded_faults_charts_have_no_marks(client, traffic, database):
    database.execute("drop schema demo cascade")
    for dashboard, number in OVER_TIME:
        answer = client.get(url(dashboard, number))
        assert answer.status_code == 200
        assert 'class="plot' in answer.text and "a fault was switched" not in answer.text
