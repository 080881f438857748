"""The explorer's port 3000, on a real database."""

import csv
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from explorer import dashboards
from explorer import database as database_module
from explorer.dashboards import create_dashboards
from promscale.store import Store
from queries import Kind
from queries.dashboards import DASHBOARDS
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
    """A few passwords of the last minutes, one of which has failed, and a service with a hostile name."""
    for minutes in (1, 2, 3):
        start = time.time_ns() - minutes * 60 * 10**9
        root = span("GET /", kind=Span.SPAN_KIND_SERVER, start_time_unix_nano=start)
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
    assert "<strong>3</strong> spans with an error" in page
    assert "<strong>3</strong> operations in GET / of lower" not in page
    assert "<strong>2</strong> operations in GET / of lower" in page


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.slug)
def test_a_dashboard_has_its_panels_and_their_sql(client, traffic, board, database):
    page = client.get(f"/d/{board.uid}/{board.slug}")
    assert page.status_code == 200
    for number, panel in enumerate(board.panels):
        assert panel.title in page.text
        assert f'data-source="{url(board, number)}"' in page.text
    for text in page.text.split("<pre tabindex=\"0\">")[1:]:
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
        assert "<td>10s</td>" in ask(client, "select current_setting('statement_timeout') from span right join (select) on true limit 1").text


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
    assert ("<td class=\"number\">42</td>" in answer.text) == (status == 200)
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
