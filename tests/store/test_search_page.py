"""The search page's orders, pages and attribute columns, which it reads from the database."""

import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import chain

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from tests.databases import switch_fault
from tests.store.otlp_messages import MINUTE, SECOND, add_service, attributes, child, request, span
from tests.store.store_contents import close_all, hours_ago, span_at

MILLISECOND = 10**6
FAILED = Status(code=Status.STATUS_CODE_ERROR)


@pytest.fixture
def browser(promscale, dsn):
    return create_traces(f"127.0.0.1:{promscale.server.port}", make_conninfo(dsn, user="explorer")).test_client()


def get(browser, path: str = "/search", status: int = 200, **parameters) -> str:
    answer = browser.get(path, query_string=parameters or None)
    assert answer.status_code == status, answer.text
    return answer.text


def listed(page: str) -> list[str]:
    """The ids of the traces of the page, in its order."""
    return re.findall(r'data-trace="([0-9a-f]{32})"', page)


def link(page: str, rel: str) -> str:
    """The URL of the next or previous page; "" if there is none."""
    found = re.search(rf'href="([^"]*)" rel="{rel}"', page)
    return unescape(found[1]) if found else ""


def pages_from(browser, page: str, rel: str = "next") -> list[list[str]]:
    """The traces of the page and of all that follow it."""
    found = [listed(page)]
    while url := link(page, rel):
        page = get(browser, url)
        found.append(listed(page))
    return found


def cells(page: str, label: str) -> list[str]:
    return [unescape(text) for text in re.findall(rf'data-label="{re.escape(label)}"[^>]*>([^<]*)<', page)]


class Stored:
    """A trace of a test: what its place in each order depends on."""

    def __init__(self, number: int, choose: random.Random, start: int) -> None:
        starts = start + choose.randrange(5 * MINUTE)
        self.millis, self.spans, self.errors = choose.choice((5, 50, 200_000)), choose.randint(1, 4), 0
        end = starts + self.millis * MILLISECOND
        root = span_at(starts, f"request {number}", end_time_unix_nano=end)
        self.message = request(root, service=choose.choice(("shop", "till")))
        self.newest = starts
        for _ in range(self.spans - 1):
            # A trace can have matching spans in several minutes.
            begins = starts + choose.randrange(3 * MINUTE) if self.millis == 200_000 else starts
            failed = choose.random() < 0.3
            status = FAILED if failed else Status()
            one = child(
                root, start_time_unix_nano=begins, end_time_unix_nano=min(begins + MILLISECOND, end), status=status
            )
            add_service(self.message, one, service="bank")
            self.newest = max(self.newest, begins)
            self.errors += failed
        self.id = root.trace_id.hex()


@pytest.fixture
def stored(promscale) -> list[Stored]:
    """Traces of some minutes, three hours ago; many are equal in duration, number of spans or of errors."""
    choose, start = random.Random(3), hours_ago(3)
    made = [Stored(number, choose, start) for number in range(30)]
    for trace in made:
        promscale.export(trace.message)
    return made


KEYS = {
    "newest": lambda trace: trace.newest // 1000,
    "longest": lambda trace: trace.millis,
    "spans": lambda trace: trace.spans,
    "errors": lambda trace: trace.errors,
}


def check_pages(browser, stored: list[Stored]) -> None:
    by_id = {trace.id: trace for trace in stored}
    for sort, key in KEYS.items():
        first = get(browser, lookback="6h", limit=7, sort=sort)
        pages = pages_from(browser, first)
        assert [len(page) for page in pages] == [7, 7, 7, 7, 2]
        found = [trace_id for page in pages for trace_id in page]
        assert sorted(found) == sorted(by_id)
        # On a page, the newest traces are in the order of their own starts.
        in_order = (
            [max(map(key, map(by_id.get, page))) for page in pages]
            if sort == "newest"
            else list(map(key, map(by_id.get, found)))
        )
        assert in_order == sorted(in_order, reverse=True)
        last = first
        while url := link(last, "next"):
            last = get(browser, url)
        assert pages_from(browser, last, "prev") == pages[::-1]


