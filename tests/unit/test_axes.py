"""The ticks of charts: round values, round times in the zone of the reader, and texts with one unit."""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from explorer.axes import Scale, duration_ticks, number_ticks, time_ticks
from explorer.links import micros
from queries import MILLISECONDS, NO_UNIT, PER_SECOND, PERCENT

BERLIN, KATHMANDU = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu")


def texts(ticks) -> list[str]:
    return [tick.text for tick in ticks]


def hours(begin: datetime, duration: float, count: int, zone=UTC):
    end = begin + timedelta(hours=duration)
    return time_ticks(micros(begin), micros(end), count, zone)


def test_a_scale_leads_from_its_lowest_to_its_highest_value():
    upwards = Scale(low=10, high=20, start=200, end=0)
    assert [upwards(value) for value in (10, 15, 20)] == [200, 100, 0]


@pytest.mark.parametrize(
    ("high", "unit", "expected"),
    [
        (8123, MILLISECONDS, ["0", "2 s", "4 s", "6 s", "8 s", "10 s"]),
        (1700, MILLISECONDS, ["0", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]),
        (0.0004, MILLISECONDS, ["0", "100 ns", "200 ns", "300 ns", "400 ns"]),
        (100, PERCENT, ["0", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (0.034, PERCENT, ["0", "0.01 %", "0.02 %", "0.03 %", "0.04 %"]),
        (1.4, PER_SECOND, ["0", "0.5/s", "1.0/s", "1.5/s"]),
        (2_300_000, NO_UNIT, ["0", "0.5 M", "1.0 M", "1.5 M", "2.0 M", "2.5 M"]),
    ],
)
def test_numbers_on_an_axis_have_one_unit_and_equally_many_decimals(high, unit, expected):
    ticks = number_ticks(high, 5, unit)
    assert texts(ticks) == expected
    assert ticks[-1].value >= high


def test_an_axis_without_values_has_a_height():
    assert number_ticks(0, 5, PERCENT)[-1].value > 0


def test_numbers_of_requests_have_no_ticks_between_them():
    assert texts(number_ticks(2, 5, NO_UNIT, smallest_step=1)) == ["0", "1", "2"]


def test_ticks_are_at_round_times_of_the_zone():
    begin = datetime(2026, 1, 31, 12, 3, tzinfo=UTC)  # 17:48 in Kathmandu
    assert texts(hours(begin, 1, 6, KATHMANDU)) == ["17:50", "18:00", "18:10", "18:20", "18:30", "18:40"]
    assert texts(hours(begin, 24, 4, KATHMANDU)) == ["18:00", "1 Feb", "06:00", "12:00"]


def test_ticks_of_seconds_months_and_years():
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert texts(hours(begin, 20 / 3600, 4)) == ["1 Jan", "00:00:05", "00:00:10", "00:00:15", "00:00:20"]
    assert texts(hours(begin, 24 * 120, 4)) == ["Jan 2026", "Feb 2026", "Mar 2026", "Apr 2026", "May 2026"]
    assert texts(hours(begin, 24 * 365 * 40, 4)) == ["2030", "2040", "2050", "2060"]


def test_an_hour_that_does_not_exist_has_no_tick():
    midnight = datetime(2026, 3, 28, 23, tzinfo=UTC)  # in Berlin
    ticks = hours(midnight, 4, 4, BERLIN)
    assert texts(ticks) == ["29 Mar", "01:00", "03:00", "04:00", "05:00"]
    assert {after.value - before.value for before, after in pairwise(ticks)} == {3600 * 10**6}


@pytest.mark.parametrize("begin", [0, 50])
def test_a_repeated_hour_has_ticks_twice(begin):
    first_two = datetime(2026, 10, 25, tzinfo=UTC)  # 02:00 in Berlin, and again an hour later
    ticks = hours(first_two + timedelta(minutes=begin), 2, 12, BERLIN)
    distances = {after.value - before.value for before, after in pairwise(ticks)}
    assert distances == {600 * 10**6}
    assert texts(ticks).count("02:50") == 2


def test_any_time_range_has_few_ticks():
    always = [micros(time) for time in (datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC))]
    assert texts(time_ticks(*always, 10, BERLIN)) == [f"{thousands}000" for thousands in range(1, 10)]
    for exponent in range(17):
        assert len(time_ticks(0, 10**exponent, 6, KATHMANDU)) <= 8


def test_durations_have_ticks_at_round_values_as_there_is_room():
    assert texts(duration_ticks(10, 30, 800, 44)) == ["10 ms", "20 ms", "50 ms", "100 ms", "200 ms", "500 ms", "1 s"]
    assert texts(duration_ticks(10, 50, 250, 44)) == ["10 ms", "100 ms", "1 s", "10 s", "100 s"]
    assert texts(duration_ticks(-30, 50, 234, 44)) == ["10 µs", "1 ms", "100 ms", "10 s"]
    assert texts(duration_ticks(17, 18, 300, 44)) == ["50.1 ms", "63.1 ms"]


@pytest.mark.parametrize("low", range(-30, 50, 7))
@pytest.mark.parametrize("buckets", [1, 3, 6, 15, 40, 80])
def test_ticks_of_durations_are_apart_and_at_their_logarithm(low, buckets):
    ticks = duration_ticks(low, low + buckets, 300, 44)
    places = [tick.value for tick in ticks]
    assert ticks
    assert all(low <= place <= low + buckets for place in places)
    assert all((after - before) * 300 / buckets >= 43 for before, after in pairwise(places))
    sizes = {"ns": 1e-6, "µs": 1e-3, "ms": 1, "s": 1000}
    for place, text in ticks:
        number, unit = text.replace(",", "").split()
        assert place == pytest.approx(10 * math.log10(float(number) * sizes[unit]), abs=0.05)
