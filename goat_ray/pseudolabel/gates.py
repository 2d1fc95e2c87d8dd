"""Gates: limits on the signs of a prediction's quality, and which predictions pass them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from goat_ray.pseudolabel.config import GatesConfig
from goat_ray.quality import PUBLISHED_LIMITS, SIGNS, Limit


def limits_of(gates: GatesConfig) -> tuple[Limit, ...]:
    """The limits that a configuration sets, in the order of `SIGNS`; a value of its own replaces the preset's."""
    chosen = {limit.sign: limit for limit in PUBLISHED_LIMITS} if gates.preset == "strict" else {}
    for sign in SIGNS:
        least, most = (getattr(gates, f"{sign}_{end}", None) for end in ("min", "max"))
        if least is not None or most is not None:
            chosen[sign] = Limit(sign, least, most)
    return tuple(chosen[sign] for sign in SIGNS if sign in chosen)


def breaks(signs: pd.DataFrame, limit: Limit) -> "pd.Series[bool]":
    """Which cases a gate keeps out: those outside its limit, and those whose sign is unknown."""
    values = signs[limit.sign]
    return limit.outside(values) | values.isna()


def why_out(signs: pd.DataFrame, limits: Sequence[Limit]) -> "pd.Series[str]":
    """For each case the gates that keep it out and what they saw, in words; empty where it passes all."""
    told = pd.Series("", index=signs.index, dtype=object)
    for limit in limits:
        out = breaks(signs, limit)
        told[out] += [_words(limit, value) for value in signs.loc[out, limit.sign]]
    return told.str.removesuffix("; ")


def best_first(signs: pd.DataFrame) -> "pd.Index[str]":
    """Case ids by how far the members agree on WT, then by confidence, then by id; unknown ones last."""
    return signs.sort_index().sort_values(["dice_wt", "confidence"], ascending=False).index


def _words(limit: Limit, value: float) -> str:
    found = f"is {value:.3g}" if not np.isnan(value) else "is unknown"
    return f"{limit.sign} {found}, not {str(limit).removeprefix(limit.sign).strip()}; "
