"""Pooling the means of sites."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from goat_ray.report.pooling import pool
from goat_ray.report.statistics import means

KACKER_MEANS = (61.0, 61.4, 62.21, 62.3, 62.34, 62.6, 62.7, 62.84, 65.9)
KACKER_VARIANCES = (0.2025, 1.21, 0.09, 0.2025, 0.3844, 0.5625, 0.0676, 0.0225, 1.8225)
"""Nine laboratories, Kacker, Metrologia 2004;41:132."""


def sites_with(site_means: list[float], variances: list[float]) -> tuple[list[float], list[str], list[str]]:
    """Two patients per site whose mean has this variance: half their squared difference, by two."""
    pairs = [(mean - math.sqrt(v), mean + math.sqrt(v)) for mean, v in zip(site_means, variances, strict=True)]
    values = [value for pair in pairs for value in pair]
    return values, [f"p{i}" for i in range(len(values))], [f"site-{i // 2}" for i in range(len(values))]


def kacker() -> tuple[list[float], list[str], list[str]]:
    return sites_with(list(KACKER_MEANS), list(KACKER_VARIANCES))


def test_random_effects_are_those_of_metafor() -> None:
    """`rma(y, v, method="PM")`: mean, tau² and standard error; at Paule and Mandel's root the HKSJ scale is 1."""
    found = pool(*kacker()).random_effects
    assert found is not None
    assert found.value == pytest.approx(62.4076199113286, abs=1e-6)
    assert found.tau2 == pytest.approx(0.705395309224248, rel=1e-5)
    assert found.high - found.value == pytest.approx(2.306004 * 0.338030602684471, rel=1e-5)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    assert found.i2 == pytest.approx(1 - 8 / 24.801897741835)  # Higgins and Thompson, from metafor's Q


def test_the_interval_of_a_new_site_adds_the_variance_between_sites() -> None:
    found = pool(*kacker()).random_effects
    assert found is not None
    assert found.new_site_high is not None
    assert found.new_site_low is not None
    reach = 2.364624 * math.sqrt(0.705395309224248 + 0.338030602684471**2)  # t with 7 degrees of freedom
    assert found.new_site_high - found.value == pytest.approx(reach, rel=1e-5)
    assert found.value - found.new_site_low == pytest.approx(reach, rel=1e-5)


def test_leaving_one_site_out_gives_what_the_others_give() -> None:
    values, patients, sites = kacker()
    found = pool(values, patients, sites).random_effects
    assert found is not None
    assert found.leave_one_out is not None
    without = {}
    for site in found.sites:
        rest = [i for i, name in enumerate(sites) if name != site]
        others = pool([values[i] for i in rest], [patients[i] for i in rest], [sites[i] for i in rest]).random_effects
        assert others is not None
        without[site] = others.value
    assert found.leave_one_out.low == pytest.approx(min(without.values()))
    assert found.leave_one_out.high == pytest.approx(max(without.values()))
    assert found.leave_one_out.low_without == min(without, key=lambda site: without[site])


def test_means_by_case_and_by_site_differ_with_sizes() -> None:
    found = pool([1.0, 1.0, 4.0, math.nan], ["p", "q", "r", "s"], ["a", "a", "b", "c"])
    assert (found.n_cases, found.case_weighted, found.site_weighted) == (3, 2.0, 2.5)
    assert (found.random_effects, found.left_out) == (None, ("a", "b"))


def test_sites_that_agree_are_not_given_a_narrower_interval_than_their_own_spread() -> None:
    """HKSJ alone would give the width 0 here."""
    found = pool(*sites_with([0.8, 0.8, 0.8], [1e-4, 1e-4, 1e-4])).random_effects
    assert found is not None
    assert (found.tau2, found.i2) == (0.0, 0.0)
    assert found.high - found.value == pytest.approx(stats.t.isf(0.025, 2) * math.sqrt(1e-4 / 3))


def test_a_site_without_spread_is_left_out_and_told() -> None:
    values, patients, sites = sites_with([0.7, 0.8, 0.9], [1e-4, 1e-4, 1e-4])
    perfect, official = [1.0, 1.0], [1.0, 1 - 5e-9]
    found = pool(
        [*values, *perfect, *official, 0.5],
        [*patients, "v", "w", "x", "y", "z"],
        [*sites, "perfect", "perfect", "official", "official", "single"],
    )
    assert found.left_out == ("official", "perfect", "single")
    assert found.random_effects == pool(values, patients, sites).random_effects
    assert found.site_weighted == pytest.approx((0.7 + 0.8 + 0.9 + 1 + 1 + 0.5) / 6)


def test_two_sites_have_a_mean_but_no_interval_for_a_new_one() -> None:
    found = pool(*sites_with([0.7, 0.9], [1e-4, 1e-4])).random_effects
    assert found is not None
    assert (found.new_site_low, found.new_site_high, found.leave_one_out) == (None, None, None)
    assert found.value == pytest.approx(0.8)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_nothing_gives_nothing(values: list[float]) -> None:
    found = pool(values, ["p", "q"][: len(values)], ["a", "a"][: len(values)])
    assert (found.n_cases, found.case_weighted, found.site_weighted, found.random_effects) == (0, None, None, None)


def test_one_site_has_means_alone() -> None:
    found = pool([0.5, 0.7], ["p", "q"], ["a", "a"])
    assert (found.case_weighted, found.site_weighted, found.random_effects, found.left_out) == (0.6, 0.6, None, ())


def test_repeated_cases_of_a_patient_do_not_make_a_site_more_precise() -> None:
    values, patients, sites = kacker()
    repeated = pool([v for v in values for _ in range(5)], [p for p in patients for _ in range(5)], np.repeat(sites, 5))
    assert repeated.n_cases == 90
    assert repeated.random_effects is not None
    assert repeated.random_effects.low == pytest.approx(pool(values, patients, sites).random_effects.low)


def test_the_mean_by_case_is_the_one_that_has_an_interval_elsewhere() -> None:
    values, patients, sites = kacker()
    assert pool(values, patients, sites).case_weighted == pytest.approx(means(values, patients, sites).pooled[0].value)


def test_order_of_rows_does_not_matter() -> None:
    values, patients, sites = kacker()
    order = np.random.default_rng(0).permutation(len(values))
    shuffled = pool([values[i] for i in order], [patients[i] for i in order], [sites[i] for i in order])
    assert shuffled == pool(values, patients, sites)


@pytest.mark.parametrize("seed", range(40))
def test_paule_and_mandels_equation_holds_for_any_sites(seed: int) -> None:
    """Also for very unequal precision, where statsmodels alone stops early or answers 0."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 30))
    variances = 10 ** rng.uniform(-10, -2, k)
    site_means = 0.9 + 10 ** rng.uniform(-3, 0) * rng.normal(size=k)
    found = pool(*sites_with(site_means.tolist(), variances.tolist())).random_effects
    assert found is not None

    def excess(tau2: float) -> float:
        weights = 1 / (variances + tau2)
        return float((weights * (site_means - np.average(site_means, weights=weights)) ** 2).sum() - (k - 1))

    expected = optimize.brentq(excess, 0, 1e4, xtol=1e-14) if excess(0) > 0 else 0.0
    assert found.tau2 == pytest.approx(expected, rel=1e-4, abs=1e-9)
