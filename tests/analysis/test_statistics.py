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
    shares = np.array([both, only_first, only_second, neither]) + 0.5  # Agresti & Min's half each
    shares, scores, count = shares / shares.sum(), np.array([0, 1, -1, 0]), shares.sum()
    mean, square = shares @ scores, shares @ scores**2
    half = stats.norm.ppf(0.975) * math.sqrt((square - mean**2) / count)
    assert (found["low"], found["high"]) == pytest.approx((mean - half, mean + half))


def test_an_interval_of_a_difference_ends_at_one():
    assert statistics.mcnemar([True], [False])["high"] == 1
    assert statistics.mcnemar([False], [True])["low"] == -1


@pytest.mark.parametrize("lists", [([True], [True, False]), ([], []), ([[True]], [[True]])])
def test_mcnemar_refuses_what_are_no_two_lists_of_one_length(lists):
    with pytest.raises(ValueError, match="two lists"):
        statistics.mcnemar(*lists)


def test_holm_by_hand_and_between_two_others():
    p = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = np.array(statistics.holm(p))
    # Holm lies between Benjamini–Hochberg and Bonferroni
    assert (adjusted >= stats.false_discovery_control(p)).all()
    assert (adjusted <= np.minimum(1, 4 * np.array(p)) + 1e-12).all()
    assert statistics.holm([]) == []
    assert statistics.holm([0.8, 0.9]) == [1, 1]


@pytest.mark.parametrize("ties", [False, True])
def test_area_under_curve_counts_pairs(ties):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    scores = random.normal(size=300) + labels
    scores = np.round(scores) if ties else scores
    difference = scores[labels == 1][:, None] - scores[labels == 0][None]
    expected = (difference > 0).mean() + (difference == 0).mean() / 2
    assert statistics.area_under_curve(scores, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_area_under_curve_of_one_class_is_not_a_number(label):
    assert math.isnan(statistics.area_under_curve(np.array([0.1, 0.2]), np.full(2, label)))


def test_accuracy_is_a_share_and_of_no_image_not_a_number():
    low, high = statistics.proportion(3, 10)
    found = {"images": 10, "accuracy": 0.3, "low": low, "high": high}
    assert statistics.accuracy(3, 10) == found
    low, high = statistics.proportion(3, 10, "exact")
    assert statistics.accuracy(3, 10, "exact") == {**found, "low": low, "high": high}
    images, *numbers = statistics.accuracy(0, 0).values()
    assert images == 0 and np.isnan(numbers).all()


def test_difference_interval_is_welchs():
    one, other = [4.0, 6.0, 8.0, 7.0], [1.0, 1.5]
    shares = [np.var(values, ddof=1) / len(values) for values in (one, other)]
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / 3 + shares[1] ** 2 / 1)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(shares))
    assert statistics.difference_interval(one, other) == pytest.approx((5, 5 - half, 5 + half))


def test_mean_interval_by_hand():
    mean, low, high = statistics.mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # the 97.5th percentile of Student's t, 2 degrees
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half))
