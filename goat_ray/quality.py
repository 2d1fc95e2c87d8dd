"""What a run's tables tell of each prediction without any reference: signs of its quality, and limits for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

_DICE = {"dice_wt": "WT", "dice_tc": "TC", "dice_et": "ET"}

SIGNS: Mapping[str, str] = {
    "dice_wt": "agreement of the members on WT (mean Dice of pairs)",
    "dice_tc": "agreement of the members on TC (mean Dice of pairs)",
    "dice_et": "agreement of the members on ET (mean Dice of pairs)",
    "confidence": "mean probability of WT in the predicted WT",
    "entropy": "mean entropy in the predicted WT (nats)",
    "margin": "mean lead of the likeliest label in the predicted WT",
    "wt_volume_ml": "predicted WT (ml)",
    "wt_components": "separate pieces of the predicted WT",
}
"""Columns of `signs`, and what each of them is."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A range that a sign is to stay in; values on the edge are inside."""

    sign: str
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        parts = ((">=", self.at_least), ("<=", self.at_most))
        return " and ".join(f"{self.sign} {mark} {value:g}" for mark, value in parts if value is not None)

    def outside(self, values: pd.Series) -> "pd.Series[bool]":
        """Which values leave the range; unknown ones do not."""
        below = values < self.at_least if self.at_least is not None else False
        above = values > self.at_most if self.at_most is not None else False
        return pd.Series(below | above, index=values.index, dtype=bool)


PUBLISHED_LIMITS = (
    Limit("dice_wt", at_least=0.85),
    Limit("dice_tc", at_least=0.70),
    Limit("dice_et", at_least=0.50),
    Limit("confidence", at_least=0.70),
    Limit("entropy", at_most=0.35),
    Limit("margin", at_least=0.20),
)
"""The gates of a 2026 BraTS-GoAT entry, which kept 983 of 1,138 pseudo-labelled cases; its two teacher families were
compared with each other, ours are all members pair by pair."""


def signs(cases: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """The columns `SIGNS` for each done case, by case id, ascending; NaN where a sign is unknown.

    Args:
        cases: the table of that name.
        regions: the table of that name.
    """
    done = cases[cases["status"] == "ok"].set_index("case_id").sort_index()
    by_region = {str(name): rows.set_index("case_id") for name, rows in regions.groupby("region")}
    found = pd.DataFrame(index=done.index, columns=list(SIGNS), dtype=float)
    several = done["members"].map(lambda members: members is not None and len(members) > 1)
    for sign, region in _DICE.items():
        agreement = _column(by_region, region, "member_dice_mean", done.index)
        found[sign] = agreement.mask(agreement.isna() & several, 1.0)  # where no member found any, all agree
    found["confidence"] = _column(by_region, "WT", "mean_probability", done.index)
    found["entropy"], found["margin"] = done["mean_entropy"], done["mean_margin"]
    found["wt_volume_ml"] = _column(by_region, "WT", "pred_volume_mm3", done.index) / 1000
    found["wt_components"] = _column(by_region, "WT", "n_pred_components", done.index)
    return found.astype(float)


def _column(by_region: Mapping[str, pd.DataFrame], region: str, name: str, case_ids: pd.Index) -> pd.Series:
    if region not in by_region:
        return pd.Series(float("nan"), index=case_ids)
    return by_region[region][name].reindex(case_ids).astype(float)
