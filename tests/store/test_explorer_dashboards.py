"""The explorer's port 3000, on a real database."""

import csv
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from explorer import dashboards
from explorer import database as database_module
from explorer.charts import shade
from explorer.dashboards import create_dashboards, shown_panels
from explorer.traces import create_traces
from promscale.store import Store
from queries import COLOURS, SERVICES, Kind
from queries.dashboards import DASHBOARDS
from tests.stack.checkout import wait_for
from tests.store.otlp_messages import add_service, child, request, span

HOSTILE = "<script>alert('1')</script>"
PANELS = [(board, number, panel) for board in DASHBOARDS for number, panel in enumerate(shown_panels(board))]


@pytest.fixture
def client(dsn, promscale):
    viewer = {name: value for name, value in conninfo_to_dict(dsn).items() if name != "password"}
    return create_dashboards(make_conninfo(**viewer | {"user": "explorer"})).test_client()


@pytest.fixture
def traffic(promscale):
    """A few passwords of the last minutes, one of which has failed, and a service with a hostile name."""
    for minutes in (1, 2, 3):
        start = time.time_ns() - minutes * 60 * 10**9
        status = Status(code=Status.STATUS_CODE_ERROR) if minutes == 1 else None
        root = span("GET /", kind=Span.SPAN_KIND_SERVER, start_time_unix_nano=start, status=status)
        calls = child(root, "GET", kind=Span.SPAN_KIND_CLIENT)
        served = child(calls, "GET /", kind=Span.SPAN_KIND_SERVER, status=Status(code=Status.STATUS_CODE_ERROR))
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
    for number, panel in enumerate(shown_panels(board)):
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


# Links and colours ----------------------------------------------------------------------------------------------------


@pytest.fixture
def found(promscale):
    """A function that follows a link, and returns the ids of the traces that it leads to."""
    traces = create_traces(f"127.0.0.1:{promscale.server.port}").test_client()

    def found(link: str) -> set[str]:
        assert link.startswith("http://localhost:16686/"), link
        address = urlsplit(link)
        assert traces.get(f"{address.path}?{address.query}").status_code == 200
        path = address.path.replace("/search", "/api/traces").replace("/trace/", "/api/traces/")
        return {trace["traceID"] for trace in traces.get(f"{path}?{address.query}").json["data"]}

    return found


def panel_url(title: str) -> str:
    [(board, number, _)] = [each for each in PANELS if each[2].title == title]
    return url(board, number)


