"""Agreement of volumes, and rank correlation."""

import math

import numpy as np
import pytest

from goat_ray.report import statistics
from goat_ray.report.agreement import VolumeAgreement, spearman, volume_agreement
from goat_ray.report.statistics import Estimate

WRIGHT = (494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427)
MINI = (512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451)
"""Peak flow by two meters, Bland and Altman, Lancet 1986;i:307, first measurements in l/min."""


def ids(n: int) -> list[str]:
    return [f"patient-{index:05d}" for index in range(n)]


def agreement(reference: object, predicted: object) -> VolumeAgreement:
    n = len(reference)  # type: ignore[arg-type]
    return volume_agreement(reference, predicted, ids(n), ["a"] * n).pooled  # type: ignore[arg-type]


def test_bias_and_limits_are_those_of_bland_and_altman() -> None:
    """Their differences become log ratios when the measurements are the logarithms of volumes."""
    found = agreement(np.exp(np.array(MINI) / 1000), np.exp(np.array(WRIGHT) / 1000))
    bias, lower, upper = (
        1000 * math.log1p(estimate.value / 100)
        for estimate in (found.bias_percent, found.lower_limit_percent, found.upper_limit_percent)
    )
    deviation = (upper - lower) / (2 * 1.959964)
    assert (bias, deviation) == (pytest.approx(-2.1, abs=0.05), pytest.approx(38.8, abs=0.05))
    assert (lower, upper) == (pytest.approx(-78.1, abs=0.05), pytest.approx(73.9, abs=0.05))


def test_the_intervals_of_bland_and_altman_are_close_to_theirs() -> None:
    """Bias -22.0 to 17.8; their limits, by twice the deviation, reach 35 to either side."""
    found = agreement(np.exp(np.array(MINI) / 1000), np.exp(np.array(WRIGHT) / 1000))
    low, high = (1000 * math.log1p(value / 100) for value in (found.bias_percent.low, found.bias_percent.high))
    assert (low, high) == (pytest.approx(-22.0, abs=3), pytest.approx(17.8, abs=3))
    upper = found.upper_limit_percent
    low, high = (1000 * math.log1p(value / 100) for value in (upper.low, upper.high))
    assert 25 < 73.9 - low < 45
    assert 25 < high - 73.9 < 55


def test_concordance_is_the_one_published_for_the_same_data() -> None:
    """Steichen and Cox, Stata Technical Bulletin 1998;43:35: 0.943."""
    found = agreement([float(value) for value in WRIGHT], [float(value) for value in MINI])
    assert found.concordance.value == pytest.approx(0.943, abs=5e-4)
    assert found.absolute_error_ml.value == pytest.approx(np.abs(np.subtract(WRIGHT, MINI)).mean())


def test_a_constant_factor_is_bias_without_spread() -> None:
    volumes = np.arange(1.0, 21.0)
    found = agreement(volumes, 1.5 * volumes)
    assert found.bias_percent == Estimate(pytest.approx(50.0), None, None, 20)
    assert found.lower_limit_percent.value == pytest.approx(50.0, abs=1e-4)
    assert found.upper_limit_percent.value == pytest.approx(50.0, abs=1e-4)
    assert found.slope == Estimate(pytest.approx(1.0), None, None, 20)
    assert found.absolute_error_ml.value == pytest.approx(volumes.mean() / 2)


def test_equal_volumes_agree_perfectly() -> None:
    volumes = np.arange(1.0, 21.0)
    found = agreement(volumes, volumes)
    assert (found.bias_percent.value, found.concordance.value, found.absolute_error_ml.value) == (0.0, 1.0, 0.0)
    assert found.concordance.low is None


def test_a_slope_is_that_of_least_squares_on_logarithms() -> None:
    rng = np.random.default_rng(2)
    reference = rng.lognormal(3, 1, 200)
    predicted = reference**0.8 * rng.lognormal(0, 0.2, 200)
    found = agreement(reference, predicted).slope
    assert found.value == pytest.approx(np.polyfit(np.log(reference), np.log(predicted), 1)[0])
    assert found.low < 0.8 < found.high


def test_cases_with_an_empty_volume_are_told_and_in_the_error_alone() -> None:
    nan = math.nan
    found = agreement([2.0, 4.0, 3.0, 0.0, 0.0, nan, 1.0], [4.0, 8.0, 0.0, 1.0, 0.0, 1.0, nan])
    assert (found.n_both, found.n_only_reference, found.n_only_predicted, found.n_neither) == (2, 1, 1, 1)
    assert found.bias_percent == Estimate(pytest.approx(100.0), None, None, 2)
    assert found.absolute_error_ml == Estimate((2 + 4 + 3 + 1 + 0) / 5, None, None, 5)


def test_nothing_and_one_case_give_what_they_can() -> None:
    found = agreement([], [])
    assert (found.n_both, found.bias_percent.value, found.slope.value, found.concordance.value) == (0, None, None, None)
    found = agreement([2.0], [3.0])
    assert found.bias_percent.value == pytest.approx(50.0)
    assert (found.lower_limit_percent.value, found.slope.value, found.concordance.value) == (None, None, None)


def test_equal_references_have_no_slope() -> None:
    found = agreement(np.full(20, 3.7), np.linspace(1, 5, 20))
    assert found.slope.value is None
    assert found.bias_percent.low is not None


def test_each_site_has_its_own_agreement() -> None:
    found = volume_agreement([1.0, 2.0, 3.0], [2.0, 4.0, 3.0], ids(3), ["a", "a", "b"])
    assert found.sites["a"].bias_percent.value == pytest.approx(100.0)
    assert found.sites["b"].bias_percent.value == 0.0


@pytest.mark.parametrize("n", [12, 40])
def test_intervals_of_the_limits_cover_them_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng = np.random.default_rng(4)
    true = 100 * math.expm1(0.1 + 1.959964 * 0.3)
    covered = []
    for _ in range(200):
        reference = rng.lognormal(3, 1, n)
        limit = agreement(reference, reference * rng.lognormal(0.1, 0.3, n)).upper_limit_percent
        covered.append(limit.low <= true <= limit.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        volume_agreement([1.0, 2.0], [1.0], ids(2), ["a", "a"])


def test_rank_correlation_is_the_textbooks() -> None:
    """IQ and hours of television, the worked example of Wikipedia's article: -29 / 165."""
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    found = spearman(iq, hours)
    assert (found.value, found.n) == (pytest.approx(-29 / 165), 10)
    reach = 1.959964 * math.sqrt((1 + (29 / 165) ** 2 / 2) / 7)
    assert found.low == pytest.approx(math.tanh(math.atanh(-29 / 165) - reach))
    assert found.high == pytest.approx(math.tanh(math.atanh(-29 / 165) + reach))


def test_rank_correlation_skips_nan_and_needs_spread() -> None:
    assert spearman([1.0, 2.0, math.nan], [2.0, 3.0, 4.0]) == Estimate(pytest.approx(1.0), None, None, 2)
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == Estimate(None, None, None, 3)
    assert spearman([], []) == Estimate(None, None, None, 0)
    assert spearman(range(20), range(20)) == Estimate(pytest.approx(1.0), None, None, 20)
