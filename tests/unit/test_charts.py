"""From rows to Plotly figures, and the links of their points."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest

from explorer import links
from explorer.charts import ChartData, figure, shade
from explorer.results import QueryResult
from queries import COLOURS, Kind, Link, Panel, colour_numbers

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)
TIME_RANGE = (BEGIN, BEGIN + timedelta(hours=1))
SPANS = Link(title="Traces", service="{service_name}", operation="{span_name}")


def panel(kind: Kind, *links: Link) -> Panel:
    return Panel(title="", description="", kind=kind, statements=(), links=links)


def data(columns: list[str], rows: list[tuple], colours: dict[str, int] | None = None) -> ChartData:
    return ChartData(QueryResult(columns, rows), colours or {}, TIME_RANGE)


@pytest.mark.parametrize("colour", COLOURS)
def test_operations_of_a_service_have_different_shades_of_its_colour(colour):
    shades = [shade(colour, number) for number in range(7)]
    assert shades[0] == colour
    assert len(set(shades)) == 7
    assert not set(shades[1:]) & set(COLOURS)


def test_the_colour_of_a_slice_does_not_depend_on_the_other_slices():
    numbers = colour_numbers(["audit", "lower", "upper"])

    def colours(*rows) -> dict[str, str]:
        slices = data(["service_name", "span_name", "self_ms"], [(*row, 1.0) for row in rows], numbers)
        [trace] = figure(panel(Kind.PIE), slices)["data"]
        return dict(zip(trace["labels"], trace["marker"]["colors"], strict=True))

    few = colours(("upper", "GET /"), ("audit", "write"))
    many = colours(("lower", "GET /"), ("upper", "random"), ("upper", "GET /"), ("audit", "write"))
    assert few.items() <= many.items()
    assert few == {"upper GET /": COLOURS[1], "audit write": COLOURS[6]}
    assert many["upper random"] == shade(COLOURS[1], 1)


def test_lines_without_a_service_have_the_first_colours():
    columns = ["time", "time_end", "p50_ms", "p90_ms"]
    rows = [(BEGIN, BEGIN + timedelta(minutes=1), 1.0, 2.0)]
    lines = figure(panel(Kind.SERIES), data(columns, rows))["data"]
    assert [line["line"]["color"] for line in lines] == list(COLOURS[:2])


def size(figure: dict) -> int:
    """Bytes of JSON."""
    return len(json.dumps(figure, separators=(",", ":")))


def test_the_largest_charts_are_at_most_200_kb():
    step, columns = timedelta(minutes=1), ["time", "time_end", "service_name", "span_name", "mean_ms"]
    names = [("service", f"POST /a/rather/long/name/of/an/operation/{number}") for number in range(20)]
    rows = [
        (BEGIN + at * step, BEGIN + (at + 1) * step, *name, 12.3456789 * (at + 1))
        for at in range(1000)
        for name in names
        if (at + len(name[1])) % 7
    ]
    assert size(figure(panel(Kind.SERIES, SPANS), data(columns, rows, {"service": 0}))) < 200_000
    rows = [
        (BEGIN + at * step, BEGIN + (at + 1) * step, 10 ** (bucket / 10), 10 ** ((bucket + 1) / 10), 1000)
        for at in range(200)
        for bucket in range(-30, 50)
    ]
    columns = ["time", "time_end", "duration_from_ms", "duration_to_ms", "requests"]
    about = Link(title="Traces", service="load", min_duration="{duration_from_ms}ms", max_duration="{duration_to_ms}ms")
    assert size(figure(panel(Kind.HEATMAP, about), data(columns, rows))) < 200_000
    rows = [("service", f"POST /a/rather/long/name/{number}", 123.456789012345) for number in range(1000)]
    slices = data(["service_name", "span_name", "self_ms"], rows, {"service": 0})
    assert size(figure(panel(Kind.PIE, SPANS), slices)) < 200_000


def test_steps_without_a_value_leave_a_gap():
    columns = ["time", "time_end", "service_name", "error_percent"]
    minute = timedelta(minutes=1)
    rows = [
        (BEGIN, BEGIN + minute, "lower", 0.0),
        (BEGIN + 3 * minute, BEGIN + 4 * minute, "lower", 50.0),
        (BEGIN + 3 * minute, BEGIN + 4 * minute, "upper", 100 / 3),
    ]
    lower, upper = figure(panel(Kind.SERIES), data(columns, rows, colour_numbers([])))["data"]
    assert lower["y"] == [0, None, None, 50]
    assert upper["y"] == [None, None, None, 33.33]
    assert lower["about"] == {"begin": int(BEGIN.timestamp()) * 10**6, "step": 60 * 10**6, "url": ""}


@pytest.mark.parametrize("name", ["a&b=c", "#", '"', "{start} {0} {service_name}", "%41%", "../?x", "ü\u202e", "+ '"])
def test_names_in_urls_are_percent_encoded(name):
    row = {"service_name": name, "span_name": f"{name}2"}
    path, _, query = links.path(SPANS, row, TIME_RANGE).partition("?")
    assert path == "search"
    assert not set(query) & set("{}\"'<>#+ ")
    begin = int(BEGIN.timestamp()) * 10**6
    assert parse_qs(query) == {
        "service": [name],
        "operation": [f"{name}2"],
        "lookback": ["custom"],
        "start": [f"{begin}"],
        "end": [f"{begin + 3600 * 10**6 - 1}"],
    }


def test_a_link_has_the_time_of_its_row():
    row = {"service_name": "lower", "time": BEGIN, "time_end": BEGIN + timedelta(minutes=1)}
    fields = parse_qs(links.path(Link(title="", service="{service_name}"), row, (BEGIN - timedelta(days=1), BEGIN)))
    begin = int(BEGIN.timestamp()) * 10**6
    assert (fields["start"], fields["end"]) == ([f"{begin}"], [f"{begin + 60 * 10**6 - 1}"])


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-7, "0"), (0.000001, "0.000001"), (1.2589254117941673, "1.258925"), (1e6, "1000000"), (10.0, "10"), (3, "3")],
)
def test_numbers_in_urls_have_no_exponent(number, text):
    assert links.url_text(number) == text


def test_a_link_that_would_be_too_long_is_left_out():
    row = {"service_name": "ü" * 500, "span_name": "x"}
    assert links.path(SPANS, row, TIME_RANGE) == ""
    rows = [(*row.values(), 1.0), ("a", "b", 1.0)]
    slices = data(["service_name", "span_name", "self_ms"], rows, {"ü" * 500: 0, "a": 1})
    [trace] = figure(panel(Kind.PIE, SPANS), slices)["data"]
    assert trace["about"]["values"] == [None, ["a", "b"]]


def test_times_in_links_are_within_the_limits_of_a_search():
    always = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    fields = parse_qs(links.path(replace(SPANS, operation=""), {"service_name": "lower"}, always))
    assert (fields["start"], fields["end"]) == (["0"], ["253402300798999999"])
