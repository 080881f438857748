"""The explorer's port 3000, on a real database."""

import csv
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import queries
from explorer import dashboards
from explorer import database as database_module
from explorer.dashboards import DASHBOARDS, create_dashboards
from explorer.traces import create_traces
from promscale.store import Store
from queries import Kind
from tests.stack.checkout import wait_for
from tests.store.otlp_messages import add_service, child, request, span

HOSTILE = "<script>alert('1')</script>"
PANELS = [(board, number, panel) for board in DASHBOARDS for number, panel in enumerate(board.panels)]


@pytest.fixture
def client(dsn, promscale):
    viewer = {name: value for name, value in conninfo_to_dict(dsn).items() if name != "password"}
    return create_dashboards(make_conninfo(**viewer | {"user": "explorer"})).test_client()


@pytest.fixture
def traffic(promscale):
    """A few passwords of the last minutes, in all of which a call has failed, and one as a whole; an operation has a
    hostile name."""
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


def url(board, number: int) -> str:
    return f"/d/{board.uid}/panels/{number}"


@pytest.mark.parametrize(("board", "number", "panel"), PANELS, ids=lambda value: getattr(value, "title", ""))
def test_a_panel_is_bounded_for_any_time(client, traffic, promscale, board, number, panel):
    promscale.export(request(span("of 1970", start_time_unix_nano=10**9, end_time_unix_nano=2 * 10**9)))
    latest = 2**64 - 1
    promscale.export(request(span("of 2554", start_time_unix_nano=latest - 10**9, end_time_unix_nano=latest)))
    for begin in ("0", f"{time.time_ns() // 10**6 - 400 * 86_400_000}", "now-30d"):
        answer = client.get(f"{url(board, number)}?from={begin}&to=253402300799000")
        assert answer.status_code == 200
        assert len(answer.data) < 200_000


def test_the_list_has_all_dashboards_with_a_figure_each(client, traffic):
    page = client.get("/").text
    for board in DASHBOARDS:
        assert f'href="/d/{board.uid}/{board.slug}"' in page
    assert "<strong>4</strong> spans with an error" in page
    assert "<strong>3</strong> operations in GET / of lower" not in page
    assert "<strong>2</strong> operations in GET / of lower" in page


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.slug)
def test_a_dashboard_has_its_panels_and_their_sql(client, traffic, board, database):
    page = client.get(f"/d/{board.uid}/{board.slug}")
    assert page.status_code == 200
    for number, panel in enumerate(board.panels):
        assert panel.title in page.text
        assert f'data-source="{url(board, number)}"' in page.text
    for text in page.text.split('<pre tabindex="0">')[1:]:
        for statement in unescape(text.partition("</pre>")[0]).split(";\n\n"):
            database.execute(statement)


@pytest.mark.parametrize(("board", "number", "panel"), PANELS, ids=lambda value: getattr(value, "title", ""))
def test_a_panel_shows_what_is_there(client, traffic, board, number, panel):
    answer = client.get(url(board, number))
    assert answer.status_code == 200
    match panel.kind:
        case Kind.TABLE:
            assert answer.text.count("<tr>") > 1
        case Kind.NODE_GRAPH:
            assert answer.text.count("<rect") > 1
            assert answer.text.count('class="edge"') >= 1
        case _:
            figure = json.loads(answer.text)
            assert any(trace.get("values") or trace.get("y") for trace in figure["data"])


@pytest.mark.parametrize(("board", "number", "panel"), PANELS, ids=lambda value: getattr(value, "title", ""))
def test_an_empty_panel_says_what_to_do(client, board, number, panel):
    answer = client.get(url(board, number) + "?from=2020-01-01T00:00:00Z&to=2020-01-01T01:00:00Z")
    assert answer.status_code == 200
    if "request_rate" in panel.statements[0]:  # none is a rate, too
        assert set(answer.json["data"][0]["y"]) == {0}
    else:
        assert "Choose a longer time" in answer.text


