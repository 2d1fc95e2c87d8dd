"""Signs of quality from a run's tables, and limits for them."""

import numpy as np
import pandas as pd
import pytest

from goat_ray.quality import SIGNS, Limit, signs

CASES = pd.DataFrame(
    [
        {"case_id": "b", "status": "ok", "members": ["M", "L"], "mean_entropy": 0.2, "mean_margin": 0.7},
        {"case_id": "a", "status": "ok", "members": ["M", "L"], "mean_entropy": None, "mean_margin": None},
        {"case_id": "c", "status": "failed", "members": None, "mean_entropy": None, "mean_margin": None},
        {"case_id": "d", "status": "ok", "members": ["M"], "mean_entropy": 0.4, "mean_margin": 0.1},
    ]
)
REGIONS = pd.DataFrame(
    [
        ("b", "WT", 0.9, 0.8, 4000.0, 2),
        ("b", "TC", 0.7, 0.6, 2000.0, 1),
        ("a", "WT", None, None, 0.0, 0),
        ("d", "WT", None, 0.6, 500.0, 1),
    ],
    columns=["case_id", "region", "member_dice_mean", "mean_probability", "pred_volume_mm3", "n_pred_components"],
)


def test_each_done_case_has_its_signs() -> None:
    found = signs(CASES, REGIONS)
    assert list(found.columns) == list(SIGNS)
    assert list(found.index) == ["a", "b", "d"]
    expected = {"dice_wt": 0.9, "dice_tc": 0.7, "confidence": 0.8, "entropy": 0.2, "margin": 0.7}
    assert found.loc["b", list(expected)].to_dict() == expected
    assert found.loc["b", ["wt_volume_ml", "wt_components"]].tolist() == [4, 2]


def test_members_that_all_find_nothing_agree_and_one_member_agrees_with_nobody() -> None:
    found = signs(CASES, REGIONS)
    assert found.loc["a", ["dice_wt", "dice_tc", "dice_et"]].tolist() == [1, 1, 1]
    assert np.isnan(found.loc["a", "confidence"])
    assert np.isnan(found.loc["d", "dice_wt"])


@pytest.mark.parametrize(
    ("limit", "outside", "text"),
    [
        (Limit("margin", at_least=0.5), [True, False, False, False], "margin >= 0.5"),
        (Limit("margin", at_most=0.5), [False, False, True, False], "margin <= 0.5"),
        (Limit("margin", 0.3, 0.5), [True, False, True, False], "margin >= 0.3 and margin <= 0.5"),
    ],
)
def test_a_limit_takes_its_edge_in_and_judges_nothing_unknown(limit: Limit, outside: list[bool], text: str) -> None:
    assert limit.outside(pd.Series([0.1, 0.5, 0.9, None], dtype=float)).tolist() == outside
    assert str(limit) == text
