"""Who a case belongs to."""

from goat_ray.patients import patients_of


def test_time_points_of_challenge_ids_are_of_one_patient_and_other_ids_are_patients() -> None:
    ids = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000", "TCGA-FG-6692", "a-001"]
    assert patients_of(ids) == ["BraTS-GLI-00001", "BraTS-GLI-00001", "BraTS-GLI-00002", "TCGA-FG-6692", "a-001"]


def test_a_hospital_has_a_pattern_of_its_own() -> None:
    assert patients_of(["p7_visit2", "p7_visit1", "odd"], r"(p\d+)_visit\d+") == ["p7", "p7", "odd"]


def test_a_group_that_takes_no_part_leaves_the_id() -> None:
    assert patients_of(["x", "p1"], r"(p\d)?.*") == ["x", "p1"]
