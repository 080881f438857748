"""From rows to charts and shares, and the links of their figures."""

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.parse import parse_qs
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from werkzeug.datastructures import MultiDict

from explorer import changes, links
from explorer.charts import SHADES, ChartData, Screen, chart, shade, shares
from explorer.results import QueryResult
from local import CHECKOUT
from queries import COLOURS, Kind, Link, Panel, colour_numbers

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)
TIME_RANGE = (BEGIN, BEGIN + timedelta(hours=1))
MINUTE = timedelta(minutes=1)
SPANS = Link(title="Traces", service="{service_name}", operation="{span_name}")
REQUESTS = Link(title="Traces", service="load", min_duration="{duration_from_ms}ms", max_duration="{duration_to_ms}ms")
LINE_COLUMNS = ["time", "time_end", "service_name", "span_name", "mean_ms"]
CELL_COLUMNS = ["time", "time_end", "duration_from_ms", "duration_to_ms", "requests"]
HOSTILE = """<img src=x onerror='alert(1)'>"&amp;{start}]]>"""


def panel(kind: Kind, *links: Link) -> Panel:
    return Panel(title="The title", description="", kind=kind, statements=(), links=links)


def data(columns: list[str], rows: list[tuple], colours: dict[str, int] | None = None, zone: str = "UTC") -> ChartData:
    return ChartData(QueryResult(columns, rows), colours or {}, TIME_RANGE, Screen(800, ZoneInfo(zone)))


def plot(panel: Panel, data: ChartData) -> ElementTree.Element:
    """The chart, which is XML."""
    return ElementTree.fromstring(str(chart(panel, data).plot))


def lines(plot: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {path.attrib["data-name"]: path for path in plot.iterfind(".//path[@data-name]")}


SWITCHED = [
    (BEGIN - MINUTE, "upper.errors", "upper", "mild", "off"),  # before the chart
    (BEGIN + 20 * MINUTE, "digit.errors", "digit", "mild", "strong"),
    (BEGIN + 58 * MINUTE, "digit.wave", "digit", "mild", "off"),
    (BEGIN + 58 * MINUTE, "lower.slow_calls", "lower", "mild", "off"),
]


def switched(data: ChartData, rows: list[tuple] = SWITCHED) -> ChartData:
    """The chart's data, and the result of the statement `fault_changes`."""
    columns = ["time", "flag", "service_name", "from_variant", "to_variant"]
    return data._replace(changes=changes.of_result(QueryResult(columns, rows[::-1])))


def cell(at: int, bucket: int, requests: int) -> tuple:
    return (BEGIN + at * MINUTE, BEGIN + (at + 1) * MINUTE, 10 ** (bucket / 10), 10 ** ((bucket + 1) / 10), requests)


def test_operations_of_a_service_have_different_shades_of_its_colour():
    shades = [shade(colour, number) for colour in COLOURS for number in range(len(SHADES))]
    assert len(set(shades)) == len(shades)
    assert shades[:: len(SHADES)] == list(COLOURS)
    assert shade(COLOURS[0], len(SHADES)) == COLOURS[0]


# Minima of WCAG 2.1, level AA: https://www.w3.org/TR/WCAG21/#contrast-minimum and #non-text-contrast
TEXT_CONTRAST, GRAPHICS_CONTRAST = 4.5, 3


PAGES, CHARTS, DASHBOARDS, ANALYSIS = (
    "frame/static/frame.css",
    *(f"explorer/static/{name}.css" for name in ("charts", "dashboards", "analysis")),
)


def css_colours(file: str, scheme: str) -> dict[str, tuple[float, ...]]:
    """The custom properties of a style sheet that are colours: red, green and blue, from 0 to 1."""
    text = (CHECKOUT / file).read_text()
    light, _, dark = text.partition("@media (prefers-color-scheme: dark)")
    rules = light + (dark.partition("}")[0] if scheme == "dark" else "")
    return {name: rgb(colour) for name, colour in re.findall(r"--([\w-]+): (#[0-9a-f]+);", rules)}


def rgb(colour: str) -> tuple[float, ...]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return tuple(int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4))


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""

    def luminance(colour: Sequence[float]) -> float:
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted(luminance(colour) + 0.05 for colour in (one, other))
    return light / dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(scheme):
    page = css_colours(PAGES, scheme)
    mixed = [
        [(share * text + (100 - share) * part) / 100 for text, part in zip(page["text"], rgb(colour), strict=True)]
        for colour in COLOURS
        for share in SHADES
    ]
    tints = [colour for name, colour in css_colours(CHARTS, scheme).items() if name.startswith("tint")]
    texts = [page[name] for name in ("text", "muted", "accent", "error")]
    texts += [
        css_colours(DASHBOARDS, scheme)["warning"],
        *css_colours(ANALYSIS, scheme).values(),
    ]
    assert len(tints) == 4
    for background in (page["background"], page["panel"]):
        assert min(contrast(colour, background) for colour in (*mixed, *tints)) >= GRAPHICS_CONTRAST
        assert min(contrast(colour, background) for colour in texts) >= TEXT_CONTRAST