def links(text: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', text)]


def marks(figure: dict) -> list[str]:
    """Where a click leads, of all marks of a chart that is not a heat map: as static/dashboards.js makes it."""
    return [
        mark_url(trace["leads"], number, x)
        for trace in figure["data"]
        for number, x in enumerate(trace.get("x") or trace["labels"])
    ]


def mark_url(leads: dict, number: int, x: float) -> str:
    values = {name: column[number] for name, column in leads["columns"].items()}
    if "step" in leads:
        values |= {"start": round(x * 1000), "end": round((x + leads["step"]) * 1000) - 1}
    return "http://localhost:16686/" + re.sub(r"\{(\w+)\}", lambda name: str(values[name[1]]), leads["link"])


def test_a_table_leads_to_the_traces_behind_its_figures(client, traffic, found, database):
    failed = "select distinct trace_id from span where service_name = 'lower' and status_code = 'error'"
    ids = {id.hex for (id,) in database.execute(failed.replace("trace_id", "cast(trace_id as uuid)", 1))}
    rows = client.get(panel_url("Error rate by operation")).text.split("<tr>")
    [row] = [row for row in rows if "<td>lower</td>" in row and "<td>GET /</td>" in row]
    calls, errors = links(row)
    assert found(calls) == found(errors) == ids
    assert len(ids) == 3
    [trace] = links(client.get(panel_url("Failed traces")).text)
    assert len(found(trace)) == 1
    assert found(trace) < ids


def test_a_percentile_leads_to_what_took_longer(client, traffic, found):
    rows = client.get(panel_url("Operations below, in numbers")).text.split("<tr>")
    [row] = [row for row in rows if "<td>GET /</td>" in row]
    calls, errors, *percentiles = links(row)
    assert len(found(calls)) == len(found(errors)) == 3
    # All took the same time.
    assert [found(link) for link in percentiles] == [found(calls)] * 3
    [duration] = {fields["minDuration"][0] for fields in map(parse_qs, percentiles)}
    assert re.fullmatch(r"\d+(\.\d+)?ms", duration)


def test_a_point_leads_to_the_traces_of_its_minute(client, traffic, found):
    figure = client.get(panel_url("Requests per second, by minute")).json
    counts = [round(rate * 60) for rate in figure["data"][0]["y"]]
    assert [len(found(link)) for link in marks(figure)] == counts
    assert sum(counts) >= 2  # the last minute may not be whole


@pytest.mark.parametrize(
    "title", ["Errors by service", "Error rate over time", "Share of execution time", "Time over time"]
)
def test_a_mark_leads_to_its_traces(client, traffic, found, title):
    leading = marks(client.get(panel_url(title)).json)
    assert all(found(link) for link in leading if "error" not in link)
    assert any(found(link) for link in leading)


def test_a_node_leads_to_its_traces(client, traffic, found):
    for title in ("Service calls", "Operations below"):
        nodes = links(client.get(panel_url(title)).text)
        assert len(nodes) == 2
        assert [len(found(link)) for link in nodes] == [3, 3]


def test_a_node_says_how_many_calls_have_failed(client, traffic):
    graph = client.get(panel_url("Operations below")).text
    assert re.search("<title>lower GET /: 3 × .* ms, 3 failed</title>", graph)
    assert graph.count('class="share"') == 1


def test_what_would_be_too_long_is_no_link(client, promscale, traffic):
    start = time.time_ns() - 60 * 10**9
    for number in range(30):
        failed = Status(code=Status.STATUS_CODE_ERROR)
        spans = [span(f"{number}{'&' * 10_000}", start_time_unix_nano=start, status=failed)]
        promscale.export(request(*spans, service=f"{number}{'%' * 10_000}"))
    for board, number, _ in PANELS:
        answer = client.get(url(board, number))
        assert answer.status_code == 200
        assert all(len(link) < 2_100 for link in links(answer.text))
    table = client.get(panel_url("Error rate by operation")).text
    assert table.count("<tr>") > 30
    assert len(links(table)) < 10
    pie = client.get(panel_url("Errors by service")).json["data"][0]
    assert {len(name or "") < 2_000 for name in pie["leads"]["columns"]["service_name"]} == {True}
    assert None in pie["leads"]["columns"]["service_name"]


@pytest.mark.parametrize("begin", ["1900-01-01T00:00:00Z", "0"])
def test_a_link_has_times_that_a_search_takes(client, traffic, found, begin):
    table = client.get(panel_url("Error rate by operation") + f"?from={begin}&to=9999-12-31T23:59:59Z").text
    assert [bool(found(link)) for link in links(table)] == [True] * len(links(table))


def test_a_service_has_the_same_colour_everywhere(client, traffic, promscale):
    lower = COLOURS[SERVICES.index("lower")]
    pie = client.get(panel_url("Errors by service")).json["data"][0]
    assert dict(zip(pie["labels"], pie["marker"]["colors"], strict=True))["lower"] == lower
    lines = {line["name"]: line["line"]["color"] for line in client.get(panel_url("Error rate over time")).json["data"]}
    assert lines["lower"] == lower
    number = SERVICES.index("lower")
    assert f'class="node s{number}"' in client.get(panel_url("Service calls")).text
    for app in (client, create_traces(f"127.0.0.1:{promscale.server.port}").test_client()):
        assert f".s{number} {{ --service: {lower}; }}" in app.get("/services.css").text
    traces = app.get("/search?service=lower").text
    assert f'class="service s{number}"' in traces


def test_operations_of_a_service_have_different_shades():
    for colour in COLOURS:
        assert len({shade(colour, number) for number in range(7)}) == 7
        assert shade(colour, 0) == colour
        assert all(re.fullmatch("#[0-9a-f]{6}", shade(colour, number)) for number in range(20))


# Parameters -----------------------------------------------------------------------------------------------------------


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
    cells = [row for row in csv.reader(io.StringIO(answer.text, newline=""))]
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
    [("localhost:3000", "localhost"), ("demo", "demo"), ("127.0.0.1:3000", "127.0.0.1")]
    + [("[::1]:3000", "[::1]"), ("[::1]", "[::1]")],
)
def test_links_to_the_traces_have_the_name_that_was_asked(client, host, traces):
    assert f'href="http://{traces}:16686/search"' in client.get("/", headers={"Host": host}).text


def test_a_nul_is_no_sql(client):
    answer = ask(client, "select '\0'")
    assert answer.status_code == 400
    assert "Parameter sql:" in answer.text
