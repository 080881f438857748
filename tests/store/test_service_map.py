"""The service map: numbers of a time range and of a search, and links to the traces behind them."""

import re
import time
from html import unescape
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from tests.store.otlp_messages import MINUTE, add_service, child, request, span
from tests.store.store_contents import close_all
from tests.store.test_search_page import get, listed

MILLISECOND = 10**6
SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


@pytest.fixture
def browser(promscale, dsn):
    return create_traces(f"127.0.0.1:{promscale.server.port}", make_conninfo(dsn, user="explorer")).test_client()


@pytest.fixture
def shopping(promscale) -> dict[str, str]:
    """Traces of a minute two hours ago, by their name: their calls take 10 and 20 ms, and one has failed."""
    minute = time.time_ns() // MINUTE * MINUTE - 120 * MINUTE
    traces = {}
    for number, (name, calls) in enumerate({"one": [10], "two": [20, 20], "failed": [20], "none": []}.items()):
        start = minute + number * 10**9
        root = span(name, {"name": name}, start_time_unix_nano=start, end_time_unix_nano=start + 100 * MILLISECOND)
        message = request(root, service="shop")
        for millis in calls:
            status = Status(code=Status.STATUS_CODE_ERROR if name == "failed" else Status.STATUS_CODE_UNSET)
            asked = child(root, "ask", kind=CLIENT)
            served = child(asked, "pay", kind=SERVER, status=status, end_time_unix_nano=start + millis * MILLISECOND)
            add_service(message, asked, service="shop")
            add_service(message, served, child(served, "inside"), service="till")
        promscale.export(message)
        traces[name] = root.trace_id.hex()
    return traces | {"minute": str(minute // 1000)}


def of_minute(shopping) -> dict[str, Any]:
    start = int(shopping["minute"])
    return {"lookback": "custom", "start": str(start + 7_000), "end": str(start + 59_000_000)}


def rows(page: str) -> dict[str, list[str]]:
    """The numbers of both tables, by caller and callee or by service."""
    found = {}
    for row in re.findall("<tr><td>(.*?)</tr>", page, re.DOTALL):
        cells = [unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in row.split("<td")]
        texts = [cell.partition(">")[2] if ">" in cell else cell for cell in cells]
        numbers = [text for text in texts if re.match(r"[\d<]|$", text)]
        found[" ".join(text for text in texts if text not in numbers)] = numbers
    return found


def links(page: str, label: str) -> dict[str, str]:
    """The links of a table's row, by what they are for."""
    found = re.findall(rf'href="([^"]*)" aria-label="{re.escape(label)}: ([^"]*)"', page)
    return {name: unescape(url) for url, name in found}


def check_map(browser, shopping) -> None:
    page = get(browser, "/dependencies", **of_minute(shopping))
    assert rows(page) == {
        # Four calls in a minute; the 95th percentile of 10, 20, 20 and 20 ms.
        "shop till": ["4", "0.0667/s", "25.00 %", "20 ms"],
        "till": ["4", "0.0667/s", "25.00 %", "20 ms"],
        "shop": ["4", "0.0667/s", "0 %", "100 ms"],
    }
    assert "0.0667/s, 20 ms" in page
    assert "25.00 % failed" in page


def test_rates_errors_and_durations_of_a_time_range(browser, shopping, upkeep, database):
    check_map(browser, shopping)
    upkeep.summarise(quiet_seconds=0)
    check_map(browser, shopping)
    close_all(upkeep, database)
    check_map(browser, shopping)


def test_the_map_of_a_search_has_the_calls_of_its_traces(browser, shopping):
    page = get(browser, "/dependencies", tags="name=two", **of_minute(shopping))
    assert rows(page)["shop till"] == ["2", "0.0333/s", "0 %", "20 ms"]
    assert rows(page)["shop"][0] == "1"
    by_duration = get(
        browser, "/dependencies", service="till", maxDuration="15", operation="pay", **of_minute(shopping)
    )
    assert rows(by_duration)["shop till"] == ["1", "0.0167/s", "0 %", "10 ms"]
    assert "No calls between services" in get(browser, "/dependencies", tags="name=other", **of_minute(shopping))


def test_links_lead_to_exactly_the_traces_behind_the_numbers(browser, shopping):
    def found(page: str, row: str) -> list[set[str]]:
        return [set(listed(get(browser, url))) for url in links(page, row).values()]

    page = get(browser, "/dependencies", **of_minute(shopping))
    with_calls = {shopping[name] for name in ("one", "two", "failed")}
    for row in ("shop calls till", "till"):
        assert found(page, row) == [with_calls, {shopping["failed"]}]
    assert found(page, "shop") == [with_calls | {shopping["none"]}]
    # Nodes and edges have the same links as the tables.
    drawn = [unescape(url) for url in re.findall(r'href="([^"]*)" tabindex="-1"', page)]
    assert sorted(set(drawn)) == sorted(
        url for row in ("shop calls till", "till", "shop") for url in links(page, row).values()
    )
    searched = get(browser, "/dependencies", tags="name=two", **of_minute(shopping))
    assert found(searched, "shop calls till") == [{shopping["two"]}]


def test_percentiles_of_many_traces_are_from_a_sample(browser, promscale, monkeypatch, shopping):
    monkeypatch.setattr("explorer.service_map.MAX_TRACES", 2)
    page = get(browser, "/dependencies", **of_minute(shopping))
    assert "from a sample of 2 of 4 traces" in page
    assert rows(page)["shop till"][:3] == ["4", "0.0667/s", "25.00 %"]
    estimated = get(browser, "/dependencies", service="till", **of_minute(shopping))
    assert "All numbers are estimates from a sample of 2 of 3 traces" in " ".join(estimated.split())


def test_long_names_are_shown_in_full_up_to_sixty_characters(browser, promscale):
    names = ["checkout-service-of-the-european-region.production.example", "s" * 200]
    assert len(names[0]) <= 60
    root = span("root", kind=CLIENT)
    message = request(root, service=names[0])
    add_service(message, child(root, "serve", kind=SERVER), service=names[1])
    promscale.export(message)
    for client in (browser, create_traces(f"127.0.0.1:{promscale.server.port}").test_client()):
        drawn = get(client, "/dependencies").partition("<svg")[2].partition("</svg>")[0]
        texts = "".join(re.findall(r'<text x="[^>]*>([^<]*)</text>', drawn))
        assert names[0] in texts
        assert "s" * 59 + "…" in texts
        assert f"<title>{names[1]}" in drawn


def test_without_the_database_the_map_has_calls_and_says_so(promscale, shopping):
    browser = create_traces(f"127.0.0.1:{promscale.server.port}").test_client()
    page = get(browser, "/dependencies", lookback="6h")
    assert "EXPLORER_DB_URI" in page
    assert rows(page) == {"shop till": ["4"], "till": ["4"], "shop": ["0"]}
    [url] = links(page, "till").values()
    assert len(listed(get(browser, url))) == 3