def test_the_colour_of_a_share_does_not_depend_on_the_other_shares():
    numbers = colour_numbers(["audit", "lower", "upper"])

    def colours(*rows) -> dict[str, str]:
        rows = data(["service_name", "span_name", "self_ms"], [(*row, 1.0) for row in rows], numbers)
        return {share.name: share.colour for share in shares(panel(Kind.PIE), rows)}

    few = colours(("upper", "GET /"), ("audit", "write"))
    many = colours(("lower", "GET /"), ("upper", "random"), ("upper", "GET /"), ("audit", "write"))
    assert few.items() <= many.items()
    assert few == {"upper GET /": COLOURS[1], "audit write": COLOURS[6]}
    assert many["upper random"] == shade(COLOURS[1], 1)


def test_shares_are_of_the_total_also_of_rows_that_are_not_shown():
    rows = [("lower", f"{number}", 1000.0 * number) for number in range(100, 0, -1)]
    *shown, others = shares(panel(Kind.PIE), data(["service_name", "span_name", "self_ms"], rows, {"lower": 0}))
    assert (shown[0].name, shown[0].value) == ("lower 100", "100 s")
    assert shown[0].percent == pytest.approx(100 * 100 / 5050)
    assert others.name == f"{100 - len(shown)} others"
    assert sum(share.percent for share in (*shown, others)) == pytest.approx(100)


def test_percentiles_have_different_tints_and_services_their_colours():
    rows = [(BEGIN, BEGIN + MINUTE, 1.0, 2.0, 3.0, 4.0)]
    percentiles = chart(panel(Kind.SERIES), data(["time", "time_end", "p50_ms", "p90_ms", "p95_ms", "p99_ms"], rows))
    assert percentiles.legend == [(f"p{name}", f"var(--tint-{tint})") for tint, name in enumerate((50, 90, 95, 99))]
    rows = [(BEGIN, BEGIN + MINUTE, service, "GET /", 1.0) for service in ("lower", "upper")]
    services = chart(panel(Kind.SERIES), data(LINE_COLUMNS, rows, {"lower": 2, "upper": 1}))
    assert services.legend == [("lower GET /", COLOURS[2]), ("upper GET /", COLOURS[1])]


def test_the_largest_charts_are_at_most_100_kb_when_compressed():
    names = [("service", f"POST /a/rather/long/name/of/an/operation/{number}") for number in range(20)]
    rows = [
        (BEGIN + at * MINUTE, BEGIN + (at + 1) * MINUTE, *name, 12.3456789 * (at + 1))
        for at in range(1000)
        for name in names
        if (at + len(name[1])) % 7
    ]
    series = chart(panel(Kind.SERIES, SPANS), data(LINE_COLUMNS, rows, {"service": 0})).plot
    rows = [cell(at, bucket, (at * 31 + bucket * 17) % 97 + 1) for at in range(200) for bucket in range(-30, 50)]
    heatmap = chart(panel(Kind.HEATMAP, REQUESTS), data(CELL_COLUMNS, rows)).plot
    for drawn in (series, heatmap):
        assert len(gzip.compress(drawn.encode())) < 100_000


