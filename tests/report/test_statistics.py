"""Means, shares and quantiles with intervals over patients."""

import math
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from goat_ray.report import statistics
from goat_ray.report.statistics import Estimate, means, shares, shares_below, spread, wilson

GENERATOR = np.random.default_rng(20250917)


def ids(n: int) -> list[str]:
    return [f"patient-{index:05d}" for index in range(n)]


def mean_of(values: NDArray[np.float64], sites: list[str] | None = None) -> Estimate:
    (estimate,) = means(values, ids(len(values)), sites or ["a"] * len(values)).pooled
    return estimate


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_a_mean_is_of_all_cases_whatever_their_patient_and_site() -> None:
    found = means([1.0, 2.0, 3.0, 10.0], ["p", "p", "q", "p"], ["a", "a", "a", "b"])
    assert found.pooled == (Estimate(4.0, None, None, 3),)
    assert found.sites == {"a": (Estimate(2.0, None, None, 2),), "b": (Estimate(10.0, None, None, 1),)}


def test_nan_is_dropped_from_its_column_alone() -> None:
    nan = math.nan
    found = means([[1.0, nan], [3.0, 5.0], [nan, nan]], ids(3), ["a", "a", "b"])
    assert [(estimate.value, estimate.n) for estimate in found.pooled] == [(2.0, 2), (5.0, 1)]
    assert found.sites["b"] == (Estimate(None, None, None, 0), Estimate(None, None, None, 0))


def test_a_column_with_nan_is_as_if_those_cases_were_not_there() -> None:
    values = GENERATOR.beta(5, 1, 400)
    holes = np.where(np.arange(400) % 2, values, np.nan)
    assert width(mean_of(holes)) == pytest.approx(width(mean_of(values[1::2])), rel=0.08)


def test_no_interval_below_ten_patients_and_a_greyed_one_below_fifty() -> None:
    values = GENERATOR.beta(5, 1, 50)
    assert mean_of(values[:9]).low is None
    assert mean_of(values[:10]).low is not None
    assert mean_of(values[:49]).is_uncertain
    assert not mean_of(values).is_uncertain


def test_ten_cases_of_nine_patients_get_no_interval() -> None:
    (estimate,) = means(GENERATOR.random(10), [*ids(9), ids(9)[0]], ["a"] * 10).pooled
    assert (estimate.low, estimate.n) == (None, 9)


def test_equal_values_have_a_mean_and_no_interval() -> None:
    assert mean_of(np.full(30, 0.1)) == Estimate(pytest.approx(0.1), None, None, 30)


def test_nothing_gives_nothing() -> None:
    assert means([], [], []).pooled == (Estimate(None, None, None, 0),)
    assert means([], [], []).sites == {}
    assert means(np.full(3, np.nan), ids(3), ["a"] * 3).pooled == (Estimate(None, None, None, 0),)
    assert shares([], [], []).pooled == (Estimate(None, None, None, 0),)


@pytest.mark.parametrize("n", [40, 400])
def test_the_interval_is_that_of_scipy_but_for_the_patient_less_that_is_drawn(n: int) -> None:
    values = GENERATOR.beta(5, 1, n)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    ours = mean_of(values)
    assert width(ours) == pytest.approx((theirs.high - theirs.low) * math.sqrt(n / (n - 1)), rel=0.05)
    assert ours.low == pytest.approx(theirs.low, abs=0.08 * width(ours))


def test_resamples_are_drawn_within_sites() -> None:
    """With sites far apart and narrow, what is between them must not widen the interval."""
    values = np.concatenate([GENERATOR.normal(0.2, 0.01, 60), GENERATOR.normal(0.9, 0.02, 40)])
    error = math.hypot(0.6 * values[:60].std(ddof=1) / math.sqrt(60), 0.4 * values[60:].std(ddof=1) / math.sqrt(40))
    assert width(mean_of(values, ["a"] * 60 + ["b"] * 40)) == pytest.approx(2 * 1.96 * error, rel=0.06)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_many_small_sites_do_not_narrow_the_interval(size: int) -> None:
    values = GENERATOR.beta(5, 1, 200)
    sites = [f"site-{index // size}" for index in range(200)]
    assert width(mean_of(values, sites)) == pytest.approx(2 * 1.96 * values.std(ddof=1) / math.sqrt(200), rel=0.12)


