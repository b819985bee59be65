"""Intervals: by hand, at the edges, and how often they hold. Run alone: pytest tests/test_intervals.py"""
import math

import pytest

from stepdpo.intervals import harmonic_interval, mean_interval, paired_interval, wilson


def test_by_hand():
    z = 1.96
    assert wilson(0, 24) == (0, pytest.approx(z * z / (24 + z * z)))
    assert paired_interval([1] * 5 + [0] * 35) == pytest.approx(
        [5 / 42 + sign * z * math.sqrt((7 / 42 - (5 / 42) ** 2) / 42) for sign in (-1, 1)])  # Bonett and Price's
    assert mean_interval([1, 0, 1]) == wilson(2, 3)
    half = z * math.sqrt((4 * 0.25) / 5 / 5)  # the one problem is in the middle
    assert mean_interval([0.5]) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize("n", [1, 5, 24, 1000])
def test_no_interval_claims_what_n_problems_cannot(n):
    """At the edges, and where nothing varies: it has a width, holds the estimate and stays in what is possible."""
    for interval, values, lowest in ((mean_interval, (0, 0.5, 1), 0), (paired_interval, (-1, -0.5, 0, 0.5, 1), -1)):
        for value in values:
            low, high = interval([value] * n)
            assert lowest <= low <= value <= high <= 1 and high - low > 1 / (n + 3)
    low, high = harmonic_interval((n, n), (n, n))
    assert high == 1 and 1 - low > 1 / (n + 3)
    low, high = harmonic_interval((0, n), (n, n))
    assert low == 0 and high > 1 / (n + 3)


def coverage(n, outcomes, interval):
    """How often `interval` of n values holds their mean, exactly. outcomes: three of {value: probability}."""
    (x, p), (y, q), (z, r) = outcomes.items()
    truth, held = x * p + y * q + z * r, 0
    for i in range(n + 1):
        for j in range(n + 1 - i):
            k = n - i - j
            low, high = interval([x] * i + [y] * j + [z] * k)
            if low <= truth <= high:
                held += math.comb(n, i) * math.comb(n - i, j) * p ** i * q ** j * r ** k
    return held


@pytest.mark.parametrize("n", [5, 12, 24])
def test_95_percent_are_95_percent(n):
    shares = [0.02, 0.1, 0.3, 0.6]
    for interval, values in ((paired_interval, (-1, 0, 1)), (mean_interval, (0, 0.5, 1))):
        found = [coverage(n, dict(zip(values, (p, 1 - p - r, r))), interval)
                 for p in shares for r in shares if p + r < 1]
        assert sum(found) / len(found) > 0.95 and min(found) > 0.9