def test_steps_without_a_value_are_bridged():
    rows = [
        (BEGIN, BEGIN + MINUTE, "lower", 0.0),
        (BEGIN + 3 * MINUTE, BEGIN + 4 * MINUTE, "lower", 50.0),
        (BEGIN + 3 * MINUTE, BEGIN + 4 * MINUTE, "upper", 100 / 3),
    ]
    drawn = plot(
        panel(Kind.SERIES), data(["time", "time_end", "service_name", "error_percent"], rows, colour_numbers([]))
    )
    assert {name: line.attrib["d"] for name, line in lines(drawn).items()} == {
        "lower": "M0 0 3 50",
        "upper": "M3 33.33 3 33.33",  # a point, which round ends make visible
    }
    about = json.loads(drawn.attrib["data-plot"])
    assert (about["begin"], about["step"]) == (links.micros(BEGIN), 60 * 10**6)


def test_all_time_charts_have_the_axis_of_the_page():
    rows = [(BEGIN + 50 * MINUTE, BEGIN + 51 * MINUTE, "lower", "GET /", 1.0)]
    series = plot(panel(Kind.SERIES), data(LINE_COLUMNS, rows, {"lower": 0}, "Asia/Kathmandu"))
    heatmap = plot(panel(Kind.HEATMAP), data(CELL_COLUMNS, [cell(7, 20, 3)], zone="Asia/Kathmandu"))
    axes = [[text.text for text in drawn.iterfind("g[@class='x']/text")] for drawn in (series, heatmap)]
    assert axes[0] == axes[1] == ["17:50", "18:00", "18:10", "18:20", "18:30", "18:40"]
    for drawn in (series, heatmap):
        about = json.loads(drawn.attrib["data-plot"])
        assert (about["start"], about["end"]) == tuple(map(links.micros, TIME_RANGE))


@pytest.mark.parametrize("name", [HOSTILE, "x" * 100_000])
def test_names_in_charts_are_text(name):
    rows = [(BEGIN, BEGIN + MINUTE, name, "", 1.0), (BEGIN, BEGIN + MINUTE, "lower", "", 2.0)]
    drawn = plot(replace(panel(Kind.SERIES, SPANS), title=HOSTILE), data(LINE_COLUMNS, rows, {name: 0, "lower": 1}))
    [shown] = lines(drawn).keys() - {"lower "}
    assert shown.startswith(name[:50]) and len(shown) <= 200
    assert {element.tag for element in drawn.iter()} == {"svg", "g", "path", "text"}
    assert not [attribute for element in drawn.iter() for attribute in element.attrib if attribute.startswith("on")]
    assert drawn.attrib["aria-label"].startswith(HOSTILE)
    assert len(drawn.attrib["aria-label"]) < 400


def test_a_chart_says_in_words_what_it_shows():
    rows = [(BEGIN + at * MINUTE, BEGIN + (at + 1) * MINUTE, "lower", "GET /", 20.0 + at) for at in range(3)]
    label = plot(panel(Kind.SERIES), data(LINE_COLUMNS, rows, {"lower": 0}, "Europe/Berlin")).attrib["aria-label"]
    assert label == (
        "The title. Lines over time, 2026-01-31 13:00:00 to 2026-01-31 14:00:00: lower GET / from 20 ms to 22 ms."
    )
    label = plot(panel(Kind.HEATMAP), data(CELL_COLUMNS, [cell(0, 20, 3), cell(1, 29, 4)])).attrib["aria-label"]
    assert label.endswith(": 7 requests, which took 100 ms to 1 s.")


def test_cells_with_more_requests_have_a_stronger_colour():
    drawn = plot(panel(Kind.HEATMAP), data(CELL_COLUMNS, [cell(0, 20, 1), cell(1, 20, 50), cell(2, 20, 100)]))
    paths = {
        path.attrib["d"]: float(path.attrib["fill-opacity"]) for path in drawn.iterfind(".//g[@class='cells']/path")
    }
    strengths = [next(opacity for path, opacity in paths.items() if path.startswith(f"M{at} 0")) for at in range(3)]
    assert all(before < after for before, after in pairwise(strengths))
    assert strengths[-1] == 1


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