def test_repeated_cases_of_a_patient_do_not_narrow_the_interval() -> None:
    once = GENERATOR.beta(5, 1, 60)
    (repeated,) = means(np.repeat(once, 4), np.repeat(ids(60), 4).tolist(), ["a"] * 240).pooled
    assert repeated == mean_of(once)


def test_the_order_of_rows_does_not_matter() -> None:
    values = GENERATOR.random((300, 3)) * 374
    patients, sites = [f"p{index // 2}" for index in range(300)], [f"s{index // 60}" for index in range(300)]
    order = GENERATOR.permutation(300)
    shuffled = means(values[order], [patients[i] for i in order], [sites[i] for i in order])
    assert shuffled == means(values, patients, sites)


def test_the_numbers_of_a_site_do_not_depend_on_other_sites() -> None:
    values, sites = GENERATOR.random(60), ["b"] * 30 + ["a"] * 30
    both = means(values, ids(60), sites)
    assert list(both.sites) == ["a", "b"]
    assert means(values[:30], ids(30), sites[:30]).pooled == both.sites["b"]


def test_equal_patient_ids_of_two_sites_are_two_patients() -> None:
    assert means([1.0, 2.0], ["p", "p"], ["a", "b"]).pooled[0].n == 2


@pytest.mark.parametrize(("n", "lowest"), [(12, 0.85), (40, 0.90)])
def test_the_interval_of_a_skewed_mean_covers_it_about_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch, n: int, lowest: float
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    found = [mean_of(rng.beta(5, 1, n)) for _ in range(300)]
    covered = np.mean([e.low <= 5 / 6 <= e.high for e in found if e.low is not None and e.high is not None])
    assert lowest <= covered <= 0.985


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]
)
def test_wilson_intervals_are_those_published(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe, Stat Med 1998;17:857, table I, method 3."""
    assert wilson(hits, n) == Estimate(hits / n, pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5), n)


def test_wilson_of_few_or_no_patients_has_no_interval() -> None:
    assert wilson(3, 9) == Estimate(1 / 3, None, None, 9)
    assert wilson(0, 0) == Estimate(None, None, None, 0)


def test_a_share_of_single_cases_has_wilsons_interval() -> None:
    assert shares([1.0] * 15 + [0.0] * 133, ids(148), ["a"] * 148).pooled == (wilson(15, 148),)


def test_a_share_of_repeated_cases_is_bootstrapped_over_patients() -> None:
    hits = np.repeat(GENERATOR.random(40) < 0.7, 5).astype(float)
    (estimate,) = shares(hits, np.repeat(ids(40), 5).tolist(), ["a"] * 200).pooled
    p = float(hits.mean())
    assert (estimate.value, estimate.n) == (pytest.approx(p), 40)
    assert width(estimate) == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 39), rel=0.1)


@pytest.mark.parametrize("hit", [0, 1])
def test_all_or_no_hits_get_an_interval_that_counts_patients(hit: int) -> None:
    (estimate,) = shares(np.full(60, float(hit)), np.repeat(ids(20), 3).tolist(), ["a"] * 60).pooled
    assert estimate == wilson(20 * hit, 20)


def test_a_share_below_is_strict_and_skips_nan() -> None:
    values = [[0.5, 0.5], [0.4, 20.0], [math.nan, 374.0]]
    found = shares_below(values, [0.5, 100.0], ids(3), ["a"] * 3).pooled
    assert [(estimate.value, estimate.n) for estimate in found] == [(0.5, 2), (2 / 3, 3)]
    assert shares_below(values, 0.5, ids(3), ["a"] * 3).pooled[0] == found[0]


def test_quantiles_are_linear_and_skip_nan() -> None:
    found = spread([math.nan, *range(101)])
    assert (found.n, found.p5, found.q1, found.median, found.q3, found.p95) == (101, 5.0, 25.0, 50.0, 75.0, 95.0)
    assert spread([7.0]).p5 == 7.0
    assert (spread([]).n, spread([math.nan]).median) == (0, None)


def test_infinite_values_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="got inf in row 1, column 0"):
        means([1.0, math.inf], ids(2), ["a", "a"])
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        means([1.0, 2.0], ids(1), ["a", "a"])


def test_summaries_and_exports_do_not_load_the_statistics_libraries() -> None:
    code = "import sys; sys.modules['statsmodels'] = sys.modules['scipy.stats'] = None; "
    code += "import goat_ray.report.summary, goat_ray.report.exports"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
