"""What all pages of the explorer share: compression, caching, security headers and the notation of values."""

import gzip
import re
import zlib
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from flask import Response, url_for

from explorer.web import clock, create_app, duration, quantity
from queries import MILLISECONDS, NO_UNIT, PER_SECOND, PERCENT


@pytest.fixture
def app():
    app = create_app("explorer.web")

    @app.get("/file.csv")
    def csv() -> Response:
        return Response("a,b\n" * 1000, mimetype="text/csv")

    @app.get("/page")
    def page() -> str:
        return url_for("static", filename="explorer.css") + " " + url_for("services_css")

    return app


def test_files_can_be_kept_for_ever_because_their_url_has_a_hash_of_their_content(app):
    client = app.test_client()
    urls = client.get("/page").text.split()
    assert len(urls) == 2
    for url in urls:
        assert "max-age=31536000" in client.get(url).headers["Cache-Control"]
        assert client.get(re.sub("/static/[^/]*", "/static/0123456789abcdef", url)).status_code == 404


@pytest.mark.parametrize(
    ("path", "encoding", "decompress"),
    [("/file.csv", "gzip", gzip.decompress), ("{static}/explorer.css", "deflate", zlib.decompress)],
)
def test_answers_are_compressed_for_those_who_accept_it(app, path, encoding, decompress):
    client, path = app.test_client(), path.format(static=app.static_url_path)
    plain, packed = client.get(path), client.get(path, headers={"Accept-Encoding": encoding})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == encoding
    assert decompress(packed.data) == plain.data
    assert len(packed.data) < len(plain.data) / 2
    assert "Accept-Encoding" in packed.headers["Vary"]


def test_no_page_has_inline_styles_or_scripts(app):
    policy = app.test_client().get("/page").headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert (rules["style-src"], rules["script-src"], rules["default-src"]) == ("'self'", "'self'", "'none'")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (8012.3, MILLISECONDS, "8.01 s"),
        (52.04, MILLISECONDS, "52 ms"),
        (0.5, MILLISECONDS, "500 µs"),
        (0, MILLISECONDS, "0"),
        (0.0, PERCENT, "0 %"),
        (0.0001, PERCENT, "< 0.01 %"),
        (12.345, PERCENT, "12.35 %"),
        (1.2345, PER_SECOND, "1.23/s"),
        (12345, NO_UNIT, "12,345"),
    ],
)
def test_quantities_have_a_readable_unit(value, unit, text):
    assert quantity(value, unit) == text


def test_a_clock_shows_the_time_of_its_zone():
    berlin = ZoneInfo("Europe/Berlin")
    assert clock(datetime(2026, 7, 1, 22, 0, 5, tzinfo=UTC), berlin) == "2026-07-02 00:00:05"
    assert clock(datetime.max.replace(tzinfo=UTC), berlin) == "9999-12-31 23:59:59"


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0"),
        (1, "1 ns"),
        (999, "999 ns"),
        (1_234, "1.23 µs"),
        (999_499, "999 µs"),
        (999_500, "1 ms"),
        (12_000_000, "12 ms"),
        (999_999_999, "1 s"),
        (3_600 * 10**9, "3,600 s"),
    ],
)
def test_a_duration_has_three_digits_and_the_largest_unit_that_fits(nanos, text):
    assert duration(nanos) == text
