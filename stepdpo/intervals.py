"""95 % intervals around what was measured, that hold for few problems and at the edges (all right, all wrong).

None of them has no width: 24 answers of 24 do not show that a model is always right.
"""
import math

Z = 1.96


def wilson(right, n):
    """Interval of a proportion (Wilson 1927; recommended for small n by Brown, Cai and DasGupta 2001)."""
    p = right / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half) / (1 + Z * Z / n), min(1.0, (middle + half) / (1 + Z * Z / n))


def mean_interval(shares):
    """Interval of the mean of n shares, each that of a problem's answers which are right.

    Samples of one problem are no independent trials, so the problem is what is counted. With one sample a problem
    this is a proportion, and Wilson's interval. With several, four problems are added, two that are always right and
    two that never are, and the usual interval is taken (for proportions that is Agresti and Coull 1998, "add two
    successes and two failures").
    """
    if set(shares) <= {0, 1}:
        return wilson(sum(shares), len(shares))
    return clip(normal_interval([*shares, 0, 0, 1, 1]), 0, 1, sum(shares) / len(shares))


def paired_interval(differences):
    """Interval of the mean of n paired differences, each between -1 and 1.

    Two problems are added, one won by each side, and the usual interval is taken. For one sample a problem that is
    the adjusted Wald interval of Bonett and Price 2012, which Fagerland, Lydersen and Laake 2014 recommend for paired
    proportions of any n.
    """
    return clip(normal_interval([*differences, -1, 1]), -1, 1, sum(differences) / len(differences))


def harmonic_interval(first, second, draws=10_000):
    """Interval of the harmonic mean of two proportions, each (how many are right, n), as ProcessBench's F1.

    Both are drawn from their posterior under Jeffreys' prior, whose interval holds for small n (Brown, Cai and
    DasGupta 2001). As they advise, it reaches the edge where all or none are right.
    """
    import numpy as np
    random = np.random.default_rng(0)
    a, b = (random.beta(right + 0.5, n - right + 0.5, draws) for right, n in (first, second))
    low, high = np.percentile(2 * a * b / (a + b), [2.5, 97.5])
    return clip((float(low), float(high)), 0, 1, harmonic_mean(first[0] / first[1], second[0] / second[1]))


def harmonic_mean(x, y):
    return 2 * x * y / (x + y) if x + y else 0.0


def normal_interval(values):
    """mean ± 1.96 standard errors."""
    n, mean = len(values), sum(values) / len(values)
    half = Z * math.sqrt(sum((value - mean) ** 2 for value in values) / n / n)
    return mean - half, mean + half


def clip(interval, lowest, highest, estimate):
    """An interval inside what is possible; it holds its own estimate, which at the edges is the edge."""
    low, high = interval
    return max(lowest, min(low, estimate)), min(highest, max(high, estimate))


def percent(value, interval):
    return f"{100 * value:5.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
