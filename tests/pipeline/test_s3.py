"""The whole path on an S3 server: cohort, run folder and tables as objects."""

import gzip
from pathlib import Path

import boto3
import pytest

from goat_ray import storage
from goat_ray.config import RunConfig
from goat_ray.errors import Category
from goat_ray.pipeline.predict import predict_cohort
from goat_ray.report.page import write_report
from tests.chaos import upload
from tests.inline import predict_inline
from tests.pipeline.test_predict import STABLE_TABLES, outputs

pytestmark = pytest.mark.usefixtures("s3_endpoint")


def test_a_cohort_and_an_ensemble_on_s3_give_the_same_bytes_as_those_in_folders(
    ray_cluster: None, s3_bucket: str, cohort: Path, ensemble: Path, config: RunConfig
) -> None:
    upload(cohort, f"{s3_bucket}/cohort")
    upload(ensemble.parent, f"{s3_bucket}/ensemble")
    local = predict_inline(config.model_copy(update={"limit": 2}))
    sources = {"cohort": f"{s3_bucket}/cohort", "ensemble": f"{s3_bucket}/ensemble/ensemble.yaml"}
    there = config.model_copy(update={**sources, "out": f"{s3_bucket}/runs/one", "limit": 2})
    remote = predict_cohort(there)
    assert (remote.ok, remote.skipped) == (2, 3)
    store = storage.RunStore(remote.out)
    keys = [*store.list("labels"), *store.list("thumbnails"), *(f"tables/{name}.parquet" for name in STABLE_TABLES)]
    assert {key: store.read(key) for key in keys} == outputs(local.out)
    assert predict_cohort(there).already_done == 2
    changed = cohort / "BraTS-GoAT-00001" / "BraTS-GoAT-00001-t1c.nii.gz"
    other = gzip.compress(gzip.decompress(changed.read_bytes()), 1)
    storage.RunStore(s3_bucket).write("cohort/BraTS-GoAT-00001/BraTS-GoAT-00001-t1c.nii.gz", other)
    assert predict_inline(there).already_done == 1
    files = write_report([remote.out], f"{s3_bucket}/reports/one.html")
    assert files[-1] == f"{s3_bucket}/reports/one.html"
    assert storage.read_bytes(files[-1]).startswith(b"<!doctype html>")


def test_an_object_that_cannot_be_read_fails_only_its_case(
    s3_endpoint: str, s3_bucket: str, cohort: Path, tmp_path: Path, config: RunConfig
) -> None:
    upload(cohort / "BraTS-GoAT-00001", f"{s3_bucket}/images")
    names = [f"{s3_bucket}/images/BraTS-GoAT-00001-{modality}.nii.gz" for modality in ("t1c", "t1n", "t2f", "t2w")]
    bucket, key = s3_bucket.removeprefix("s3://"), "archived.nii.gz"
    boto3.client("s3", endpoint_url=s3_endpoint).put_object(Bucket=bucket, Key=key, Body=b"x", StorageClass="GLACIER")
    denied = [f"{s3_bucket}/{key}", *names[1:]]
    manifest = tmp_path / "cohort.csv"
    rows = [["case_id", "t1c", "t1n", "t2f", "t2w"], ["good", *names], ["denied", *denied]]
    manifest.write_text("\n".join(",".join(row) for row in rows))
    summary = predict_inline(config.model_copy(update={"cohort": str(manifest)}))
    assert summary.ok == 1
    (failed,) = summary.failures
    assert failed.case_id == "denied"
    assert failed.failure.category == Category.UNREADABLE_FILE
    assert key in failed.failure.message
