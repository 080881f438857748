"""The explorer's SQL page (port 3000), on a real database."""

import csv
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from urllib.parse import parse_qs, urlsplit
from uuid import UUID
from xml.etree import ElementTree

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from psycopg.conninfo import make_conninfo

import queries
from explorer import database as database_module
from explorer.dashboards import DASHBOARDS, create_dashboards
from promscale.store import Store
from tests.store.otlp_messages import add_service, child, request, span
from tests.waiting import wait_until

HOSTILE = "<script>alert('1')</script>"


@pytest.fixture
def client(dsn, promscale):
    return create_dashboards(make_conninfo(dsn, user="explorer")).test_client()


@pytest.fixture
def traffic(promscale):
    """A trace of generator, which calls lower: its two spans."""
    root = span("GET /", kind=Span.SPAN_KIND_SERVER)
    served = child(root, "GET /", kind=Span.SPAN_KIND_SERVER)
    message = request(root, service="generator")
    add_service(message, served, service="lower")
    promscale.export(message)
    return root, served


def ask(client, sql: str, **fields):
    return client.post("/sql", data={"sql": sql} | fields, headers={"Origin": "http://localhost"})


def test_sql_shows_rows(client, traffic):
    page = ask(client, "select service_name, count(*) as spans from span group by 1 order by 1").text
    assert '<th scope="col" class="number">spans</th>' in page
    assert "<td>generator</td>" in page
    assert "2 rows in" in page


def test_every_example_runs(client, traffic):
    button = r'<button type="button" data-sql="([^"]*)">([^<]*[?.]) <code>(\w+)</code>'
    examples = re.findall(button, client.get("/sql").text)
    assert {name for _, _, name in examples} == set(queries.statements())
    assert any("In which operations do errors begin?" in words for _, words, _ in examples)
    for text, _, name in examples:
        assert ask(client, unescape(text)).status_code == 200, name


def test_sql_without_rows(client, traffic):
    assert "0 rows in" in ask(client, "select * from span where false").text


def test_sql_without_a_statement_is_refused(client):
    answer = ask(client, "-- nothing")
    assert answer.status_code == 400
    assert "Only statements that read can run here" in answer.text


def test_sql_shows_only_the_first_rows(client):
    page = ask(client, "select generate_series(1, 100000000)").text
    assert "There are more: only the first 1,000 are shown" in page
    assert page.count("<td") == 1000


def test_sql_as_csv(client):
    answer = ask(client, "select n, 'a \"b\", c' as text from generate_series(1, 3) as n", csv="yes")
    assert answer.mimetype == "text/csv"
    assert answer.text.splitlines() == ["n,text", *(f'{n},"a ""b"", c"' for n in (1, 2, 3))]
    assert ask(client, "select generate_series(1, 100000)", csv="yes").text.count("\n") == 100_001


def test_a_csv_file_is_never_truncated(client):
    answer = ask(client, "select generate_series(1, 100001)", csv="yes")
    assert answer.status_code == 400
    assert "The result has more than 100,000 rows." in answer.text


def test_no_csv_cell_is_a_formula(client):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a=1", "'=1"]
    values = ", ".join(f"('{text.replace(chr(39), 2 * chr(39))}', -1)" for text in texts)
    answer = ask(client, f'select text, number as "=number" from (values {values}) as v (text, number)', csv="yes")
    cells = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert cells == [["text", "'=number"], *([f"'{text}", "-1"] for text in texts[:6]), ["a=1", "-1"], ["'=1", "-1"]]


def test_sql_shows_postgresqls_error_and_its_position(client):
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
def test_sql_accepts_every_statement_that_reads(client, traffic, sql):
    answer = ask(client, sql)
    assert answer.status_code == 200, answer.text
    assert "<td" in answer.text


def test_sql_shows_values_in_postgresqls_notation(client):
    page = ask(client, "select 1.50, null, true, array[1, 2], 'NaN'::float8, interval '1 day', 1 as a, 2 as a").text
    for shown in ("1.50", "<i>null</i>", "true", "[1,2]", "NaN", "1 day"):
        assert f"{shown}</td>" in page


def test_sql_leaves_connections_to_the_dashboards(client, monkeypatch):
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 60)
    with ThreadPoolExecutor(6) as users:
        slow = [users.submit(ask, client, "select pg_sleep(8)") for _ in range(6)]
        assert [client.get("/").status_code for _ in range(3)] == [200] * 3
    answers = [future.result() for future in slow]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all("2 statements are running already" in answer.text for answer in answers if answer.status_code == 503)
    assert ask(client, "select 1").status_code == 200


