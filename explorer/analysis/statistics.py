"""Differences between two samples of traces that are not due to chance. No I/O.

Each function returns a conservative value: the bound of a confidence interval that is nearer to no difference.
"""

import bisect
import math
from collections.abc import Sequence
from statistics import NormalDist

CONFIDENCE = 0.95


def z_of(comparisons: int) -> float:
    """How many standard errors an interval reaches so that all of this many comparisons hold together.

    This is Bonferroni's correction: https://en.wikipedia.org/wiki/Bonferroni_correction.
    """
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * max(comparisons, 1)))


def wilson(share: float, size: float, z: float) -> tuple[float, float]:
    """The interval of a share that was found in a sample of `size`: Wilson, Journal of the ASA 22 (1927), 209-212."""
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    reach = z * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size)) / (1 + z * z / size)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def share_difference(selected: float, selected_size: float, baseline: float, baseline_size: float, z: float) -> float:
    """By how much the first share is larger (or, negative, smaller) than the second at least; 0 if that is uncertain.

    The bound of the hybrid score interval: Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10.
    """
    if selected < baseline:
        return -share_difference(baseline, baseline_size, selected, selected_size, z)
    low, _ = wilson(selected, selected_size, z)
    _, high = wilson(baseline, baseline_size, z)
    return max(selected - baseline - math.hypot(selected - low, high - baseline), 0.0)


def rank_difference(selected: Sequence[float], baseline: Sequence[float], z: float) -> float:
    """How far the first numbers lie above (or, negative, below) the second at least; 0 if that is uncertain.

    The probability that a selected number is the larger one minus that of the opposite (the rank-biserial correlation),
    less `z` of its standard errors when there is no difference (the Mann-Whitney U test).
    """
    if not selected or not baseline:
        return 0.0
    ordered = sorted(baseline)
    wins = sum(bisect.bisect_left(ordered, value) + bisect.bisect_right(ordered, value) for value in selected)
    sizes = len(selected) * len(baseline)
    correlation = wins / sizes - 1
    error = math.sqrt((len(selected) + len(baseline) + 1) / (3 * sizes))
    return math.copysign(max(abs(correlation) - z * error, 0.0), correlation)
