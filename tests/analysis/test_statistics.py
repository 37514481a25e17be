"""Intervals and tests, against scipy."""

import math

import numpy as np
import pytest
from scipy import special, stats

from analysis import statistics

PROPORTIONS = [(0, 7), (7, 7), (3, 10), (50, 100), (9741, 10000), (1, 2), (449_800, 500_000)]


@pytest.mark.parametrize(("successes", "count"), PROPORTIONS)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_and_clopper_pearson_as_scipy(successes, count, confidence):
    known = stats.binomtest(successes, count)
    for ours, method in ((statistics.wilson, "wilson"), (statistics.clopper_pearson, "exact")):
        low, high = known.proportion_ci(confidence, method)
        assert ours(successes, count, confidence) == pytest.approx((low, high), abs=1e-10)


@pytest.mark.parametrize(("successes", "count"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(successes, count):
    for interval in (statistics.wilson, statistics.clopper_pearson):
        with pytest.raises(ValueError, match=f"found {successes} of {count}"):
            interval(successes, count)


def test_confidence_out_of_range_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, found 95"):
        statistics.wilson(1, 2, 95)


@pytest.mark.parametrize("a", [0.5, 1, 3.5, 40, 5000])
@pytest.mark.parametrize("b", [0.5, 1, 7, 900])
def test_incomplete_beta_as_scipy(a, b):
    for x in (0, 1e-6, 0.1, 0.5, a / (a + b), 0.99, 1):
        expected = special.betainc(a, b, x)
        assert statistics.incomplete_beta(a, b, x) == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (5, 0), (3, 3), (12, 30), (400, 310)]
)
def test_mcnemar_is_the_binomial_test_on_discordant_images(only_first, only_second):
    both, neither = 40, 11
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    found = statistics.mcnemar(first, second)
    discordant = only_first + only_second
    expected = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_interval_of_a_paired_difference_is_near_the_bootstrap():
    random = np.random.default_rng(3)
    first, second = random.random(2000) < 0.9, random.random(2000) < 0.86
    found = statistics.mcnemar(first, second)
    sample = stats.bootstrap(
        (first.astype(float), second.astype(float)), lambda a, b: a.mean() - b.mean(),
        paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=random,
    )  # fmt: skip
    assert found.interval == pytest.approx(tuple(sample.confidence_interval), abs=0.003)


def test_mcnemar_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="one length"):
        statistics.mcnemar([True], [True, False])


def test_holm_as_scipy_orders_and_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9]) == [0.9]
    adjusted = np.array(statistics.holm(p))
    # Holm lies between Benjamini–Hochberg and Bonferroni
    assert (adjusted >= stats.false_discovery_control(p)).all()
    assert (adjusted <= np.minimum(1, 4 * np.array(p)) + 1e-12).all()


@pytest.mark.parametrize("ties", [False, True])
def test_area_under_curve_is_mann_whitney(ties):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    scores = random.normal(size=300) + labels
    scores = np.round(scores) if ties else scores
    u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    expected = u / ((labels == 1).sum() * (labels == 0).sum())
    assert statistics.area_under_curve(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_area_under_curve_of_one_class_is_not_a_number():
    assert math.isnan(statistics.area_under_curve(np.array([0.1, 0.2]), np.array([1, 1])))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_mean_interval_as_scipy(count):
    values = np.random.default_rng(count).normal(size=count)
    mean, low, high = statistics.mean_interval(values)
    expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=1e-9)
    assert mean == pytest.approx(values.mean())


def test_mean_interval_of_one_value_is_not_known():
    mean, low, high = statistics.mean_interval([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="at least one"):
        statistics.mean_interval([])