def test_the_time_range_of_a_dashboard_travels_to_a_search_and_back():
    begin, end = (round(time.timestamp()) * 10**6 for time in TIME_RANGE)
    absolute = {"lookback": "custom", "start": f"{begin}", "end": f"{end - 1}"}
    for shown, searched in (
        (("now-15m", "now"), {"lookback": "15m"}),
        (("now-2d", "now"), {"lookback": "2d"}),
        ((f"{begin // 1000}", f"{end // 1000}"), absolute),
    ):
        assert links.search_range(*shown, TIME_RANGE) == searched
        assert tuple(links.dashboard_range(MultiDict(searched)).values()) == shown
    assert links.search_range("now-2h", "now-1h", TIME_RANGE) == absolute
    last_hour = links.dashboard_range(MultiDict())
    assert last_hour == {"from": "now-1h", "to": "now"}


def test_a_link_that_would_be_too_long_is_left_out():
    row = {"service_name": "ü" * 500, "span_name": "x"}
    assert links.path(SPANS, row, TIME_RANGE) == ""
    rows = data(
        ["service_name", "span_name", "self_ms"], [(*row.values(), 1.0), ("a", "b", 1.0)], {"ü" * 500: 0, "a": 1}
    )
    too_long, short = shares(panel(Kind.PIE, SPANS), rows)
    assert too_long.path == ""
    assert parse_qs(short.path)["operation"] == ["b"]


def test_times_in_links_are_within_the_limits_of_a_search():
    always = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    fields = parse_qs(links.path(replace(SPANS, operation=""), {"service_name": "lower"}, always))
    assert (fields["start"], fields["end"]) == (["0"], ["253402300798999999"])


# Marks of changes ----------------------------------------------------------------------------------------------------

POINTS = [(BEGIN + at * MINUTE, BEGIN + (at + 1) * MINUTE, "digit", "render_digit", 1.5) for at in (0, 59)]
WITH_TIME = {
    Kind.SERIES: (LINE_COLUMNS, POINTS, {"digit": 3}),
    Kind.HEATMAP: (CELL_COLUMNS, [cell(0, 20, 1), cell(59, 20, 1)], {}),
}


CHANGES = ".//g[@class='changes']"


def marks(plot: ElementTree.Element) -> list[float]:
    """The places of the vertical marks, in minutes after the begin of the chart."""
    return [60 * float(line.attrib["x1"].removesuffix("%")) / 100 for line in plot.iterfind(f"{CHANGES}/line")]


@pytest.mark.parametrize("kind", WITH_TIME)
def test_a_chart_over_time_marks_when_faults_were_switched(kind):
    drawn = plot(panel(kind), switched(data(*WITH_TIME[kind])))
    assert marks(drawn) == pytest.approx([20, 58], abs=0.1)
    assert [text.text for text in drawn.iterfind(f"{CHANGES}/text")] == ["digit.errors strong", "2 flags"]
    # The tooltip has the details.
    both = "digit.wave from mild to off, lower.slow_calls from mild to off"
    assert [text for _, text in json.loads(drawn.attrib["data-plot"])["changes"]] == [
        "digit.errors from mild to strong",
        both,
    ]
    assert (
        f"2026-01-31 12:20:00 digit.errors from mild to strong; 2026-01-31 12:58:00 {both}"
        in drawn.attrib["aria-label"]
    )


def test_labels_of_marks_do_not_overlap_and_stay_in_the_chart():
    times = [BEGIN + at * MINUTE for at in (1, 2, 20, 59)]
    rows = [(time, "generator.swallowed_errors", "generator", "off", HOSTILE) for time in times]
    drawn = plot(panel(Kind.SERIES), switched(data(*WITH_TIME[Kind.SERIES]), rows))
    assert len(marks(drawn)) == len(times)
    texts = list(drawn.iterfind(f"{CHANGES}/text"))
    assert [text.get("class") for text in texts] == [None, None, "left"]
    assert all(text.text.startswith("generator.swallowed_errors <") for text in texts)


@pytest.mark.parametrize("kind", WITH_TIME)
def test_a_chart_without_changes_has_no_marks(kind):
    drawn = plot(panel(kind), data(*WITH_TIME[kind]))
    assert marks(drawn) == []
    assert "Switched" not in drawn.attrib["aria-label"]
