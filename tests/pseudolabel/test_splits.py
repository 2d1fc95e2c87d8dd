"""Folds: every labelled case validates once, patients stay together, pseudo-labels only train."""

from collections import Counter

import pytest

from goat_ray.errors import ConfigError
from goat_ray.pseudolabel.splits import Member, held_together, make_folds

HUMAN = [Member(f"h{i:02d}", f"patient-{i // 2:02d}", "north" if i < 24 else "south") for i in range(36)]
PSEUDO = [Member(f"p{i:02d}", f"other-{i}") for i in range(10)] + [Member("p99", "patient-03")]


def test_every_labelled_case_validates_once() -> None:
    folds = make_folds(HUMAN, PSEUDO, 5)
    held_out = [case_id for fold in folds for case_id in fold["val"]]
    assert sorted(held_out) == [member.case_id for member in HUMAN]


def test_no_patient_is_on_both_sides_and_pseudo_labels_only_train() -> None:
    patient = {member.case_id: member.patient for member in (*HUMAN, *PSEUDO)}
    for fold in make_folds(HUMAN, PSEUDO, 5):
        assert not {patient[case_id] for case_id in fold["train"]} & {patient[case_id] for case_id in fold["val"]}
        assert not any(case_id.startswith("p") for case_id in fold["val"])


def test_a_pseudo_label_trains_wherever_its_patient_does_not_validate() -> None:
    folds = make_folds(HUMAN, PSEUDO, 5)
    counts = Counter(case_id for fold in folds for case_id in fold["train"] if case_id.startswith("p"))
    assert counts.pop("p99") == 4
    assert set(counts.values()) == {5}
    (without,) = (fold for fold in folds if "p99" not in fold["train"])
    assert {"h06", "h07"} <= set(without["val"])


def test_folds_are_alike_in_sites() -> None:
    stratum = {member.case_id: member.stratum for member in HUMAN}
    for fold in make_folds(HUMAN, PSEUDO, 3):
        shares = Counter(stratum[case_id] for case_id in fold["val"])
        assert shares == {"north": 8, "south": 4}


def test_the_order_of_cases_does_not_matter() -> None:
    assert make_folds(HUMAN[::-1], PSEUDO[::-1], 4) == make_folds(HUMAN, PSEUDO, 4)


def test_rare_strata_are_spread_too() -> None:
    human = [Member(f"h{i}", f"p{i}", f"site-{i}") for i in range(7)]
    folds = make_folds(human, [], 5)
    assert sorted(len(fold["val"]) for fold in folds) == [1, 1, 1, 2, 2]


def test_fewer_patients_than_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 labelled patient\(s\) cannot make 5 folds"):
        make_folds(HUMAN[:4], PSEUDO, 5)


def test_patients_who_share_a_scan_are_held_together() -> None:
    groups = held_together(["a", "b", "c", "d", "d"], ["x", "y", "x", "z", None])
    assert groups[0] == groups[2]
    assert groups[3] == groups[4]
    assert len({groups[0], groups[1], groups[3]}) == 3