def test_service_and_operation_are_chosen_in_the_url(client, traffic):
    (below,) = (board for board in DASHBOARDS if board.slug.startswith("06"))
    page = client.get(f"/d/{below.uid}/{below.slug}?var-service=generator&var-operation=GET").text
    assert '<option value="generator" selected>' in page
    assert '<option value="GET" selected>' in page
    table = client.get(url(below, 3) + "?var-service=generator&var-operation=GET").text
    assert "generator" in table
    assert "generator" not in client.get(url(below, 3)).text


def test_what_comes_from_spans_is_text(client, traffic):
    (below,) = (board for board in DASHBOARDS if board.slug.startswith("06"))
    for number, panel in enumerate(below.panels):
        if panel.kind in (Kind.TABLE, Kind.NODE_GRAPH):
            answer = client.get(url(below, number)).text
            assert "<script" not in answer
            assert "&lt;script&gt;" in answer
    page = client.get(f"/d/{below.uid}/{below.slug}?var-service={HOSTILE}&var-operation='; select 1; --").text
    assert HOSTILE not in page
    assert client.get(url(below, 0) + "?var-service='; select pg_sleep(9); --").status_code == 200


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("from=yesterday", "from"),
        ("to=now-1y", "to"),
        ("from=now&to=now-5m", "from"),
        ("from=99999999999999999999", "from"),
        ("refresh=1ms", "refresh"),
        ("var-service=%00", "var-service"),
    ],
)
def test_a_bad_parameter_is_named(client, query, named):
    board = DASHBOARDS[5]
    for path in (f"/d/{board.uid}/{board.slug}", url(board, 0)):
        answer = client.get(f"{path}?{query}")
        assert answer.status_code == 400
        assert f"Parameter {named}:" in answer.text


def test_what_there_is_not(client):
    assert client.get("/d/nothing/at-all").status_code == 404
    assert client.get(f"/d/{DASHBOARDS[0].uid}/panels/9").status_code == 404
    answer = client.get(f"/d/{DASHBOARDS[0].uid}/old-name?from=now-1h")
    assert answer.location == f"/d/{DASHBOARDS[0].uid}/{DASHBOARDS[0].slug}?from=now-1h"


def test_a_panel_that_fails_says_why(client, traffic, database):
    database.execute("revoke select on ps_trace.span from prom_reader")
    answer = client.get(url(DASHBOARDS[0], 0))
    assert answer.status_code == 500
    assert "permission denied for view span" in answer.text
    assert client.get(f"/d/{DASHBOARDS[0].uid}/{DASHBOARDS[0].slug}").status_code == 200


def test_without_a_database_a_page_says_so(monkeypatch):
    monkeypatch.setattr(database_module, "CONNECT_SECONDS", 1)
    client = create_dashboards("postgresql://explorer@127.0.0.1:1/postgres").test_client()
    answer = client.get("/")
    assert answer.status_code == 503
    assert "PostgreSQL at 127.0.0.1:1 does not answer" in answer.text
    assert 'http-equiv="refresh"' in answer.text


# Links and colours -----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(promscale):
    """The pages of traces, where links lead."""
    return create_traces(f"127.0.0.1:{promscale.server.port}").test_client()


EVIL = 'a&b=c #"{start}{0} %41 <b>'


@pytest.fixture
def requests(promscale):
    """Nine requests of the last minutes: their root spans, of which every third has failed in a service with a hostile
    name, by that one's operation: each a different time, and a different duration."""
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


def ids(roots, failed: bool = False) -> set[str]:
    return {root.trace_id.hex() for root in roots if root.status.code == Status.STATUS_CODE_ERROR or not failed}


def found(browser, link: str) -> set[str]:
    """The traces that a link's page shows. All of a URL must be understood."""
    address, _, query = link.partition("?")
    assert address == "http://localhost:16686/search"
    answer = browser.get(f"/search?{query}")
    assert answer.status_code == 200, answer.text
    return set(re.findall(r'class="root" href="/trace/([0-9a-f]{32})"', answer.text))