def test_every_order_has_every_trace_once(browser, stored, upkeep, database):
    check_pages(browser, stored)
    upkeep.summarise(quiet_seconds=0)
    check_pages(browser, stored)
    close_all(upkeep, database)
    check_pages(browser, stored)


def test_pages_of_a_search_have_what_matches(browser, stored):
    failed = {trace.id for trace in stored if trace.errors}
    for sort in KEYS:
        pages = pages_from(browser, get(browser, lookback="6h", limit=4, sort=sort, service="bank", tags="error=true"))
        assert len(pages) > 2
        assert sorted(chain.from_iterable(pages)) == sorted(failed)


def test_pages_stay_the_same_while_traces_arrive(browser, promscale):
    def export(name: str) -> str:
        now = time.time_ns()
        made = span(name, start_time_unix_nano=now, end_time_unix_nano=now + 10 * SECOND)
        promscale.export(request(made))
        return made.trace_id.hex()

    made = [export(f"early {number}") for number in range(5)]
    for sort in KEYS:
        first = get(browser, limit=2, sort=sort)
        before = pages_from(browser, first)
        assert sorted(chain.from_iterable(before)) == sorted(made)
        url = link(first, "next")
        late = export("late")
        assert pages_from(browser, get(browser, url)) == before[1:]
        assert late not in chain.from_iterable(pages_from(browser, get(browser, url), "prev"))
        assert late in listed(get(browser, sort=sort))
        made.append(late)


def test_other_orders_keep_the_search_and_begin_with_the_first_page(browser, stored):
    page = get(browser, link(get(browser, lookback="6h", limit=7, service="bank"), "next"))
    [url] = [unescape(url) for url in re.findall(r'<a href="([^"]*)"[^>]*>Longest first<', page)]
    assert "service=bank" in url and "sort=longest" in url
    assert "after=" not in url


def test_columns_have_attributes_of_the_matching_span_or_otherwise_of_the_first(browser, promscale):
    root = span("root", {"pwlen": 16, "only root": "yes", "list": [1, "<b>two</b>"]})
    message = request(root, service="load")
    message.resource_spans[0].resource.attributes.extend(attributes({"host.name": "here"}))
    for name, pwlen in (("first", 17), ("second", 18)):
        add_service(message, child(root, name, tags={"pwlen": pwlen}), service="shop")
    promscale.export(message)
    columns = 'pwlen "only root" list host.name absent'
    all_spans = get(browser, columns=columns)
    assert [cells(all_spans, key) for key in ("pwlen", "only root", "list", "host.name", "absent")] == [
        ["16"],
        ["yes"],
        ['[1, "<b>two</b>"]'],
        ["here"],
        [""],
    ]
    second = get(browser, columns=columns, service="shop", operation="second")
    assert [cells(second, key) for key in ("pwlen", "only root")] == [["18"], ["yes"]]
    assert f'value="{columns.replace(chr(34), "&#34;")}"' in second


def test_columns_after_partitions_are_closed(browser, promscale, upkeep, database):
    start = hours_ago(3)
    for number in range(40):
        promscale.export(request(span_at(start + number, tags={"shared": "same", "own": number})))
    close_all(upkeep, database)
    page = get(browser, lookback="6h", limit=40, columns="own shared")
    assert sorted(map(int, cells(page, "own"))) == list(range(40))
    assert cells(page, "shared") == ["same"] * 40


def test_traces_with_a_call(browser, promscale):
    def export(caller: str, status: Status | None = None) -> str:
        root = span("root", kind=Span.SPAN_KIND_CLIENT)
        message = request(root, service=caller)
        called = child(root, "serve", status=status or Status())
        add_service(message, called, child(called, "inside", status=FAILED), service="till")
        promscale.export(message)
        return root.trace_id.hex()

    by_shop, by_bank, failed = export("shop"), export("bank"), export("shop", FAILED)
    for sort in KEYS:
        found = {
            name: set(listed(get(browser, sort=sort, callee="till", **parameters)))
            for name, parameters in {
                "any": {},
                "by shop": {"caller": "shop"},
                "failed": {"callFailed": "true"},
                "failed by bank": {"caller": "bank", "callFailed": "true"},
            }.items()
        }
        assert found == {
            "any": {by_shop, by_bank, failed},
            "by shop": {by_shop, failed},
            # The span inside of the service is not a call of it.
            "failed": {failed},
            "failed by bank": set(),
        }
    assert set(listed(get(browser, callee="shop"))) == {by_shop, failed}  # as root spans


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("sort", "slowest"),
        ("after", "5"),
        ("after", "x-" + 32 * "0"),
        ("before", f"{10**19}-{32 * '0'}"),
        ("after", f"{9 * 10**18}-{32 * '0'}"),
        ("columns", '"open'),
        ("columns", "a b c d e f g h i"),
    ],
)
def test_an_invalid_parameter_is_named(browser, parameter, value):
    assert f"Parameter {parameter}:" in get(browser, "/search", 400, **{parameter: value})


