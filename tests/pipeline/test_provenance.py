"""What made a run, as it is recorded."""

import re

import pyarrow as pa

from goat_ray.cases import Case, Discovery
from goat_ray.pipeline.provenance import about_run, run_row
from goat_ray.tables import RUN_SCHEMA

DISCOVERY = Discovery((Case("a", {"prediction": "/x/a.nii.gz"}, "/y/a-seg.nii.gz"),), ())


def test_the_start_of_a_run_names_versions_machine_and_inputs() -> None:
    about = about_run("evaluate", {"spec": "goat2025"}, DISCOVERY)
    assert (about["kind"], about["config"]) == ("evaluate", {"spec": "goat2025"})
    assert {"python", "goat-ray", "numpy", "scipy", "connected-components-3d"} <= about["versions"].keys()
    assert about["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", about["git_commit"])


def test_the_hash_of_the_inputs_follows_ids_and_file_names_but_not_folders() -> None:
    moved = Discovery((Case("a", {"prediction": "s3://b/a.nii.gz"}, "s3://b/a-seg.nii.gz"),), ())
    other = Discovery((Case("a", {"prediction": "/x/b.nii.gz"}, "/y/a-seg.nii.gz"),), ())
    hashes = [about_run("evaluate", {}, found)["inputs_sha256"] for found in (DISCOVERY, moved, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_row_of_a_finished_run_fits_the_table() -> None:
    document = {
        **about_run("evaluate", {"spec": "goat2025", "missing": "penalise"}, DISCOVERY),
        "run_id": "id",
        "fingerprint": {"spec": {"goat2025-gli": "hash"}},
        "specs": [],
        "finished_utc": "now",
        "elapsed_s": 2.0,
        "counts": {"discovered": 3, "ok": 1, "failed": 1, "skipped": 1},
    }
    row = run_row(document, pa.table({"cpu_seconds": [0.5, None, 1.0]}))
    assert set(row) == set(RUN_SCHEMA.names)
    assert (row["n_expected"], row["n_skipped"], row["wall_s"], row["cpu_s"]) == (3, 1, 2.0, 1.5)
    assert (row["policy"], row["ensemble"]) == ("penalise", None)