def cells(table: str) -> list[dict[str, tuple[str, str]]]:
    """Of each row of a table, the text and the link of each column."""
    columns = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)
    rows = []
    for row in table.partition("<tbody>")[2].split("<tr>")[1:]:
        values = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        links = [re.search(r'href="([^"]*)"', value) for value in values]
        texts = [unescape(re.sub(r"<[^>]*>", "", value)) for value in values]
        urls = [unescape(link[1]) if link else "" for link in links]
        rows.append(dict(zip(columns, zip(texts, urls, strict=True), strict=True)))
    return rows


def points(figure: dict) -> list[tuple[str, float, str]]:
    """Name, value and link of each point, slice, bar and cell, as static/dashboards.js finds it."""
    made = []
    for trace in figure["data"]:
        about = trace["about"]

        def link(number: int, row: int | None = None, about=about) -> str:
            own = {f"{at}": text for at, text in enumerate(about["values"][row])} if "values" in about else {}
            if "step" in about:
                begin = about["begin"] + number * about["step"]
                own |= {"start": f"{begin}", "end": f"{begin + about['step'] - 1}"}
            return "http://localhost:16686/" + re.sub(r"\{(\w+)\}", lambda name: own[name[1]], about["url"])

        if trace["type"] == "heatmap":
            of = [(y, x, value) for y, values in enumerate(trace["z"]) for x, value in enumerate(values)]
            made += [("", value, link(x, y)) for y, x, value in of if value]
        else:
            values = trace.get("values") or trace["y"]
            names = map(unescape, trace.get("labels") or [trace.get("name", "")] * len(values))
            named = enumerate(zip(names, values, strict=True))
            made += [(name, value, link(n, n)) for n, (name, value) in named if value]
    return made


def panel_of(client, title: str, query: str = ""):
    [(board, number)] = [(board, number) for board, number, panel in PANELS if panel.title == title]
    answer = client.get(f"{url(board, number)}{query}")
    assert answer.status_code == 200
    return answer.json if answer.is_json else answer.text


def test_numbers_of_a_table_lead_to_exactly_their_traces(client, browser, requests):
    every = [root for roots in requests.values() for root in roots]
    rows = {
        (row["service name"][0], row["span name"][0]): row for row in cells(panel_of(client, "Error rate by operation"))
    }
    expected = {
        ("load", "load.request"): every,
        ("generator", "GET"): every,
        ("lower", "GET /"): requests["GET /"],
        (EVIL, EVIL): requests[EVIL],
    }
    for operation, roots in expected.items():
        row = rows[operation]
        for column, wanted in (("calls", ids(roots)), ("errors", ids(roots, failed=True))):
            text, link = row[column]
            assert int(text) == len(wanted)
            assert found(browser, link) == wanted
    calls = {row["callee"][0]: row for row in cells(panel_of(client, "Service calls, in numbers"))}
    assert found(browser, calls[EVIL]["errors"][1]) == ids(requests[EVIL], failed=True)


def test_none_has_no_link(client, traffic):
    table = cells(panel_of(client, "Error rate by operation"))
    assert {bool(row["errors"][1]) for row in table if row["errors"][0] == "0"} == {False}
    assert {bool(row["errors"][1]) for row in table if row["errors"][0] != "0"} == {True}
    assert all(row["calls"][1] for row in table)


def test_percentiles_lead_to_what_took_longer(client, browser, requests):
    [row] = [
        row
        for row in cells(panel_of(client, "Operations below, in numbers", "?var-service=generator"))
        if (row["service name"][0], row["span name"][0]) == ("generator", "GET /")
    ]
    every = sorted((root for roots in requests.values() for root in roots), key=lambda root: root.start_time_unix_nano)
    assert found(browser, row["p50 (ms)"][1]) == ids(every[:5])  # with the one in the middle


@pytest.mark.parametrize("title", ["Failed traces", "Slowest traces"])
def test_traces_in_a_table_lead_to_their_page(client, browser, requests, title):
    every = [root for roots in requests.values() for root in roots]
    links = [row["trace"][1] for row in cells(panel_of(client, title))]
    pages = {link.removeprefix("http://localhost:16686") for link in links}
    assert pages == {f"/trace/{id}" for id in ids(every, failed=title.startswith("Failed"))}
    assert {browser.get(page).status_code for page in pages} == {200}


