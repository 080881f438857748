"""The notation of durations on the explorer's pages."""

import pytest

from explorer.web import duration


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
