"""Which cases become pseudo-labels: leak guards, gates and caps, each refusal with its reason."""

from collections.abc import Mapping
from enum import StrEnum

import pandas as pd

from goat_ray.pseudolabel.config import GatesConfig
from goat_ray.pseudolabel.gates import best_first, limits_of, why_out


class Reason(StrEnum):
    """Why a case is not in the dataset."""

    FAILED = "failed"
    SKIPPED = "skipped"
    LABELLED_ID = "labelled_id"
    LABELLED_SCAN = "labelled_scan"
    DUPLICATE_SCAN = "duplicate_scan"
    GATE = "gate"
    SITE_CAP = "site_cap"


def select(
    cases: pd.DataFrame, signs: pd.DataFrame, gates: GatesConfig, labelled_scans: Mapping[str, str]
) -> pd.DataFrame:
    """Decide on every predicted case.

    Args:
        cases: the run's table `cases`.
        signs: of its done cases, see `quality.signs`.
        gates: which predictions are good enough.
        labelled_scans: the labelled case that shows each scan, by `scan_sha256`.

    Returns:
        By case id, ascending: `accepted`, and `reason` (of `Reason`) and `detail` where it is not; None where it is.
    """
    cases = cases.set_index("case_id").sort_index()
    decisions = pd.DataFrame({"accepted": True, "reason": None, "detail": None}, index=cases.index, dtype=object)
    failed = cases["status"] != "ok"
    _refuse(decisions, Reason.FAILED, cases.loc[failed, "failure_category"])
    scans = cases.loc[~failed, "scan_sha256"]
    _refuse(decisions, Reason.LABELLED_SCAN, _shows(scans[scans.isin(list(labelled_scans))], labelled_scans))
    scans = scans[_open(decisions, scans.index)]
    firsts = {scan: str(case_id) for case_id, scan in reversed(list(scans.items()))}
    _refuse(decisions, Reason.DUPLICATE_SCAN, _shows(scans[scans.duplicated()], firsts))
    told = why_out(signs, limits_of(gates))
    _refuse(decisions, Reason.GATE, told[(told != "") & _open(decisions, told.index)])
    if gates.site_cap is not None:
        _refuse(decisions, Reason.SITE_CAP, _beyond_cap(decisions, cases["site"], signs, gates.site_cap))
    return decisions.astype({"accepted": bool})


def eligible(decisions: pd.DataFrame) -> "pd.Index[str]":
    """The cases that gates decide on: predicted, and shown by no other case of the dataset."""
    judged = decisions["accepted"] | decisions["reason"].isin([Reason.GATE, Reason.SITE_CAP])
    return decisions.index[judged]


def _open(decisions: pd.DataFrame, case_ids: pd.Index) -> "pd.Series[bool]":
    return decisions.loc[case_ids, "accepted"].astype(bool)


def _refuse(decisions: pd.DataFrame, reason: Reason, details: pd.Series) -> None:
    decisions.loc[details.index, "accepted"] = False
    decisions.loc[details.index, "reason"] = str(reason)
    decisions.loc[details.index, "detail"] = details


def _shows(scans: pd.Series, owners: Mapping[str, str]) -> pd.Series:
    return scans.map(lambda scan: f"shows the scan of {owners[scan]}")


def _beyond_cap(decisions: pd.DataFrame, sites: pd.Series, signs: pd.DataFrame, cap: int) -> pd.Series:
    """The cases that a site has too many of; cases without a site are of one site together."""
    ranked = best_first(signs[_open(decisions, signs.index)])
    places = sites[ranked].fillna("").groupby(sites[ranked].fillna("")).cumcount()
    beyond = places[places >= cap]
    return beyond.map(lambda place: f"number {place + 1} of its site, which may have {cap}")