def test_each_minute_of_a_line_leads_to_what_failed_then(client, browser, requests):
    seen = {}
    for name, _, link in points(panel_of(client, "Error rate over time")):
        seen.setdefault(name, []).append(found(browser, link))
    for name, roots in (("lower", requests["GET /"]), (EVIL, requests[EVIL])):
        assert all(seen[name])
        assert set().union(*seen[name]) == ids(roots, failed=True)
        assert sum(map(len, seen[name])) == len(ids(roots, failed=True))


def test_slices_lead_to_their_traces(client, browser, requests):
    slices = {name: (value, link) for name, value, link in points(panel_of(client, "Errors by service"))}
    for name, roots in (("lower", requests["GET /"]), (EVIL, requests[EVIL])):
        value, link = slices[name]
        assert value == len(ids(roots, failed=True))
        assert found(browser, link) == ids(roots, failed=True)
    [(name, _, link)] = points(panel_of(client, "Share of execution time"))
    assert name == "lower GET /"
    assert found(browser, link) == ids(requests["GET /"])


@pytest.mark.parametrize("title", ["Requests by duration, over time", "Requests by duration"])
def test_bars_and_cells_lead_to_as_many_traces_as_they_say(client, browser, requests, title):
    every, seen = ids(root for roots in requests.values() for root in roots), []
    for _, value, link in points(panel_of(client, title)):
        traces = found(browser, link)
        assert len(traces) == value
        seen += traces
    assert sorted(seen) == sorted(every)


def test_points_of_a_rate_lead_to_passwords_of_that_time(client, browser, requests):
    every, seen = ids(root for roots in requests.values() for root in roots), []
    for _, value, link in points(panel_of(client, "Requests per second, by minute")):
        traces = found(browser, link)
        assert len(traces) == round(60 * value)
        seen += traces
    assert set(seen) <= every and len(seen) == len(set(seen)) >= 7  # not those of the minute that is not whole yet


def test_nodes_and_edges_lead_to_their_traces(client, browser, requests):
    graph = panel_of(client, "Service calls")
    links = re.findall(r'href="([^"]*)" tabindex="-1">\s*<title>([^<]*)</title>', graph)
    by_title = {unescape(title): unescape(link) for link, title in links}
    [node] = [link for title, link in by_title.items() if title.startswith(f"{EVIL}: 5 calls, 2 errors, ")]
    assert found(browser, node) == ids(requests[EVIL])
    assert found(browser, by_title["2 errors. Click: Traces in which it failed"]) == ids(requests[EVIL], failed=True)
    begin = f"generator calls {EVIL}: 5 calls, 2 errors, "
    [edge] = [link for title, link in by_title.items() if title.startswith(begin)]
    assert found(browser, edge) == ids(requests[EVIL])


def test_the_red_part_of_a_node_is_that_of_its_calls(client, requests):
    graph = panel_of(client, "Service calls")
    widths = re.findall(r'class="(all|failed)" [^>]* width="([0-9.]+)"', graph)
    shares = [float(widths[at + 1][1]) / float(widths[at][1]) for at in range(0, len(widths), 2)]
    assert [round(share, 2) for share in sorted(shares)] == [0.25, 0.33, 0.4]  # lower, generator, the hostile one


