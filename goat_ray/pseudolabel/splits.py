"""Folds of a mixed dataset: labelled cases in turn, pseudo-labelled ones in training only, patients never in both."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from goat_ray.errors import ConfigError

SEED = 20250917


@dataclass(frozen=True, slots=True)
class Member:
    """A case of the dataset as folds see it: cases of a patient stay together, and folds are alike in strata."""

    case_id: str
    patient: str
    stratum: str = ""


def held_together(patients: Sequence[str], scans: Sequence[str | None]) -> list[str]:
    """What holds each case to others, by name: its patient, or one who shares a scan with that patient."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    for patient, scan in zip(patients, scans, strict=True):
        if scan:
            above[top(f"\0{scan}")] = top(patient)
    return [top(patient) for patient in patients]


def check_patients(patients: Iterable[str], n_folds: int) -> None:
    """Require as many patients as folds; raises `ConfigError`."""
    n_patients = len(set(patients))
    if n_patients < n_folds:
        raise ConfigError(f"{n_patients} labelled patient(s) cannot make {n_folds} folds; ask for fewer --folds")


def make_folds(human: Sequence[Member], pseudo: Sequence[Member], n_folds: int) -> list[dict[str, list[str]]]:
    """Folds in the form of nnU-Net's `splits_final.json`: a list of `train` and `val`, ids ascending.

    Each labelled case is in `val` once. Folds have alike shares of each stratum, as far as patients, whose cases stay
    together, allow; strata of fewer patients than folds count as one. A pseudo-labelled case trains in every fold
    that its patient is not in `val` of.

    Args:
        human: labelled cases.
        pseudo: pseudo-labelled cases.
        n_folds: how many folds.

    Raises:
        ConfigError: there are fewer labelled patients than folds.
    """
    human = sorted(human, key=lambda member: member.case_id)
    check_patients([member.patient for member in human], n_folds)
    return [_fold(human, pseudo, set(held_out)) for held_out in _held_out(human, n_folds)]


def _fold(human: Sequence[Member], pseudo: Sequence[Member], held_out: set[int]) -> dict[str, list[str]]:
    val = [member for index, member in enumerate(human) if index in held_out]
    patients = {member.patient for member in val}
    train = [member.case_id for member in (*human, *pseudo) if member.patient not in patients]
    return {"train": sorted(train), "val": [member.case_id for member in val]}


def _held_out(human: Sequence[Member], n_folds: int) -> list[list[int]]:
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=SEED)
    nothing = np.zeros(len(human))
    with warnings.catch_warnings():
        # Cases of one stratum may be of fewer patients than there are folds; they are spread as far as they go.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        found = splitter.split(nothing, _strata(human, n_folds), [member.patient for member in human])
        return [held_out.tolist() for _, held_out in found]


def _strata(human: Sequence[Member], n_folds: int) -> list[str]:
    """The stratum of each case; rare ones are one together, and that one joins the commonest if it is rare too."""
    counts: dict[str, int] = {}
    for member in human:
        counts[member.stratum] = counts.get(member.stratum, 0) + 1
    rare = {stratum for stratum, count in counts.items() if count < n_folds}
    common = sorted(counts.keys() - rare, key=lambda stratum: (-counts[stratum], stratum))
    rest = "\0rare" if sum(counts[stratum] for stratum in rare) >= n_folds or not common else common[0]
    return [rest if member.stratum in rare else member.stratum for member in human]
