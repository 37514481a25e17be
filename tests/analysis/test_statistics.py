"""Intervals and tests, against closed forms, bootstrap and hand calculation."""

import math

import numpy as np
import pytest
from scipy import special, stats

from analysis import statistics

PROPORTIONS = [(0, 7), (7, 7), (3, 10), (9741, 10000), (1, 2)]


@pytest.mark.parametrize(("successes", "count"), PROPORTIONS)
def test_intervals_of_a_proportion_are_their_formulas(successes, count):
    z, share = stats.norm.ppf(0.975), successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    found = statistics.proportion(successes, count)
    assert found == pytest.approx((centre - half, centre + half), abs=1e-9)
    low, high = statistics.proportion(successes, count, "exact")
    tail = 0.025
    least = special.betaincinv(successes, count - successes + 1, tail) if successes else 0
    full = successes == count
    most = 1 if full else special.betaincinv(successes + 1, count - successes, 1 - tail)
    assert (low, high) == pytest.approx((least, most), abs=1e-8)


@pytest.mark.parametrize(("successes", "count"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(successes, count):
    with pytest.raises(ValueError):
        statistics.proportion(successes, count)


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (5, 0), (3, 3), (12, 30), (400, 310)]
)
def test_mcnemar_counts_the_discordant_images(only_first, only_second):
    both, neither = 40, 11
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    found = statistics.mcnemar(first, second)
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert found["p"] == pytest.approx(min(1, 2 * tail) if n else 1)
    assert (found["only_model_right"], found["only_reference_right"]) == (only_first, only_second)
    assert found["difference"] == pytest.approx(first.mean() - second.mean())
    assert found["low"] <= found["difference"] <= found["high"]


def test_interval_of_a_paired_difference_is_near_the_bootstrap():
    random = np.random.default_rng(3)
    first, second = random.random(2000) < 0.9, random.random(2000) < 0.86
    found = statistics.mcnemar(first, second)
    sample = stats.bootstrap(
        (first.astype(float), second.astype(float)), lambda a, b: a.mean() - b.mean(),
        paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=random,
    )  # fmt: skip
    expected = tuple(sample.confidence_interval)
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=0.003)


def test_mcnemar_refuses_lists_of_different_length():
    with pytest.raises(ValueError):
        statistics.mcnemar([True], [True, False])


def test_holm_by_hand_and_between_two_others():
    p = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = np.array(statistics.holm(p))
    # Holm lies between Benjamini–Hochberg and Bonferroni
    assert (adjusted >= stats.false_discovery_control(p)).all()
    assert (adjusted <= np.minimum(1, 4 * np.array(p)) + 1e-12).all()
    assert statistics.holm([]) == []


@pytest.mark.parametrize("ties", [False, True])
def test_area_under_curve_counts_pairs(ties):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    scores = random.normal(size=300) + labels
    scores = np.round(scores) if ties else scores
    difference = scores[labels == 1][:, None] - scores[labels == 0][None]
    expected = (difference > 0).mean() + (difference == 0).mean() / 2
    assert statistics.area_under_curve(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_area_under_curve_of_one_class_is_not_a_number():
    assert math.isnan(statistics.area_under_curve(np.array([0.1, 0.2]), np.array([1, 1])))


def test_mean_interval_by_hand():
    mean, low, high = statistics.mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # the 97.5th percentile of Student's t, 2 degrees
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half))
