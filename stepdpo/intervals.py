"""Intervals around what was measured."""
import math


def wilson(right, n, z=1.96):
    """95 % interval of a proportion (Wilson 1927)."""
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def mean_interval(rates):
    """95 % interval of the mean over problems of each problem's rate (a problem is the cluster of its samples)."""
    n, mean = len(rates), sum(rates) / len(rates)
    if set(rates) <= {0, 1} or len(set(rates)) == 1:  # one sample a problem, or no difference to go by
        return wilson(sum(rates), n)
    half = 1.96 * math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (n - 1) / n)
    return max(0, mean - half), min(1, mean + half)


def percent(value, interval):
    return f"{100 * value:5.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
