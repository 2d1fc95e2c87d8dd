"""Sites at equal lesion size: against a dense computation of the same model, and where the truth is known."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import optimize, stats

from goat_ray.report.adjusted import Adjusted, at_equal_size
from goat_ray.report.blocks import Table
from goat_ray.report.sections.between import equal_size
from goat_ray.report.statistics import SMALL, Estimate
from tests.report.runs import cohort_of


def ids(n: int) -> list[str]:
    return [f"patient-{number:03d}" for number in range(n)]


def simulated(
    counts: Sequence[int], effects: Sequence[float], sizes: Sequence[float], seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores, volumes (mm³) and sites: 0.15 per tenfold volume, plus the effect of the site, plus noise."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(counts)), counts)
    size = rng.normal(np.array(sizes)[site], 0.4)
    scores = 0.2 + 0.15 * size + np.array(effects)[site] + rng.normal(0, 0.05, len(site))
    return scores, 10**size, [f"site {number}" for number in site]


def adjusted(scores: Sequence[float], volumes: Sequence[float], sites: Sequence[str]) -> Adjusted:
    return at_equal_size(scores, volumes, ["GLI"] * len(sites), ids(len(sites)), sites)


def test_small_lesions_do_not_make_a_site_worse_and_large_ones_do_not_hide_that_it_is() -> None:
    scores, volumes, sites = simulated([60] * 5, [0, 0, 0, 0, -0.1], [3, 4, 4, 4, 5])
    found = adjusted(scores, volumes, sites)
    small, worse = found.sites["site 0"], found.sites["site 4"]
    assert small.raw < -0.1
    assert worse.raw > 0.02  # it looks better than the others
    assert worse.is_apart
    assert worse.adjusted == pytest.approx(-0.08, abs=0.02)  # -0.1 less the mean of all sites, -0.02
    assert small.low is not None
    assert small.high is not None
    assert small.low < 0.02 < small.high
    assert found.per_tenfold == pytest.approx(0.15, abs=0.02)


def test_effects_and_intervals_are_those_of_the_dense_equations() -> None:
    scores, volumes, sites = simulated([12, 25, 40, 18, 4], [0.05, -0.04, 0, 0.03, -0.06], [4, 3.5, 4, 4.5, 4], seed=3)
    found = adjusted(scores, volumes, sites)
    n, names = len(sites), sorted(set(sites))
    x = np.column_stack([np.ones(n), np.log10(volumes)])
    z = np.array([[site == name for name in names] for site in sites], float)

    def parts(ratio: float) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Restricted likelihood of the ratio of variances, the variance within profiled out."""
        inverse = np.linalg.inv(np.eye(n) + ratio * z @ z.T)
        gram = x.T @ inverse @ x
        projection = inverse - inverse @ x @ np.linalg.inv(gram) @ x.T @ inverse
        within = scores @ projection @ scores / (n - 2)
        loss = (n - 2) * np.log(within) - np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(gram)[1]
        return projection, inverse, within, float(loss)

    best = optimize.minimize_scalar(lambda log: parts(np.exp(log))[3], bounds=(-8, 4), method="bounded")
    ratio = np.exp(best.x)
    projection, _, within, _ = parts(ratio)
    effects = ratio * z.T @ projection @ scores
    spread = within * (ratio * np.eye(5) - ratio**2 * z.T @ projection @ z)
    centred = spread - spread.mean(axis=0) - spread.mean(axis=1)[:, None] + spread.mean()
    reach = stats.t.ppf(0.975, 4) * np.sqrt(np.diag(centred))
    for place, name in enumerate(names):
        own = found.sites[name]
        assert own.adjusted == pytest.approx(effects[place], abs=2e-4)
        assert own.patients == sites.count(name)
        if own.patients < SMALL:
            assert (own.low, own.high, own.is_apart) == (None, None, False)
        else:
            assert own.low == pytest.approx(effects[place] - reach[place], abs=5e-4)
            assert own.high == pytest.approx(effects[place] + reach[place], abs=5e-4)
    means = [np.mean(scores[np.array(sites) == name]) for name in names]
    assert [found.sites[name].raw for name in names] == pytest.approx(np.array(means) - np.mean(means))


def test_cases_of_a_patient_count_once_and_rows_may_come_in_any_order() -> None:
    scores, volumes, sites = simulated([20] * 4, [0.05, -0.05, 0.02, 0], [4] * 4)
    once = adjusted(scores, volumes, sites)
    order = np.random.default_rng(1).permutation(80)
    twice = at_equal_size(
        np.tile(scores, 2)[np.r_[order, order + 80]],
        np.tile(volumes, 2)[np.r_[order, order + 80]],
        ["GLI"] * 160,
        np.tile(ids(80), 2)[np.r_[order, order + 80]].tolist(),
        np.tile(sites, 2)[np.r_[order, order + 80]].tolist(),
    )
    assert once == twice


