"""Intervals and tests for accuracies, in plain formulas.

Intervals are two-sided. ``confidence`` is 0–1, 0.95 unless said otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001).

    Args:
        successes: 0 … count.
        count: at least 1.

    Raises:
        ValueError: the numbers are out of range.
    """
    _check_counts(successes, count)
    z = _normal_quantile(confidence)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) * z / (1 + z * z / count)
    low = 0.0 if successes == 0 else centre - half
    return low, 1.0 if successes == count else centre + half


def clopper_pearson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper & Pearson 1934): never covers too seldom.

    Raises:
        ValueError: the numbers are out of range.
    """
    _check_counts(successes, count)
    _normal_quantile(confidence)  # checks it
    tail = (1 - confidence) / 2
    low = high = 0.0
    if successes > 0:
        low = _solve(lambda p: incomplete_beta(successes, count - successes + 1, p), tail)
    if successes < count:
        high = _solve(lambda p: incomplete_beta(successes + 1, count - successes, p), 1 - tail)
    return low, high if successes < count else 1.0


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

    Of the images on which one alone is right, each is right for one or the other with probability
    ½ under the hypothesis: a binomial test. The interval of the difference adds ½ to each of the
    four cells and takes Wald's (Agresti & Min 2005).

    Args:
        first, second: for each image, in the same order, whether the classifier was right.

    Raises:
        ValueError: they are of different length, or empty.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(
            f"a paired test needs two lists of one length, found {a.shape} and {b.shape}"
        )
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    p = 1.0
    if discordant:
        least = min(only_first, only_second)
        # P(X ≤ least) of a binomial with probability ½
        tail = incomplete_beta(discordant - least, least + 1, 0.5)
        p = min(1.0, 2 * tail)
    total = len(a) + 2
    shift = (only_first - only_second) / total
    spread = math.sqrt(max((discordant + 1) / total - shift**2, 0) / total)
    z = _normal_quantile(0.95)
    return McNemar(
        only_first, only_second, len(a), p,
        (only_first - only_second) / len(a),
        (max(shift - z * spread, -1.0), min(shift + z * spread, 1.0)),
    )  # fmt: skip


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): the chance of any false alarm is kept."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, which in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[which]))
        adjusted[which] = largest
    return adjusted


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive image scores above a negative one.

    Ties count half (Mann–Whitney's U over the number of pairs).

    Args:
        scores: (n,), larger for label 1.
        labels: (n,), 0 or 1.

    Returns:
        0–1; not a number where a class has no image.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores, from 1
    u = ranks[place][labels].sum() - positives * (positives + 1) / 2
    return float(u / (positives * negatives))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean, and Student's interval of it.

    Returns:
        (mean, low, high); the interval is not a number for a single value.

    Raises:
        ValueError: there is no value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("a mean needs at least one value")
    mean = float(numbers.mean())
    if numbers.size == 1:
        return mean, math.nan, math.nan
    half = student_quantile((1 + confidence) / 2, numbers.size - 1)
    half *= float(numbers.std(ddof=1)) / math.sqrt(numbers.size)
    return mean, mean - half, mean + half


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution, for a probability of ½ or more."""
    if not 0.5 <= probability < 1:
        raise ValueError(f"probability must be in 0.5–1, found {probability}")
    if probability == 0.5:
        return 0.0
    x = _solve(lambda x: incomplete_beta(degrees / 2, 0.5, x), 2 * (1 - probability))
    return math.sqrt(degrees * (1 - x) / x)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction.

    (Abramowitz & Stegun 26.5.8, evaluated by Lentz's method.) a, b > 0; x in 0–1.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front += a * math.log(x) + b * math.log1p(-x)
    tiny, c, d, value = 1e-300, 1.0, 0.0, 1.0
    for i in range(10_000):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + term * d) or tiny)
        c = (1 + term / c) or tiny
        value *= c * d
        if i and abs(c * d - 1) < 1e-15:
            break
    return math.exp(front) * (value - 1) / a


def _solve(increasing: Callable[[float], float], target: float) -> float:
    """Where in 0–1 an increasing function takes this value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if increasing(middle) < target else (low, middle)
    return (low + high) / 2


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, found {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_counts(successes: int, count: int) -> None:
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"a proportion needs 0 ≤ successes ≤ count, found {successes} of {count}")
