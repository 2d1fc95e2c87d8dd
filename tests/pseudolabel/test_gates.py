"""Gates: what configurations mean, and which predictions pass."""

import numpy as np
import pandas as pd
import pytest

from goat_ray.pseudolabel.config import GatesConfig
from goat_ray.pseudolabel.gates import best_first, breaks, limits_of, why_out
from goat_ray.quality import PUBLISHED_LIMITS, SIGNS, Limit


def signs(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({sign: columns.get(sign, [1.0] * n) for sign in SIGNS}, index=[f"c{i}" for i in range(n)])


def test_by_default_no_gate_is_set() -> None:
    assert limits_of(GatesConfig()) == ()


def test_strict_is_what_was_published() -> None:
    assert limits_of(GatesConfig(preset="strict")) == PUBLISHED_LIMITS
    published = {limit.sign: limit.at_least or limit.at_most for limit in PUBLISHED_LIMITS}
    assert published == {
        "dice_wt": 0.85,
        "dice_tc": 0.70,
        "dice_et": 0.50,
        "confidence": 0.70,
        "entropy": 0.35,
        "margin": 0.20,
    }


def test_a_value_of_its_own_replaces_the_presets_and_volumes_have_two_ends() -> None:
    gates = GatesConfig(preset="strict", dice_wt_min=0.5, wt_volume_ml_min=1, wt_volume_ml_max=200)
    limits = {limit.sign: limit for limit in limits_of(gates)}
    assert limits["dice_wt"] == Limit("dice_wt", at_least=0.5)
    assert limits["wt_volume_ml"] == Limit("wt_volume_ml", 1, 200)
    assert len(limits) == len(PUBLISHED_LIMITS) + 1


@pytest.mark.parametrize("name", [name for name in GatesConfig.model_fields if name not in ("preset", "site_cap")])
def test_every_gate_of_the_configuration_reaches_its_sign(name: str) -> None:
    (limit,) = limits_of(GatesConfig.model_validate({name: 1}))
    assert name.startswith(limit.sign)
    assert (limit.at_least, limit.at_most) == ((1, None) if name.endswith("_min") else (None, 1))


def test_an_unknown_sign_passes_no_gate() -> None:
    found = breaks(signs(confidence=[0.9, 0.2, np.nan]), Limit("confidence", at_least=0.7))
    assert found.tolist() == [False, True, True]


def test_a_refusal_names_each_gate_and_what_it_saw() -> None:
    told = why_out(signs(dice_wt=[0.9, 0.5], entropy=[0.1, np.nan]), limits_of(GatesConfig(preset="strict")))
    assert told.tolist() == ["", "dice_wt is 0.5, not >= 0.85; entropy is unknown, not <= 0.35"]


def test_the_surest_come_first_and_ties_go_by_id() -> None:
    ranked = best_first(signs(dice_wt=[0.5, 0.9, np.nan, 0.9, 0.9], confidence=[1, 0.7, 1, 0.8, 0.7]))
    assert list(ranked) == ["c3", "c1", "c4", "c0", "c2"]
