"""Which cases become pseudo-labels, and the reason for every other."""

import pandas as pd

from goat_ray.pseudolabel.config import GatesConfig
from goat_ray.pseudolabel.selection import eligible, select
from goat_ray.quality import SIGNS

CASES = pd.DataFrame(
    [
        ("e", "ok", None, "north", "scan-e"),
        ("a", "ok", None, "north", "scan-a"),
        ("b", "failed", "unreadable_file", "north", None),
        ("c", "ok", None, "south", "scan-of-expert"),
        ("d", "ok", None, "south", "scan-a"),
        ("f", "ok", None, "north", "scan-f"),
        ("g", "ok", None, None, "scan-g"),
        ("h", "ok", None, None, "scan-h"),
    ],
    columns=["case_id", "status", "failure_category", "site", "scan_sha256"],
)
SIGNS_OF = pd.DataFrame(1.0, index=sorted(set("acdefgh")), columns=list(SIGNS)).assign(
    dice_wt=[0.9, 1, 1, 0.95, 0.6, 0.8, 0.7]
)
EXPERT = {"scan-of-expert": "expert-1"}


def reasons(gates: GatesConfig) -> dict[str, tuple[str, str]]:
    decisions = select(CASES, SIGNS_OF, gates, EXPERT)
    refused = decisions[~decisions["accepted"]]
    return {str(case_id): (row["reason"], row["detail"]) for case_id, row in refused.iterrows()}


def test_without_gates_only_failures_and_known_scans_are_refused() -> None:
    assert reasons(GatesConfig()) == {
        "b": ("failed", "unreadable_file"),
        "c": ("labelled_scan", "shows the scan of expert-1"),
        "d": ("duplicate_scan", "shows the scan of a"),
    }


def test_decisions_are_on_every_case_in_order_of_ids() -> None:
    decisions = select(CASES, SIGNS_OF, GatesConfig(), EXPERT)
    assert list(decisions.index) == list("abcdefgh")
    accepted = decisions[decisions["accepted"]]
    assert accepted["reason"].isna().all()
    assert accepted["detail"].isna().all()


def test_gates_refuse_and_say_why() -> None:
    found = reasons(GatesConfig(dice_wt_min=0.65))
    assert found["f"] == ("gate", "dice_wt is 0.6, not >= 0.65")
    assert found.keys() == {"b", "c", "d", "f"}


def test_a_site_keeps_its_surest_and_cases_without_site_are_of_one() -> None:
    found = reasons(GatesConfig(site_cap=1))
    assert found["a"] == ("site_cap", "number 2 of its site, which may have 1")
    assert found["f"] == ("site_cap", "number 3 of its site, which may have 1")
    assert found["h"][0] == "site_cap"
    assert "e" not in found
    assert "g" not in found


def test_a_scan_that_a_gate_refuses_does_not_let_its_copy_in() -> None:
    signs_of = SIGNS_OF.assign(dice_wt=[0.1, 1, 1, 1, 1, 1, 1])
    decisions = select(CASES, signs_of, GatesConfig(dice_wt_min=0.5), EXPERT)
    assert decisions.loc[["a", "d"], "reason"].tolist() == ["gate", "duplicate_scan"]


def test_gates_decide_on_what_was_predicted_and_is_no_copy() -> None:
    decisions = select(CASES, SIGNS_OF, GatesConfig(dice_wt_min=0.65, site_cap=1), EXPERT)
    assert list(eligible(decisions)) == list("aefgh")
