"""Cases to check, found without any reference: published limits, empty and far-off predictions, odd grids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd

from goat_ray.quality import PUBLISHED_LIMITS, Limit, signs
from goat_ray.report.data import Cohort, Frame
from goat_ray.report.statistics import SMALL

FAR = 3.5
"""Robust z from which on a volume is far from the others' (Iglewicz and Hoaglin, How to Detect and Handle Outliers,
1993)."""
FEWEST_ALIKE = 3
"""Cases of one grid that make it the grid of a site, if they are more than half of its cases."""

COLUMNS = ("case_id", "site", "cohort", "flag", "value", "message")

_MAD_TO_SD = 1.4826  # of normal values
_SHORT = {
    "dice_wt": "members' Dice on WT",
    "dice_tc": "members' Dice on TC",
    "dice_et": "members' Dice on ET",
    "confidence": "probability of WT",
    "entropy": "entropy in WT",
    "margin": "margin in WT",
}
_SIZES, _SPACINGS = ([f"{name}_{axis}_{unit}" for axis in "xyz"] for name, unit in (("size", "vox"), ("spacing", "mm")))


@dataclass(frozen=True, slots=True)
class Flags:
    """What is odd about the done cases of a cohort.

    Attributes:
        marks: a row for each flag of a case, columns `COLUMNS`; sorted by case, its flags in the order of `heads`.
        heads: each flag that could be judged, and what its column is called.
        unknown: heads of the flags that could not be judged, and why.
    """

    marks: Frame
    heads: dict[str, str]
    unknown: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Facts:
    """Done cases, their signs and their rows of ET; all by case id."""

    done: Frame
    signs: Frame
    enhancing: Frame


_Judge: TypeAlias = Callable[[_Facts], "Frame | str"]
"""From facts to a value and a message for each marked case, or to why nothing can be judged."""


def find_flags(cohort: Cohort) -> Flags:
    """Judge every done case by every flag that the tables allow."""
    cases, regions = cohort.tables["cases"], cohort.tables["regions"]
    done = cohort.done.set_index("case_id").sort_index()
    enhancing = regions[regions["region"] == "ET"].set_index("case_id").reindex(done.index)
    facts = _Facts(done, signs(cases, regions), enhancing)
    judged = {flag: judge(facts) for flag, (_, judge) in _RULES.items()}
    found = {flag: marks.assign(flag=flag) for flag, marks in judged.items() if isinstance(marks, pd.DataFrame)}
    nothing = pd.DataFrame(columns=["value", "message", "flag"])
    marks = pd.concat([*found.values()] or [nothing]).sort_index(kind="stable").rename_axis("case_id").reset_index()
    marks = marks.assign(**{name: marks["case_id"].map(done[name]) for name in ("site", "cohort")})
    return Flags(
        marks[list(COLUMNS)],
        {flag: _RULES[flag][0] for flag in found},
        {_RULES[flag][0]: reason for flag, reason in judged.items() if isinstance(reason, str)},
    )


def _marks(values: pd.Series, messages: pd.Series) -> Frame:
    return pd.DataFrame({"value": values.astype(float), "message": messages.astype(object)})


def _beyond(limit: Limit, facts: _Facts) -> Frame | str:
    values = facts.signs[limit.sign]
    if values.isna().all():
        return "nothing is known of the members' agreement and confidence"
    values = values[limit.outside(values)]
    edge = limit.at_least if limit.at_least is not None else limit.at_most
    return _marks(values, values.map(lambda value: f"{_name(limit)} {value:.2f} (limit {edge:g})"))


def _name(limit: Limit) -> str:
    return _SHORT.get(limit.sign, limit.sign)


def _head(limit: Limit) -> str:
    edges = ((limit.at_least, "below"), (limit.at_most, "above"))
    told = " or ".join(f"{side} {edge:g}" for edge, side in edges if edge is not None)
    return f"{_name(limit)} {told}"


def _empty(facts: _Facts) -> Frame | str:
    volumes = facts.signs["wt_volume_ml"]
    if volumes.isna().all():
        return "no volume is known"
    volumes = volumes[volumes == 0]
    return _marks(volumes, volumes.map(lambda _: "no tumour predicted"))


def _far(facts: _Facts) -> Frame | str:
    volumes = facts.signs["wt_volume_ml"]
    logs = np.log(volumes[volumes > 0])
    deviation = _MAD_TO_SD * float((logs - logs.median()).abs().median()) if len(logs) else 0.0
    if len(logs) < SMALL or not deviation:
        return f"it takes {SMALL} predicted tumours that are not all of one size"
    z = (logs - logs.median()) / deviation
    z = z[z.abs() > FAR]
    middle = float(np.exp(logs.median()))
    return _marks(z, z.index.to_series().map(lambda case: f"WT of {volumes[case]:,.1f} ml, median {middle:,.1f} ml"))


def _odd_grid(facts: _Facts) -> Frame | str:
    known = facts.done.dropna(subset=[*_SIZES, *_SPACINGS])
    if known.empty:
        return "no grid is known"
    grids = _times(known[_SIZES].astype(int)) + " of " + _times(known[_SPACINGS].round(2)) + " mm"
    sites = known["site"]
    common = grids.groupby(sites).agg(lambda here: here.value_counts().index[0])
    alike = (grids == sites.map(common)).groupby(sites).agg(["sum", "mean"])
    settled = alike.index[(alike["sum"] >= FEWEST_ALIKE) & (alike["mean"] > 0.5)]
    odd = grids[sites.isin(settled) & (grids != sites.map(common))]
    told = [f"grid {grid}, else {common[sites[case]]}" for case, grid in odd.items()]
    return _marks(pd.Series(np.nan, index=odd.index), pd.Series(told, index=odd.index, dtype=object))


def _times(columns: Frame) -> pd.Series:
    """Three numbers of each row as a×b×c."""
    first, second, third = (columns[name].map("{:g}".format) for name in columns)
    return first + "×" + second + "×" + third


def _emptied(facts: _Facts) -> Frame | str:
    before, after = facts.enhancing["raw_volume_mm3"], facts.enhancing["pred_volume_mm3"]
    if before.isna().all():
        return "the volumes before postprocessing are not known"
    removed = before[(before > 0) & (after == 0)] / 1000
    return _marks(removed, removed.map(lambda ml: f"all ET removed by postprocessing ({ml:.3f} ml)"))


_RULES: Mapping[str, tuple[str, _Judge]] = {
    **{limit.sign: (_head(limit), partial(_beyond, limit)) for limit in PUBLISHED_LIMITS},
    "empty": ("no tumour predicted", _empty),
    "volume": ("volume far from the others'", _far),
    "grid": ("grid unlike its site's", _odd_grid),
    "et_removed": ("all ET removed", _emptied),
}