def test_a_stopped_postgresql_is_reported(own_cluster):
    Store(own_cluster.uri).migrate()
    client = create_dashboards(own_cluster.uri_of("explorer")).test_client()
    assert client.get("/").status_code == 200
    stopped = own_cluster.processes()
    for process in stopped:
        process.suspend()
    try:
        for answer in (client.get("/"), client.get(f"/d/{DASHBOARDS[0].uid}/panels/0"), ask(client, "select 1")):
            assert answer.status_code == 503
            assert f"PostgreSQL at 127.0.0.1:{own_cluster.port} does not answer" in answer.text
    finally:
        for process in stopped:
            process.resume()
    wait_until(lambda: client.get("/").status_code == 200, "the home page")


def test_a_postgresql_that_stops_during_a_statement_is_reported(own_cluster, monkeypatch):
    # The page gives up after 10 s, long before PostgreSQL's own limit.
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 120)
    monkeypatch.setattr(database_module, "GRACE_SECONDS", -110)
    Store(own_cluster.uri).migrate()
    client = create_dashboards(own_cluster.uri_of("explorer")).test_client()
    answers = []
    user = threading.Thread(target=lambda: answers.append(ask(client, "select pg_sleep(120)")))
    user.start()
    busy = "select true from pg_stat_activity where query like '%fetch_text%' and usename = 'explorer'"
    with psycopg.connect(own_cluster.uri, autocommit=True) as connection:
        wait_until(lambda: connection.execute(busy).fetchone(), "the statement")
    stopped = own_cluster.processes()
    for process in stopped:
        process.suspend()
    user.join()
    for process in stopped:
        process.resume()
    assert answers[0].status_code == 503
    assert "does not answer" in answers[0].text


def test_settings_of_a_statement_do_not_outlive_it(client):
    ask(client, "select set_config('statement_timeout', '0', false), set_config('search_path', 'nowhere', false)")
    # The statement fails if search_path is still changed.
    statement = "select current_setting('statement_timeout') from span right join (select) as one_row on true limit 1"
    for _ in range(5):
        assert "<td>10s</td>" in ask(client, statement).text


def test_sql_has_a_timeout(client, monkeypatch, dsn):
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 1)
    monkeypatch.setattr(database_module, "GRACE_SECONDS", 60)
    client = create_dashboards(dsn).test_client()
    assert "canceling statement due to statement timeout" in ask(client, "select pg_sleep(60)").text
    # On a slow machine, the home page's statements may reach the shortened timeout as well.
    wait_until(lambda: client.get("/").status_code == 200, "the home page")


# Browsers do not send Sec-Fetch-Site to plain HTTP on an address other than loopback.
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
def test_only_the_explorers_own_pages_may_post(client, headers, status):
    answer = client.post("/sql", data={"sql": "select 6 * 7"}, headers={"Host": "192.0.2.1:3000"} | headers)
    assert answer.status_code == status
    assert ('<td class="number">42</td>' in answer.text) == (status == 200)
    assert ("header Origin: http://192.0.2.1:3000" in answer.text) == (status == 403)


def test_sql_with_a_nul_character_is_refused(client):
    answer = ask(client, "select '\0'")
    assert answer.status_code == 400
    assert "Parameter sql:" in answer.text


# Queries by URL ------------------------------------------------------------------------------------------------------


def get(client, sql: str, path: str = "/sql", **headers):
    return client.get(path, query_string={"sql": sql}, headers=headers)


def test_a_url_has_the_query_and_shows_its_result(client):
    page = get(client, "\nselect 6 * 7 as answer\n-- <b>").text
    assert '<td class="number">42</td>' in page
    [editor] = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)
    assert unescape(editor) == "\nselect 6 * 7 as answer\n-- <b>"


@pytest.mark.parametrize(
    "sql", ["drop view ps_trace.span", "select 1; select 2", "with x as (delete from span) select 1"]
)
def test_a_url_cannot_write(client, traffic, sql):
    for path in ("/sql", "/sql.json", "/sql.csv"):
        answer = get(client, sql, path)
        assert answer.status_code == 400, path
    assert '<td class="number">2</td>' in get(client, "select count(*) from span").text


LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 200),
        (LINK, 200),
        (LINK | {"Sec-Fetch-Dest": "iframe"}, 403),
        (LINK | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        (LINK | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
        (LINK | {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/sql", "/sql.json", "/sql.csv"])
def test_another_site_may_link_to_a_statement_but_not_run_it(client, path, headers, status):
    answer = get(client, "select 6 * 7", path, **headers)
    assert answer.status_code == status
    assert ("42" in answer.text) == (status == 200)
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert client.get("/sql", headers=headers).status_code == 200


def test_a_file_needs_a_statement(client):
    for path in ("/sql.json", "/sql.csv"):
        assert client.get(path).status_code == 400
    assert client.get("/sql.xml?sql=select+1").status_code == 404


# Files ---------------------------------------------------------------------------------------------------------------


def test_json_has_attributes_as_json_and_all_digits(client, promscale):
    sent = span("work", {"http.route": "/a", "n": 7, "list": [1, "x"]})
    promscale.export(request(sent))
    answer = get(client, "select trace_id, span_id, span_tags, span_kind, is_root_span from span", "/sql.json")
    assert answer.mimetype == "application/json"
    [row] = json.loads(answer.text)
    assert row == {
        "trace_id": str(UUID(bytes=sent.trace_id)),
        "span_id": int.from_bytes(sent.span_id, signed=True),
        "span_tags": {"http.route": "/a", "n": 7, "list": [1, "x"]},
        "span_kind": "unspecified",
        "is_root_span": True,
    }
    assert "attachment; filename=result.json" in answer.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("9007199254740993::bigint", "9007199254740993"),
        ("12345678901234567890.0123456789::numeric", "12345678901234567890.0123456789"),
        ("1.50::numeric(10, 2)", "1.50"),
        ("1e300::float8", "1e+300"),
        ("'NaN'::float8", '"NaN"'),
        ("'Infinity'::numeric", '"Infinity"'),
        ("null::int", "null"),
        ("false", "false"),
        ("'true'::text", '"true"'),
        ("'007'::text", '"007"'),
        ("'[1]'::text", '"[1]"'),
        ("array[1, 2]", "[1,2]"),
        ("'{}'::int[]", "[]"),
        ("row(1, 'a')", '{"f1":1,"f2":"a"}'),
        ("'{\"a\": [1e400, 12345678901234567890]}'::json", '{"a": [1e400, 12345678901234567890]}'),
        ("to_jsonb('7'::text)", '"7"'),
        ("to_jsonb('[NaN]'::text)", '"[NaN]"'),
        ("to_jsonb('{a'::text)", '"{a"'),
        ("'a\"\\\n\u2028<'::text", '"a\\"\\\\\\n\u2028<"'),
        ("int8range(1, 2)", '"[1,2)"'),
    ],
)
def test_values_in_json(client, expression, expected):
    assert get(client, f"select {expression} as v", "/sql.json").text == f'[{{"v": {expected}}}]\n'


def test_json_without_rows_and_with_equal_names(client):
    assert get(client, "select 1 as a where false", "/sql.json").json == []
    answer = get(client, "select 1 as a, 2 as a", "/sql.json")
    assert answer.status_code == 400
    assert "Several columns are named a." in answer.json["error"]


def test_a_file_by_url_is_never_truncated(client):
    for path in ("/sql.json", "/sql.csv"):
        assert "999999" not in (answer := get(client, "select generate_series(1, 100001)", path)).text
        assert answer.status_code == 400
        assert "The result has more than 100,000 rows." in answer.text
    assert len(get(client, "select generate_series(1, 100000) as n", "/sql.json").json) == 100_000


def test_an_error_is_json_for_programs_and_the_page_for_people(client):
    answer = get(client, "select 1\nfrom spam", "/sql.json")
    assert answer.status_code == 400
    assert answer.json == {"error": 'relation "spam" does not exist.', "line": 2}
    page = get(client, "select 1\nfrom spam", "/sql.json", Accept="text/html,*/*;q=0.8")
    assert page.status_code == 400
    assert "from <mark>spam</mark>" in page.text and "</textarea>" in page.text


def test_a_plan_is_json_and_not_pythons_notation(client):
    statement = "explain (format json) select 1"
    [row] = csv.DictReader(io.StringIO(get(client, statement, "/sql.csv").text))
    assert json.loads(row["QUERY PLAN"])[0]["Plan"]["Node Type"] == "Result"
    assert get(client, statement, "/sql.json").json[0]["QUERY PLAN"][0]["Plan"]["Node Type"] == "Result"


# Links ---------------------------------------------------------------------------------------------------------------


def links(page: str) -> list[str]:
    return [unescape(url) for url in re.findall(r'<td[^>]*><a href="([^"]*)"', page)]


def test_ids_are_links_to_the_trace_and_its_spans(client, traffic):
    root, served = traffic
    trace = f"http://localhost:16686/trace/{root.trace_id.hex()}"
    page = get(client, "select trace_id, span_id, parent_span_id from span order by is_root_span").text
    urls = [trace, f"{trace}#span={served.span_id.hex()}", f"{trace}#span={root.span_id.hex()}"]
    assert links(page) == [*urls, trace, f"{trace}#span={root.span_id.hex()}"]
    assert links(get(client, "select replace(trace_id::text, '-', '') as trace_id from span limit 1").text) == [trace]


def test_a_negative_span_id_is_16_hex_digits(client):
    page = get(client, "select '4bf92f35-77b3-4da6-a3ce-929d0e0e4736' as linked_trace_id, -2 as linked_span_id").text
    trace = "http://localhost:16686/trace/4bf92f3577b34da6a3ce929d0e0e4736"
    assert links(page) == [trace, f"{trace}#span=fffffffffffffffe"]


@pytest.mark.parametrize(
    "sql",
    [
        "select 7 as span_id",
        "select null as trace_id, 7 as span_id",
        "select 'javascript:alert(1)' as trace_id, 7 as span_id",
        "select '4bf92f3577b34da6a3ce929d0e0e4736' as trace_ids",
    ],
)
def test_what_is_no_id_is_no_link(client, sql):
    assert links(get(client, sql).text) == []


# Charts --------------------------------------------------------------------------------------------------------------


def lines(page: str) -> list[dict[str, dict[int, float]]]:
    """For each chart of the page: the values of its lines by their steps, by the name of the line."""
    drawn = []
    for figure in page.split("<figure")[1:]:
        end = '<path class="selection"/></svg>'
        plots = [part[part.index('<svg class="plot') :] + end for part in figure.split(end)[:-1]]
        found = [
            {path.attrib["data-name"]: numbers(path.attrib["d"]) for path in plot.iterfind(".//path[@data-name]")}
            for plot in map(ElementTree.fromstring, plots)
        ]
        assert all(other == found[0] for other in found)  # one for each width of the window
        drawn.append(found[0])
    return drawn


def numbers(path: str) -> dict[int, float]:
    values = [float(number) for number in path[1:].split()]
    return dict(zip(map(int, values[::2]), values[1::2], strict=True))


AT = "timestamptz '2026-01-01 00:00:00Z' + n * interval '10 s'"


def test_numbers_over_time_are_drawn(client):
    page = get(
        client, f"select {AT} as t, n as calls, 2 * n as errors from generate_series(0, 2) as n order by 1 desc"
    ).text
    assert lines(page) == [{"calls": {0: 0, 1: 1, 2: 2}, "errors": {0: 0, 1: 2, 2: 4}}]


def test_numbers_with_different_units_have_charts_of_their_own(client):
    page = get(client, f"select {AT} as t, 1 as calls, 5.5 as p50_ms, n as p95_ms from generate_series(0, 1) as n").text
    assert lines(page) == [{"calls": {0: 1, 1: 1}}, {"p50": {0: 5.5, 1: 5.5}, "p95": {0: 0, 1: 1}}]


def test_texts_name_the_lines(client):
    statement = f"""
        select {AT} as minute, service_name, n as calls, 7 as errors
        from generate_series(0, 2) as n cross join (values ('lower'), ('<b>')) as s (service_name)
        where n <> 1 or service_name = 'lower'
    """
    assert lines(get(client, statement).text) == [
        {"lower": {0: 0, 1: 1, 2: 2}, "<b>": {0: 0, 2: 2}},
        {"lower": {0: 7, 1: 7, 2: 7}, "<b>": {0: 7, 2: 7}},
    ]


def test_of_values_at_nearly_the_same_time_the_greatest_is_drawn(client):
    statement = """
        select timestamptz '2026-01-01 00:00:00Z' + at as t, ms as duration_ms
        from (values (interval '0 s', 1), ('0 s', 9), ('0.000001 s', 5), ('1 day', 3)) as v (at, ms)
    """
    page = get(client, statement).text
    assert lines(page) == [{"duration": {0: 9, 1000: 3}}]
    assert "the greatest" in page
    assert "the greatest" not in get(client, f"select {AT} as t, n from generate_series(0, 2) as n").text


@pytest.mark.parametrize(
    "sql",
    [
        "select now() as t, 1 as n",
        "select now() as t, 1 as n union all select null, 2",
        "select now() as a, now() - n * interval '1 s' as b, n from generate_series(1, 3) as n",
        "select n, n * n from generate_series(1, 3) as n",
        f"select {AT} as t, -n as change from generate_series(0, 3) as n",
        f"select {AT} as t, 5e-324 * n as n from generate_series(0, 3) as n",
        f"select {AT} as t, 1e300 * n as n from generate_series(0, 3) as n",
        f"select {AT} as t, n as span_id, n as id from generate_series(0, 3) as n",
        f"select {AT} as t, 'NaN'::float8, null::int, 'infinity'::numeric from generate_series(0, 3) as n",
        f"select {AT} as t, md5(n::text) as text, n from generate_series(0, 30) as n",
        "select case n when 1 then 'infinity' else now() end as t, n from generate_series(1, 3) as n",
        "select timestamptz '0044-03-15 00:00:00Z BC' + n * interval '1 year' as t, n from generate_series(1, 3) as n",
        "select timestamptz '20000-01-01 00:00:00Z' + n * interval '1 year' as t, n from generate_series(1, 3) as n",
        "show search_path",
    ],
)
def test_what_cannot_be_drawn_has_only_a_table(client, sql):
    answer = get(client, sql)
    assert answer.status_code == 200
    assert "<figure" not in answer.text and "<td" in answer.text


@pytest.mark.parametrize(
    "sql",
    [
        "select timestamptz '0001-01-01 00:00:00Z' + n * interval '4999 years' as t, n from generate_series(0, 1) as n",
        f"select {AT} as t, 1e18 * n as n from generate_series(0, 1) as n",
        f"select {AT} as t, 0 as n from generate_series(0, 1) as n",
        f'select {AT} as t, repeat(\'x\', 1000) as "a""<b>", 1e-9 as "<i>_ms" from generate_series(0, 1) as n',
        "select timestamptz '2026-01-01Z' + n * interval '1 us' as t, n from generate_series(0, 999) as n",
    ],
)
def test_extreme_times_numbers_and_names_are_drawn(client, sql):
    page = get(client, sql).text
    assert len(lines(page)) == 1
    assert "<b>" not in page and "<i>_ms" not in page


def test_the_number_of_charts_and_lines_is_limited(client):
    columns = ", ".join(f"n as n{number}" for number in range(200))
    statement = f"select {AT} as t, {columns} from generate_series(0, 3) as n"
    assert [len(chart) for chart in lines(get(client, statement).text)] == [20]
    statement = f"select {AT} as t, 'a' as name, {columns} from generate_series(0, 3) as n"
    assert [len(chart) for chart in lines(get(client, statement).text)] == 6 * [1]


def test_the_statement_of_a_panel_is_drawn_as_its_panel(client, promscale):
    for minutes in range(1, 4):
        promscale.export(request(span("GET /", start_time_unix_nano=time.time_ns() - minutes * 60 * 10**9)))
    page = client.get("/d/QoZDH91nk/01-request-rate?from=now-15m").text
    [url, *_] = re.findall(r'<a href="([^"]*)">Open in SQL</a>', page)
    parts = urlsplit(unescape(url))
    assert (parts.netloc, parts.path) == ("localhost:3000", "/sql")
    [sql] = parse_qs(parts.query)["sql"]
    [drawn] = lines(get(client, sql).text)
    assert sum(round(60 * value) for value in drawn["requests"].values()) == 3


def test_a_statement_that_is_too_long_for_a_url_has_no_link(client):
    path = f"/d/SdzI3eJnk/06-downstream-spans?var-operation={'x' * 9_000}"
    assert "Open in SQL" not in client.get(path).text
    assert "Open in SQL" in client.get(path[:100]).text


# The list of views ---------------------------------------------------------------------------------------------------


def test_the_page_lists_what_a_statement_can_read(client, database):
    database.execute("comment on view ps_trace.operation is 'Which operations <b> there are'")
    database.execute("comment on column ps_trace.operation.span_name is 'the operation''s name'")
    page = client.get("/sql").text
    [operation] = [
        part for part in page.split('<details class="view-columns">') if "<summary>operation</summary>" in part
    ]
    columns = re.findall(r'data-name="(\w+)">\1</button> <span>([^<]*)</span>', operation.partition("</details>")[0])
    assert columns == [("id", "bigint"), ("service_name", "text"), ("span_kind", "span_kind"), ("span_name", "text")]
    assert "Which operations &lt;b&gt; there are" in operation
    assert "the operation&#39;s name" in operation
    for view in re.findall(r'class="view-columns">\s*<summary>(\w+)</summary>', page):
        assert get(client, f"select * from {view} limit 1").status_code == 200, view
    database.execute("revoke select on ps_trace.operation from prom_reader")
    assert "<summary>operation</summary>" not in client.get("/sql").text
