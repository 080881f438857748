"""The explorer's pages of questions about many traces (port 3000), on a real database."""

import re
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from explorer.traces import create_traces
from tests.store.known_traces import FAILED, NOON, PASSWORD, Export

HOSTILE = "<script>alert('1')</script>"
MICROS = 10**6


def micros(time) -> int:
    return round(time.timestamp() * MICROS)


HOUR = {"start": micros(NOON), "end": micros(NOON + timedelta(hours=1))}


@pytest.fixture
def client(dsn):
    return create_dashboards(make_conninfo(dsn, user="explorer")).test_client()


@pytest.fixture
def searches(promscale):
    """The pages of traces, which links lead to."""
    return create_traces(f"127.0.0.1:{promscale.server.port}").test_client()


@pytest.fixture
def hour(promscale):
    """60 passwords in an hour: every third has failed, with a hostile value of an attribute."""
    export = Export()
    for number in range(60):
        failed = number % 3 == 0
        tags = {"char": HOSTILE if failed else "a", "kind": "special" if failed else "lower"}
        time = NOON + timedelta(minutes=number)
        export.add_trace(PASSWORD, time, failed=FAILED if failed else (), tags=tags)
    promscale.export(export.message)


def answer(client, question: str, **parameters) -> str:
    response = client.get(f"/analysis/{question}/answer", query_string=parameters)
    assert response.status_code == 200, response.text
    return response.text


def link(page: str, text: str) -> str:
    """Path and query of the first link with this text."""
    [url, *_] = re.findall(rf'<a href="([^"]+)">{re.escape(text)}', page)
    parts = urlsplit(unescape(url))
    return f"{parts.path}?{parts.query}"


def test_an_attribute_of_failed_traces_is_found_with_its_counts_and_links(client, searches, hour, database):
    page = answer(client, "differences", service="load", operation="load.request", tags='{"error":"true"}', **HOUR)
    assert HOSTILE not in page
    row = page[page.index("&lt;script&gt;") :]
    row = row[: row.index("</tr>")]
    assert "20 of 20 (100 %)" in row and "0 of 40 (0 %)" in row
    # Another attribute says the same.
    assert re.search("also in the same traces:.*kind = <code>special</code>", row, re.DOTALL)
    assert page.count("<code>special</code>") == 1
    found = searches.get(link(row, "traces")).text
    assert "20 traces, newest first" in found
    [statement, *_] = re.findall(r"<pre[^>]*>(.*?)</pre>", row, re.DOTALL)
    first, *_ = database.execute(unescape(statement)).fetchall()
    assert first[:3] == ("selection", 20, 20)
    assert "20 traces, newest first" in searches.get(link(page, "traces with a failed span of load")).text


def test_nothing_is_found_in_the_same_traffic(client, hour):
    half = {"start": micros(NOON), "end": micros(NOON + timedelta(minutes=30)) - 1}
    other = {"other.start": half["end"] + 1, "other.end": micros(NOON + timedelta(hours=1)) - 1}
    page = answer(client, "differences", **half, **other)
    assert page.count("No difference that chance could not explain.") == 3
    assert page.count("30 traces.") == 2


def test_call_trees_are_compared(client, promscale):
    export = Export()
    for number in range(10):
        export.add_trace(PASSWORD, NOON + timedelta(minutes=number))
        export.add_trace(PASSWORD, NOON + timedelta(hours=1, minutes=number), slowness=3)
    promscale.export(export.message)
    later = {name: value + 3600 * MICROS for name, value in HOUR.items()}
    page = answer(client, "compare", **later, against="previous")
    row = page[page.index("random_lower") :]
    cells = re.findall(r"<td[^>]*>\s*(.*?)\s*(?:<svg.*?)?</td>", row[: row.index("</tr>")], re.DOTALL)
    assert cells == ["1", "1", "0", "0", "10 ms", "30 ms", "10 ms", "30 ms", "10 ms", "30 ms", "+20 ms"]
    assert page.index("load.request") < page.index("generator.generate") < page.index("random_lower")


def test_two_traces_are_compared(client, promscale):
    export = Export()
    fast = export.add_trace(PASSWORD, NOON)
    slow = export.add_trace(PASSWORD, NOON, slowness=2)
    promscale.export(export.message)
    page = answer(client, "compare", **{"trace": str(UUID(bytes=fast.trace_id)), "other.trace": slow.trace_id.hex()})
    row = page[page.index("random_lower") :]
    assert "\N{MINUS SIGN}10 ms" in row[: row.index("</tr>")]
    assert link(page, f"trace {slow.trace_id.hex()}") == f"/trace/{slow.trace_id.hex()}?"


def test_a_flame_graph_shows_where_time_is_spent(client, hour):
    page = answer(client, "flame", **HOUR)
    titles = [" ".join(unescape(title).split()) for title in re.findall(r"<title>(.*?)</title>", page, re.DOTALL)]
    assert titles[0].startswith("load: load.request 8.4 s (100 %), itself 120 ms 60 spans, 20 failed")
    shares = [float(share) for share in re.findall(r'data-share="([\d.]+)" data-depth="0"', page)]
    assert shares == [1]
    table = page[page.index("Self time by operation") :]
    assert len(re.findall("<tr>", table)) == 11  # the head, and ten operations


@pytest.mark.parametrize("question", ["differences", "compare", "flame"])
def test_an_empty_range_says_so(client, question):
    assert "There are none." in answer(client, question, service="load", **HOUR)


@pytest.mark.parametrize("question", ["differences", "compare", "flame"])
def test_a_page_repeats_its_parameters_in_the_form_and_the_answer(client, question):
    page = client.get(f"/analysis/{question}", query_string={"tags": f'{{"char":"{HOSTILE}"}}', "minDuration": "5ms"})
    assert page.status_code == 200
    assert HOSTILE not in page.text
    assert 'value="5ms"' in page.text
    source = re.search(r'data-source="([^"]+)"', page.text)
    assert source and parse_qs(urlsplit(unescape(source[1])).query) == {
        "tags": [f'{{"char":"{HOSTILE}"}}'],
        "minDuration": ["5ms"],
    }


def test_an_analysis_links_to_other_pages_about_the_same_time(client):
    page = client.get("/analysis/flame", query_string={"service": "load", "operation": "load.request", **HOUR}).text
    times = {"from": [f"{HOUR['start'] // 1000}"], "to": [f"{HOUR['end'] // 1000}"]}
    parameters = parse_qs(urlsplit(link(page, "03 Request durations")).query)
    assert parameters == times | {"var-service": ["load"], "var-operation": ["load.request"]}
    service_map = parse_qs(urlsplit(link(page, "Service map")).query)
    assert {name: service_map[name] for name in HOUR} == {name: [f"{time}"] for name, time in HOUR.items()}


def test_slow_spans_of_an_operation_without_spans(client):
    response = client.get("/analysis/slow?service=nobody")
    assert response.location == "/analysis/differences?service=nobody"


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/analysis/why", 404, "choose differences, compare, flame"),
        ("/analysis/differences?against=nothing", 400, "Parameter against"),
        ("/analysis/differences/answer?trace=1&other.trace=2", 400, "Parameter trace"),
        ("/analysis/compare?trace=1&against=rest", 400, "Parameter against"),
        ("/analysis/compare?other.minDuration=fast", 400, "Parameter minDuration"),
        ("/analysis/flame?trace=xyz", 400, "Parameter trace id"),
    ],
)
def test_a_bad_parameter_is_named(client, path, status, problem):
    response = client.get(path)
    assert response.status_code == status
    assert problem in response.text
