"""Intervals and tests for accuracies, by scipy.

Intervals are two-sided; ``confidence`` is 0–1. Counts that make no sense raise ValueError.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001)."""
    low, high = stats.binomtest(successes, count).proportion_ci(confidence, "wilson")
    return float(low), float(high)


def clopper_pearson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper & Pearson 1934): never covers too seldom."""
    low, high = stats.binomtest(successes, count).proportion_ci(confidence, "exact")
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same images.

    Attributes:
        only_first, only_second: images that one alone got right.
        count: images in all.
        p: two-sided p-value of the exact test.
        difference: accuracy of the first minus that of the second.
        interval: 95% interval of the difference.
    """

    only_first: int
    only_second: int
    count: int
    p: float
    difference: float
    interval: Interval


def mcnemar(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> McNemar:
    """Exact McNemar test of whether two classifiers are right equally often on the same images.

    Of the images that one alone gets right, half belong to each under the hypothesis: a binomial
    test. The interval of the difference adds ½ to each of the four cells and takes Wald's (Agresti
    & Min 2005).

    Args:
        first, second: for each image, in the same order, whether the classifier was right.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"two lists of one length are expected, found {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    total = len(a) + 2
    shift = (only_first - only_second) / total
    half = stats.norm.ppf(0.975) * math.sqrt(((discordant + 1) / total - shift**2) / total)
    interval = (float(max(shift - half, -1)), float(min(shift + half, 1)))
    difference = (only_first - only_second) / len(a)
    return McNemar(only_first, only_second, len(a), p, difference, interval)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): the chance of any false alarm is kept."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, which in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[which]))
        adjusted[which] = largest
    return adjusted


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive image scores above a negative one.

    Ties count half (Mann–Whitney's U over the number of pairs).

    Args:
        scores: (n,), larger for label 1.
        labels: (n,), 0 or 1.

    Returns:
        0–1; not a number where a class has no image.
    """
    positive = np.asarray(labels).astype(bool)
    above, below = np.asarray(scores)[positive], np.asarray(scores)[~positive]
    if not len(above) or not len(below):
        return math.nan
    u = stats.mannwhitneyu(above, below, method="asymptotic").statistic
    return float(u / (len(above) * len(below)))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean, low and high of Student's interval of it; it needs two values that differ."""
    mean, error = float(np.mean(values)), stats.sem(values)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)