def test_cases_without_the_region_or_a_score_do_not_count() -> None:
    scores, volumes, sites = simulated([20] * 4, [0.05, -0.05, 0.02, 0], [4] * 4)
    more = adjusted([*scores, 0.0, np.nan], [*volumes, 0.0, 100.0], [*sites, "site 0", "site 1"])
    assert more == adjusted(scores, volumes, sites)


def test_no_site_is_apart_where_all_scatter_alike() -> None:
    rng = np.random.default_rng(2)
    size, noise = rng.normal(4, 0.5, 30), rng.normal(0, 0.05, 30)
    found = adjusted(np.tile(0.1 * size + noise, 4), np.tile(10**size, 4), np.repeat(list("abcd"), 30).tolist())
    assert not found.problem
    assert not found.has_variance
    assert [(site.adjusted, site.low, site.is_apart) for site in found.sites.values()] == [(0.0, None, False)] * 4


def test_the_cohort_is_adjusted_for_where_it_can_be_told_from_the_site() -> None:
    scores, volumes, sites = simulated([30] * 4, [0, 0, -0.2, -0.2], [4] * 4)
    cohorts = np.repeat(["GLI", "MET"], 60).tolist()
    found = at_equal_size(scores, volumes, cohorts, ids(120), sites)
    assert found.is_by_cohort
    assert max(abs(site.raw) for site in found.sites.values()) > 0.08
    assert max(abs(site.adjusted) for site in found.sites.values()) < 0.02
    alone = at_equal_size(scores, volumes, ["MET" if site == "site 3" else "GLI" for site in sites], ids(120), sites)
    assert not alone.is_by_cohort


@pytest.mark.parametrize(
    ("scores", "volumes", "sites", "problem"),
    [
        ([0.5] * 40, np.arange(1, 41), list("abcd") * 10, "all scores are alike"),
        (np.arange(40) / 40, [500.0] * 40, list("abcd") * 10, "all lesions are alike"),
        (np.arange(40) / 40, np.arange(1, 41), list("ab") * 20, r"only 2 site\(s\)"),
        (np.arange(9) / 9, np.arange(1, 10), list("abc") * 3, "only 9 patients at 3 sites"),
        (np.arange(12) / 12, np.arange(1, 13), list("abcdefghijkl"), "only 12 patients at 12 sites"),
        (np.arange(40) / 40, [0.0] * 40, list("abcd") * 10, r"only 0 site\(s\)"),
        ([], [], [], r"only 0 site\(s\)"),
    ],
)
def test_what_cannot_be_fitted_is_told(
    scores: Sequence[float], volumes: Sequence[float], sites: Sequence[str], problem: str
) -> None:
    found = adjusted(scores, volumes, sites)
    assert not found.sites
    assert re.search(problem, found.problem)


@pytest.mark.parametrize("seed", range(6))
def test_odd_data_neither_warn_nor_crash(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(10, 40)), int(rng.integers(3, 8))
    sites = [f"site {number}" for number in [*range(m), *rng.integers(0, 2, n)]]
    scores = rng.choice([0.0, 1.0, 1 - 5e-9], n + m)
    found = adjusted(scores, 10 ** rng.choice([0.0, 1e-8, 6.0], n + m), sites)
    assert bool(found.problem) != bool(found.sites)
    assert all(np.isfinite([site.raw, site.adjusted]).all() for site in found.sites.values())


def test_the_section_has_a_table_for_what_is_fitted_and_says_why_the_rest_is_not() -> None:
    scores, volumes, sites = simulated([60, 60, 60, 60, 5], [0, 0, 0, -0.1, 0], [3, 4, 4, 5, 4])
    rows = [
        {"case_id": f"case-{number:03d}", "site": site, "region": region, "spec": "x", "official": True}
        | {"lw_dice": score if region == "WT" else 1.0, "gt_volume_mm3": volume}
        for number, (score, volume, site) in enumerate(zip(scores, volumes, sites, strict=True))
        for region in ("WT", "TC")
    ]
    section = equal_size(cohort_of(regions=rows))
    (found,) = (block for block in section.blocks if isinstance(block, Table))
    (worse,) = (row for row in found.rows if row[0] == "site 3")
    (few,) = (row for row in found.rows if row[0] == "site 4")
    assert worse[1:3] == ["yes", 60]
    assert isinstance(worse[4], Estimate)
    assert worse[4].high is not None
    assert worse[4].high < 0
    assert few[1:3] == ["not judged", 5]
    assert "lesion size" in found.caption
    assert "TC, x: not fitted, because all scores are alike." in section.text
