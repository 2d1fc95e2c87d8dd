"""Sensitivity by lesion size and false positives per case."""

import math

import numpy as np
import pytest

from goat_ray.report.detection import false_positives, sensitivities
from goat_ray.report.statistics import Estimate, wilson

GENERATOR = np.random.default_rng(7)


def ids(n: int) -> list[str]:
    return [f"patient-{index:05d}" for index in range(n)]


def test_lesions_are_counted_by_size_and_lower_edges_belong_to_their_bin() -> None:
    volumes = [1.0, 26.9, 27.0, 99.0, 100.0, 5000.0, 1e6]
    found = sensitivities(volumes, [0, 1, 1, 1, 0, 1, 1], ["p", "q", "q", "q", "q", "q", "q"], ["a"] * 7).pooled
    assert [(row.low_mm3, row.high_mm3, row.detected, row.lesions, row.share.n) for row in found] == [
        (0.0, None, 5, 7, 2),
        (0.0, 27.0, 1, 2, 2),
        (27.0, 100.0, 2, 2, 1),
        (100.0, 500.0, 0, 1, 1),
        (500.0, 1000.0, 0, 0, 0),
        (1000.0, 5000.0, 0, 0, 0),
        (5000.0, None, 2, 2, 1),
    ]
    assert found[0].share.value == 5 / 7
    assert found[4].share == Estimate(None, None, None, 0)


def test_sensitivity_is_told_by_site_too() -> None:
    found = sensitivities([50.0, 50.0, 50.0], [1, 0, 1], ["p", "q", "p"], ["b", "b", "a"])
    assert {site: (rows[0].detected, rows[0].lesions) for site, rows in found.sites.items()} == {
        "a": (1, 1),
        "b": (1, 2),
    }


def test_one_lesion_per_patient_has_wilsons_interval() -> None:
    detected = [True] * 81 + [False] * 182
    assert sensitivities(np.full(263, 50.0), detected, ids(263), ["a"] * 263).pooled[0].share == wilson(81, 263)


def test_lesions_of_one_patient_do_not_count_as_independent() -> None:
    """All ten lesions of a patient are found or none: the interval is as wide as with one each."""
    is_found = GENERATOR.random(80) < 0.75
    lesions = np.repeat(is_found, 10)
    share = sensitivities(np.full(800, 50.0), lesions, np.repeat(ids(80), 10).tolist(), ["a"] * 800).pooled[0].share
    alone = wilson(int(is_found.sum()), 80)
    naive = wilson(int(lesions.sum()), 800)
    assert share.high - share.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert share.high - share.low > 2.5 * (naive.high - naive.low)


def test_false_positives_are_per_scored_case() -> None:
    found = false_positives([0.0, 3.0, math.nan, 1.0], ids(4), ["a", "a", "a", "b"])
    assert (found.pooled.n_cases, found.pooled.total) == (3, 4)
    assert found.pooled.per_case == Estimate(4 / 3, None, None, 3)
    assert found.pooled.none == Estimate(1 / 3, None, None, 3)
    assert found.sites["b"].none.value == 0.0


def test_false_positives_of_many_cases_have_intervals() -> None:
    counts = GENERATOR.poisson(2.0, 400)
    found = false_positives(counts, ids(400), ["a"] * 400).pooled
    error = counts.std(ddof=1) / math.sqrt(400)
    assert found.per_case.high - found.per_case.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.none == wilson(int((counts == 0).sum()), 400)


def test_no_false_positive_anywhere_has_an_interval_for_the_share_alone() -> None:
    found = false_positives(np.zeros(20), ids(20), ["a"] * 20).pooled
    assert found.per_case == Estimate(0.0, None, None, 20)
    assert found.none == wilson(20, 20)


def test_nothing_gives_nothing() -> None:
    assert sensitivities([], [], [], []).pooled[0].share == Estimate(None, None, None, 0)
    found = false_positives([], [], []).pooled
    assert (found.n_cases, found.total, found.per_case.value) == (0, 0, None)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        sensitivities([1.0, 2.0], [True], ids(2), ["a", "a"])
