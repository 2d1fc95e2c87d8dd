"""Two runs on the same cases."""

import itertools
import math

import numpy as np
import pytest

from goat_ray.report.paired import Comparison, compare, hodges_lehmann, holm
from goat_ray.report.statistics import Estimate, means

DARWIN = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)
"""Crossed less self-fertilised maize, in eighths of an inch; Fisher, The Design of Experiments, 1935."""
DEPRESSION_BEFORE = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
DEPRESSION_AFTER = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)
"""Hollander and Wolfe, Nonparametric Statistical Methods, table 3.1."""


def ids(n: int) -> list[str]:
    return [f"patient-{index:05d}" for index in range(n)]


def compared(run: object, baseline: object, **options: bool) -> Comparison:
    n = len(run)  # type: ignore[arg-type]
    (comparison,) = compare(run, baseline, ids(n), ["a"] * n, **options).pooled  # type: ignore[arg-type]
    return comparison


def test_wins_ties_losses_and_mean_are_of_the_common_cases() -> None:
    nan = math.nan
    found = compared([0.9, 0.5, 0.7, nan, 0.2], [0.8, 0.7, 0.7 + 1e-10, 0.1, nan])
    assert (found.n_cases, found.wins, found.ties, found.losses) == (3, 1, 1, 1)
    assert found.difference == Estimate(pytest.approx(-0.1 / 3), None, None, 3)


def test_the_smaller_distance_wins_and_the_difference_keeps_its_sign() -> None:
    found = compared([1.0, 2.0, 9.0], [3.0, 4.0, 8.0], lower_is_better=True)
    assert (found.wins, found.losses, found.difference.value) == (2, 1, -1.0)


def test_the_signed_rank_test_is_the_published_one() -> None:
    found = compared(DARWIN, np.zeros(15))
    assert found.p_value == pytest.approx(0.0413, abs=5e-5)
    assert found.difference.value == pytest.approx(20.93, abs=5e-3)


def test_zeros_are_ranked_and_then_dropped_as_pratt_does() -> None:
    """Two zeros: ranks 3 to 12 remain, the negative one has 11; mean 37.5 and variance 161.25 by hand."""
    found = compared([0.0, 0, 1, 2, 3, 4, 5, 6, 7, 8, -9, 10], np.zeros(12))
    z = (11 - 37.5) / math.sqrt(161.25)
    assert found.p_value == pytest.approx(math.erfc(-z / math.sqrt(2)))


def test_no_test_of_few_patients_or_of_ties_alone() -> None:
    assert compared(np.arange(1.0, 10.0), np.zeros(9)).p_value is None
    assert compared(np.arange(1.0, 11.0), np.zeros(10)).p_value is not None
    found = compared(np.full(30, 0.5), np.full(30, 0.5))
    assert (found.p_value, found.shift, found.ties) == (None, 0.0, 30)
    assert found.difference == Estimate(0.0, None, None, 30)


def test_nothing_in_common_gives_nothing() -> None:
    found = compared([math.nan, 1.0], [1.0, math.nan])
    assert found == Comparison(0, Estimate(None, None, None, 0), None, None, 0, 0, 0)


def test_the_interval_is_that_of_the_mean_difference() -> None:
    rng = np.random.default_rng(3)
    run, baseline = rng.random(60), rng.random(60)
    (expected,) = means(run - baseline, ids(60), ["a"] * 60).pooled
    assert compared(run, baseline).difference == expected


def test_repeated_cases_of_a_patient_do_not_sharpen_the_test() -> None:
    values = np.array(DARWIN, dtype=float)
    (repeated,) = compare(np.repeat(values, 3), np.zeros(45), np.repeat(ids(15), 3).tolist(), ["a"] * 45).pooled
    once = compared(values, np.zeros(15))
    assert (repeated.n_cases, repeated.wins, repeated.losses) == (45, 39, 6)
    assert (repeated.p_value, repeated.shift) == (once.p_value, once.shift)
    assert repeated.difference.low == pytest.approx(once.difference.low)


def test_columns_and_sites_are_compared_each() -> None:
    found = compare(
        [[0.9, 5.0], [0.8, 6.0]], [[0.8, 4.0], [0.9, 4.0]], ids(2), ["a", "b"], lower_is_better=[False, True]
    )
    assert [(column.wins, column.losses) for column in found.pooled] == [(1, 1), (0, 2)]
    assert {site: columns[0].wins for site, columns in found.sites.items()} == {"a": 1, "b": 0}


def test_runs_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(1, 1\)"):
        compare([1.0, 2.0], [1.0], ids(2), ["a", "a"])


def test_the_shift_is_the_published_one() -> None:
    shift = hodges_lehmann(np.subtract(DEPRESSION_BEFORE, DEPRESSION_AFTER))
    assert shift == pytest.approx(0.46, abs=5e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 57])
def test_the_shift_is_the_median_of_all_pairwise_means(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n).round(1)
    pairs = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2)]
    assert hodges_lehmann(values) == pytest.approx(np.median(pairs), abs=1e-10)


def test_the_shift_of_nothing_is_none() -> None:
    assert hodges_lehmann([]) is None


def test_holm_adjusts_by_the_number_of_known_p_values() -> None:
    """Ascending p times 4, 3, 2, 1, never falling, at most 1."""
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
        pytest.approx(0.02),
    ]
    assert holm([None, None]) == [None, None]
    assert holm([]) == []
    assert holm([0.9]) == [pytest.approx(0.9)]
