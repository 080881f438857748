"""The statistics of what differs, against published examples and their definitions."""

from statistics import NormalDist

import pytest

from explorer.analysis.statistics import rank_difference, share_difference, wilson, z_of

Z = NormalDist().inv_cdf(0.975)


def test_wilsons_interval():
    # Newcombe, Statistics in Medicine 17 (1998), 857-872, table I.
    assert wilson(81 / 263, 263, Z) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20, Z) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1 / 29, 29, Z) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize(
    ("selected", "of", "baseline", "of_rest", "expected"),
    [(56, 70, 48, 80, 0.0524), (9, 10, 3, 10, 0.1705), (10, 10, 0, 10, 0.6075), (5, 56, 0, 29, 0)],
)
def test_newcombes_interval_of_a_difference(selected, of, baseline, of_rest, expected):
    # Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10: the lower bounds, or 0 if negative.
    found = share_difference(selected / of, of, baseline / of_rest, of_rest, Z)
    assert found == pytest.approx(expected, abs=5e-5)
    assert share_difference(baseline / of_rest, of_rest, selected / of, of, Z) == -found


def test_ranks():
    # Of 6 pairs, the selected number is larger in 4, smaller in 1 and the same in 1.
    assert rank_difference([3, 5], [1, 3, 4], 0) == pytest.approx((4 - 1) / 6)
    assert rank_difference([1, 3, 4], [3, 5], 0) == pytest.approx((1 - 4) / 6)
    assert rank_difference([3, 5], [1, 3, 4], Z) == 0
    assert rank_difference(range(100, 200), range(100), Z) == pytest.approx(1 - Z * (201 / 30_000) ** 0.5)
    assert rank_difference([], [1], Z) == rank_difference([1], [], Z) == 0


def test_more_comparisons_need_larger_differences():
    assert z_of(1) == pytest.approx(Z)
    assert z_of(1000) == pytest.approx(4.0556, abs=1e-4)
