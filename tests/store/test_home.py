"""The explorer's front page, on a real database."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from queries.dashboards import DASHBOARDS
from tests.store.otlp_messages import add_service, child, request, span

MILLISECOND = 10**6


@pytest.fixture
def client(dsn, promscale):
    return create_dashboards(make_conninfo(dsn, user="explorer")).test_client()


@pytest.fixture
def calls(promscale):
    """40 calls of the service upper by the generator in each of two minutes, a quarter of which fail: 10 and 100 ms."""
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    failed = Status(code=Status.STATUS_CODE_ERROR)
    for ago, millis in ((3, 10), (2, 100)):
        start = int((minute - timedelta(minutes=ago)).timestamp()) * 10**9
        roots, served = [], []
        for number in range(40):
            times = {"start_time_unix_nano": start, "end_time_unix_nano": start + millis * MILLISECOND}
            root = span("GET", **times)
            status = failed if number % 4 == 0 else None
            served.append(child(root, "GET /", kind=Span.SPAN_KIND_SERVER, status=status, **times))
            roots.append(root)
        message = request(*roots, service="generator")
        add_service(message, *served, service="upper")
        promscale.export(message)


def row_of(page: str, service: str) -> tuple[list[str], list[str], list[str]]:
    """A service's row: its figures as texts, the URLs of their links, and the paths of its sparklines."""
    [row] = [row for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if f">{service}</span>" in row]
    links = re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', row)
    return [text for _, text in links], [unescape(url) for url, _ in links], re.findall(r'<path d="([^"]*)"', row)


def test_a_service_has_its_rate_errors_and_p95_with_their_traces(client, calls):
    texts, urls, lines = row_of(client.get("/").text, "upper")
    rate, errors, p95 = texts
    # 80 calls since the minute of the first one, three minutes ago, or four if a minute has just begun.
    assert rate in ("0.444/s", "0.333/s")
    assert errors == "25.00 %"
    # The percentile is interpolated within a bucket whose bounds have the ratio 10^(1/10).
    assert p95.endswith(" ms") and 100 / 10**0.1 <= float(p95.removesuffix(" ms")) <= 100 * 10**0.1
    assert [line.count(" ") for line in lines] == [3, 3, 3]  # two points each
    for url, extra in zip(urls, ({}, {"tags": ['{"error":"true"}']}, {"minDuration": None}), strict=True):
        assert urlsplit(url).path == "/search"
        query = parse_qs(urlsplit(url).query)
        assert query["service"] == ["upper"]
        assert set(query) == {"service", "lookback", *extra}
        assert all(query[name] == value for name, value in extra.items() if value)


def test_the_map_shows_calls_and_the_share_of_failed_ones(client, calls):
    page = client.get("/").text
    assert "generator calls upper: 80 calls, 20 errors" in page
    assert "20 errors. Click: Traces with an error in this service" in page


def test_what_to_try_first_leads_to_pages_that_answer(client, calls):
    page = client.get("/").text
    [tries] = re.findall(r'<ol class="try">(.*?)</ol>', page, re.DOTALL)
    links = [urlsplit(unescape(link)) for link in re.findall(r'href="([^"]*)"', tries)]
    assert len(links) == 6
    for link in links:
        if link.port != 5050:
            assert client.get(f"{link.path}?{link.query}", follow_redirects=True).status_code == 200
    assert all(f"/d/{dashboard.uid}/{dashboard.slug}" in page for dashboard in DASHBOARDS)


def test_without_spans_the_page_says_where_to_look(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "./run.sh status" in page.text
    assert "sparkline" not in page.text