def test_a_service_has_one_colour_everywhere(client, browser, promscale):
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
    rules = dict(re.findall(r"\.(s\d+) \{ --service: (#[0-9a-f]{6}); \}", client.get("/services.css").text))
    assert list(rules.values()) == list(queries.COLOURS)
    assert browser.get("/services.css").text == client.get("/services.css").text
    expected = {"upper": 1, "lower": 2, "another": 6, "audit": 7, "zebra": 8}
    tags = browser.get(f"/trace/{trace_id}").text
    graphs = [panel_of(client, title) for title in ("Service calls", "Operations below")]
    lines = {each["name"]: each["line"]["color"] for each in panel_of(client, "Error rate over time")["data"]}
    times = {each["name"]: each["line"]["color"] for each in panel_of(client, "Time over time")["data"]}
    for title in ("Errors by service", "Share of execution time"):
        [pie] = panel_of(client, title)["data"]
        named = dict(zip(pie["labels"], pie["marker"]["colors"], strict=True))
        assert named.items() <= (lines | times).items()
    for name in ("audit", "upper", "zebra"):
        number = expected[name]
        assert lines[name] == times[f"{name} answer"] == rules[f"s{number}"]
        assert re.search(rf'class="service s{number}">\s*{name} ', tags)
        assert all(re.search(rf'class="node s{number}">\s*<a [^>]*>\s*<title>{name}', graph) for graph in graphs)
    assert lines["lower"] == rules["s2"]
    assert len({color for name, color in times.items() if name.startswith("lower ")}) == 4


# SQL -------------------------------------------------------------------------------------------------------------------


def ask(client, sql: str, **fields):
    return client.post("/sql", data={"sql": sql} | fields, headers={"Origin": "http://localhost"})


def test_sql_shows_rows(client, traffic):
    page = ask(client, "select service_name, count(*) as spans from span group by 1 order by 1").text
    assert '<th scope="col" class="number">spans</th>' in page
    assert "<td>generator</td>" in page
    assert "2 rows in" in page


def test_sql_starts_from_the_statements_of_queries(client):
    page = client.get("/sql").text
    assert ">request_rate_by_minute</option>" in page


def test_every_example_runs(client, traffic):
    for name, text in dashboards._examples().items():
        assert ask(client, text).status_code == 200, name


def test_sql_without_rows_or_columns(client, traffic):
    assert "0 rows in" in ask(client, "select * from span where false").text
    assert ask(client, "-- nothing").status_code in (200, 400)


def test_sql_shows_the_first_rows_only(client):
    page = ask(client, "select generate_series(1, 100000000)").text
    assert "There are more: only the first 1,000 are shown" in page
    assert page.count("<td") == 1000


def test_sql_as_csv(client):
    answer = ask(client, "select n, 'a \"b\", c' as text from generate_series(1, 3) as n", csv="yes")
    assert answer.mimetype == "text/csv"
    assert answer.text.splitlines() == ["n,text", *(f'{n},"a ""b"", c"' for n in (1, 2, 3))]
    assert ask(client, "select generate_series(1, 100000)", csv="yes").text.count("\n") == 100_001


def test_a_csv_file_is_whole_or_none(client):
    answer = ask(client, "select generate_series(1, 100001)", csv="yes")
    assert answer.status_code == 400
    assert "The result has more than 100,000 rows." in answer.text


def test_no_csv_cell_is_a_formula(client):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a=1", "'=1"]
    values = ", ".join(f"('{text.replace(chr(39), 2 * chr(39))}', -1)" for text in texts)
    answer = ask(client, f'select text, number as "=number" from (values {values}) as v (text, number)', csv="yes")
    cells = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert cells == [["text", "'=number"], *([f"'{text}", "-1"] for text in texts[:6]), ["a=1", "-1"], ["'=1", "-1"]]


def test_sql_shows_postgresqls_message_and_where(client):
    answer = ask(client, "select service_name\nfrom spam")
    assert answer.status_code == 400
    assert "relation &#34;spam&#34; does not exist" in answer.text
    assert "Line 2" in answer.text
    assert "from <mark>spam</mark>" in answer.text


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "  /* a comment */ -- and another\nselect 1;",
        "with one as (values (1)) select * from one;\n-- the end",
        "values (1), (2)",
        "table ps_trace.operation",
        "(select 1) union (select 2)",
        "show search_path",
        "/* why */ explain (analyze, format json) select count(*) from span",
        "SELECT '%s %', ':name', '{}'",
    ],
)
def test_sql_can_look_in_every_way(client, traffic, sql):
    answer = ask(client, sql)
    assert answer.status_code == 200, answer.text
    assert "<td" in answer.text