def test_without_the_database_the_page_has_the_newest_and_says_so(promscale, stored):
    browser = create_traces(f"127.0.0.1:{promscale.server.port}").test_client()
    page = get(browser, lookback="6h", limit=7, sort="longest", columns="pwlen")
    assert "EXPLORER_DB_URI" in page
    assert len(listed(page)) == 7
    assert not link(page, "next")
    assert "7 traces, newest first" in page


def test_a_search_that_takes_too_long_says_what_to_do(browser, promscale, dsn, monkeypatch):
    monkeypatch.setattr("explorer.database.GRACE_SECONDS", 60)
    promscale.export(request(span()))
    with psycopg.connect(dsn) as other, ThreadPoolExecutor() as pool:
        other.execute("lock table _promscale.span in access exclusive mode")
        pages = [
            pool.submit(get, browser.application.test_client(), path, 504) for path in ("/search", "/dependencies")
        ]
        for page in pages:
            assert "Choose a shorter range" in page.result()
            assert 'http-equiv="refresh"' not in page.result()


@pytest.mark.parametrize("path", ["/search", "/search?sort=longest", "/dependencies"])
def test_any_range_of_time_can_be_searched(browser, promscale, path):
    made = span()
    promscale.export(request(made, service="shop"))
    last = 253_402_300_799_000_000
    everything = get(browser, f"{path}{'&' if '?' in path else '?'}lookback=custom&start=0&end={last}")
    assert "shop" in everything.partition("</form>")[2]
    for start, end in ((0, 0), (last, last)):
        page = get(browser, f"{path}{'&' if '?' in path else '?'}lookback=custom&start={start}&end={end}")
        assert "Choose a longer range" in page


# Marks of changes ----------------------------------------------------------------------------------------------------

CHANGE = "digit.errors from mild to strong"


@pytest.fixture
def four_minutes(promscale) -> datetime:
    """When the first of two traces starts that are four minutes apart."""
    first = time.time_ns() - 10 * MINUTE
    for start in (first, first + 4 * MINUTE):
        promscale.export(request(span("root", start_time_unix_nano=start, end_time_unix_nano=start + SECOND)))
    return datetime.fromtimestamp(first / SECOND, UTC)


def test_the_scatter_plot_marks_when_a_fault_was_switched(browser, four_minutes, database):
    switch_fault(database, four_minutes + timedelta(minutes=1))
    page = get(browser)
    [mark] = map(float, re.findall(r'<line x1="([\d.]+)%"', page))
    first, last = sorted(map(float, re.findall(r'<circle cx="([\d.]+)%"', page)))
    assert mark == pytest.approx(first + (last - first) / 4, abs=0.1)
    assert "digit.errors strong</text>" in page and "a fault was switched" in page
    [label] = re.findall('aria-label="(Duration of each trace[^"]*)"', page)
    assert label.endswith(f" {CHANGE}")


def test_the_scatter_plot_has_no_marks_of_other_times(browser, four_minutes, database):
    switch_fault(database, four_minutes + timedelta(minutes=5))
    page = get(browser)
    assert "<circle" in page and CHANGE not in page and "a fault was switched" not in page


def test_a_search_in_a_store_without_recorded_faults_has_no_marks(browser, four_minutes, database):
    database.execute("drop schema demo cascade")
    page = get(browser)
    assert "<circle" in page and "a fault was switched" not in page
