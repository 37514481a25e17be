"""Intervals and tests for accuracies, by scipy.

Intervals are two-sided, of 95%. Counts that make no sense raise ValueError.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]


def proportion(successes: int, count: int, method: str = "wilson") -> tuple[float, float]:
    """Interval of a proportion: 'wilson', the score interval (Wilson 1927; Brown, Cai & DasGupta
    2001), or 'exact', which never covers too seldom (Clopper & Pearson 1934)."""
    low, high = stats.binomtest(successes, count).proportion_ci(method=method)
    return float(low), float(high)


def accuracy(right: int, count: int, method: str = "wilson") -> Row:
    """``images``, ``accuracy`` and its 95% interval, ``low`` and ``high``; of none, not numbers."""
    if not count:
        return {"images": 0, "accuracy": math.nan, "low": math.nan, "high": math.nan}
    low, high = proportion(right, count, method)
    return {"images": count, "accuracy": right / count, "low": low, "high": high}


def mcnemar(model: Sequence[bool] | np.ndarray, reference: Sequence[bool] | np.ndarray) -> Row:
    """Exact McNemar test of whether two classifiers are right equally often on the same images.

    Of the images that one alone gets right, half belong to each under the hypothesis: a binomial
    test. The interval of the difference adds ½ to each of the four cells and takes Wald's (Agresti
    & Min 2005). ``model`` and ``reference`` say of each image, in the same order, whether the
    classifier was right.

    Returns:
        ``images``; ``difference`` of the accuracies, model minus reference, ``low`` and ``high`` of
        its 95% interval; images that one alone got right, ``only_model_right`` and
        ``only_reference_right``; ``p``, two-sided.
    """
    a, b = np.asarray(model, dtype=bool), np.asarray(reference, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"two lists of one length are expected, found {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant, total = only_a + only_b, len(a) + 2
    shift = (only_a - only_b) / total
    half = stats.norm.ppf(0.975) * math.sqrt(((discordant + 1) / total - shift**2) / total)
    return {
        "images": len(a),
        "difference": (only_a - only_b) / len(a),
        "low": float(max(shift - half, -1)),
        "high": float(min(shift + half, 1)),
        "only_model_right": only_a,
        "only_reference_right": only_b,
        "p": float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): the chance of any false alarm is kept."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1, np.arange(len(p), 0, -1) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(scaled)
    return [float(value) for value in adjusted]


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, 0–1: how often a positive image scores above a negative one, ties
    half; Mann–Whitney's U over the number of pairs. Not a number where a class has no image.

    ``scores``: (n,), larger for label 1; ``labels``: (n,), 0 or 1.
    """
    positive = np.asarray(labels).astype(bool)
    above, below = np.asarray(scores)[positive], np.asarray(scores)[~positive]
    if not len(above) or not len(below):
        return math.nan
    u = stats.mannwhitneyu(above, below, method="asymptotic").statistic
    return float(u / (len(above) * len(below)))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, low and high of Student's interval of it; it needs two values that differ."""
    mean, error = float(np.mean(values)), stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def difference_interval(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """By how much one mean is above the other, low and high of Welch's interval of it (Welch 1947);
    it needs two values or more of each, of which some differ."""
    found = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    return float(np.mean(one) - np.mean(other)), float(found.low), float(found.high)