def test_sql_shows_values_as_postgresql_has_them(client):
    page = ask(client, "select 1.50, null, true, array[1, 2], 'NaN'::float8, interval '1 day', 1 as a, 2 as a").text
    for shown in ("1.50", "<i>null</i>", "true", "[1,2]", "NaN", "1 day"):
        assert f"{shown}</td>" in page


def test_sql_leaves_connections_to_the_dashboards(client):
    with ThreadPoolExecutor(6) as askers:
        slow = [askers.submit(ask, client, "select pg_sleep(8)") for _ in range(6)]
        assert [client.get("/").status_code for _ in range(3)] == [200] * 3
    answers = [each.result() for each in slow]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all("2 statements run already" in answer.text for answer in answers if answer.status_code == 503)
    assert ask(client, "select 1").status_code == 200


def test_a_postgresql_that_is_stopped_is_named(own_cluster):
    Store(own_cluster.uri).migrate()
    client = create_dashboards(own_cluster.uri_of("explorer")).test_client()
    assert client.get("/").status_code == 200
    stopped = own_cluster.processes()
    for process in stopped:
        process.suspend()
    try:
        for answer in (client.get("/"), client.get(url(DASHBOARDS[0], 0)), ask(client, "select 1")):
            assert answer.status_code == 503
            assert f"PostgreSQL at 127.0.0.1:{own_cluster.port} does not answer" in answer.text
    finally:
        for process in stopped:
            process.resume()
    wait_for(lambda: client.get("/").status_code == 200, "the front page")


def test_a_postgresql_that_stops_during_a_statement_is_named(own_cluster, monkeypatch):
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 2)
    Store(own_cluster.uri).migrate()
    client = create_dashboards(own_cluster.uri_of("explorer")).test_client()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(client, "select pg_sleep(1.5)")))
    asking.start()
    busy = "select true from pg_stat_activity where query like '%fetch_text%' and usename = 'explorer'"
    with psycopg.connect(own_cluster.uri, autocommit=True) as connection:
        wait_for(lambda: connection.execute(busy).fetchone(), "the statement")
    stopped = own_cluster.processes()
    for process in stopped:
        process.suspend()
    asking.join()
    for process in stopped:
        process.resume()
    assert answers[0].status_code == 503
    assert "does not answer" in answers[0].text


def test_what_sql_sets_is_gone_afterwards(client):
    ask(client, "select set_config('statement_timeout', '0', false), set_config('search_path', 'nowhere', false)")
    for _ in range(5):
        assert (
            "<td>10s</td>"
            in ask(
                client, "select current_setting('statement_timeout') from span right join (select) on true limit 1"
            ).text
        )


def test_sql_has_an_end(client, monkeypatch, dsn):
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 1)
    client = create_dashboards(dsn).test_client()
    assert "canceling statement due to statement timeout" in ask(client, "select pg_sleep(60)").text
    # A slow machine may need longer for one of the page's statements than that.
    wait_for(lambda: client.get("/").status_code == 200, "the front page")


# Without Sec-Fetch-Site: from http that is not loopback, where browsers leave it out.
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://192.0.2.1:3000"}, 200),
        ({"Origin": "http://192.0.2.1:3000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://192.0.2.1"}, 403),
        ({"Origin": "http://192.0.2.1:5050"}, 403),
        ({"Origin": "https://192.0.2.1:3000"}, 403),
        ({"Origin": "http://192.0.2.1:3000.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://192.0.2.1:3000", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_only_a_page_of_its_own_may_post(client, headers, status):
    answer = client.post("/sql", data={"sql": "select 6 * 7"}, headers={"Host": "192.0.2.1:3000"} | headers)
    assert answer.status_code == status
    assert ('<td class="number">42</td>' in answer.text) == (status == 200)
    assert ("header Origin: http://192.0.2.1:3000" in answer.text) == (status == 403)


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
def test_links_to_the_traces_have_the_name_that_was_asked(client, host, traces):
    assert f'href="http://{traces}:16686/search"' in client.get("/", headers={"Host": host}).text


def test_a_nul_is_no_sql(client):
    answer = ask(client, "select '\0'")
    assert answer.status_code == 400
    assert "Parameter sql:" in answer.text
