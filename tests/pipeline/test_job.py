"""The life of a run without Ray: what is done again, what is not, and what is told about it."""

import gzip
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from goat_ray.cases import Case
from goat_ray.commits import Suspect, commit_key, write_suspect
from goat_ray.config import RunConfig
from goat_ray.errors import CaseError, Category, StorageError
from goat_ray.ledger import read_timings
from goat_ray.pipeline.job import Again, RunSummary
from goat_ray.pipeline.rows import Row
from goat_ray.storage import RunStore
from tests.chaos import ThresholdPredict
from tests.cohorts import write_case
from tests.inline import predict_inline
from tests.pipeline.test_predict import STABLE_TABLES, outputs

VERIFY = Again(verify=True)


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two cases that a test may spoil."""
    folder = tmp_path / "cohort"
    for number in (1, 2):
        write_case(folder, f"case-{number}", seed=number)
    return folder


@pytest.fixture
def config(cases: Path, ensemble: Path, tmp_path: Path) -> RunConfig:
    return RunConfig(cohort=str(cases), ensemble=str(ensemble), out=str(tmp_path / "run"))


def image(cases: Path, case_id: str, modality: str = "t1c") -> Path:
    return cases / case_id / f"{case_id}-{modality}.nii.gz"


def commits(summary: RunSummary) -> dict[str, bytes]:
    store = RunStore(summary.out)
    return {key: store.read(key) for key in store.list("commits")}


def test_two_runs_of_the_same_work_leave_the_same_commits(config: RunConfig, tmp_path: Path) -> None:
    one = predict_inline(config)
    other = predict_inline(config.model_copy(update={"out": str(tmp_path / "other")}))
    assert commits(one) == commits(other)
    assert len(commits(one)) == 2


def test_a_file_with_another_size_is_done_again(config: RunConfig, cases: Path) -> None:
    predict_inline(config)
    path = image(cases, "case-1")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert predict_inline(config).already_done == 1


def test_a_file_rewritten_with_other_content_of_the_same_size_is_done_again(
    config: RunConfig, cases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict_inline(config)
    path = image(cases, "case-1")
    data = bytearray(path.read_bytes())
    data[4] ^= 1  # the time stamp in the gzip header: other bytes, equal image
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        assert predict_inline(config).already_done == 1
    assert "case-1" in caplog.text
    assert predict_inline(config).already_done == 2


def test_a_file_that_was_only_touched_is_not_done_again(config: RunConfig, cases: Path) -> None:
    predict_inline(config)
    os.utime(image(cases, "case-1"), (1, 1))
    assert predict_inline(config).already_done == 2


def test_a_manifests_files_are_watched_too(config: RunConfig, cases: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    columns = ("t1c", "t1n", "t2f", "t2w")
    row = [f"cohort/case-1/case-1-{modality}.nii.gz" for modality in columns]
    manifest.write_text(f"case_id,{','.join(columns)}\npatient,{','.join(row)}\n")
    here = config.model_copy(update={"cohort": str(manifest)})
    predict_inline(here)
    assert predict_inline(here).already_done == 1
    image(cases, "case-1").write_bytes(image(cases, "case-2").read_bytes())
    assert predict_inline(here).already_done == 0
    image(cases, "case-1").unlink()
    assert predict_inline(here).already_done == 1


def test_a_label_altered_in_place_is_made_again_when_verified(config: RunConfig) -> None:
    first = predict_inline(config)
    before = outputs(first.out)
    label = Path(first.out) / "labels" / "case-1.nii.gz"
    label.write_bytes(label.read_bytes()[:-1] + b"?")
    assert predict_inline(config).already_done == 2
    assert predict_inline(config, VERIFY).already_done == 1
    assert outputs(first.out) == before
    assert predict_inline(config, VERIFY).already_done == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 100, b'["a"]'])
def test_a_damaged_commit_is_done_again(config: RunConfig, damage: bytes) -> None:
    first = predict_inline(config)
    before = commits(first), outputs(first.out)
    RunStore(first.out).write(commit_key("case-1"), damage)
    second = predict_inline(config)
    assert (second.ok, second.already_done) == (2, 1)
    assert (commits(second), outputs(second.out)) == before


def test_nothing_is_read_or_written_twice_when_nothing_is_to_be_done(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = predict_inline(config)
    tables = {path: path.stat().st_mtime_ns for path in Path(first.out).glob("tables/*.parquet")}
    read: list[str] = []
    plain = RunStore.read
    monkeypatch.setattr(RunStore, "read", lambda store, key: read.append(key) or plain(store, key))
    again = predict_inline(config)
    assert again.already_done == 2
    assert sorted(key for key in read if key.startswith("commits")) == sorted(map(commit_key, ("case-1", "case-2")))
    untouched = [path for path, written in tables.items() if path.stat().st_mtime_ns == written]
    assert len(untouched) == len(tables) - 1  # `run` tells of this call


def test_a_lost_table_is_written_again(config: RunConfig) -> None:
    first = predict_inline(config)
    before = outputs(first.out)
    (Path(first.out) / "tables" / "lesions.parquet").unlink()
    predict_inline(config)
    assert outputs(first.out) == before


def test_a_run_ends_with_what_a_case_costs(config: RunConfig, cases: Path) -> None:
    image(cases, "case-1").write_bytes(b"no image")
    for _ in range(2):  # the second call finds everything done, and tells the same
        out = Path(predict_inline(config).out)
        costs = json.loads((out / "run.json").read_text())["costs"]
        timings = pq.read_table(out / "tables" / "timings.parquet").to_pandas()
        assert {*costs["stages"]} == {"read", "predict", "finish", "commit"}
        for stage, cost in costs["stages"].items():
            (row,) = timings[timings["step"] == stage].to_dict("records")
            assert (cost["cases"], cost["wall_median_s"], cost["cpu_median_s"]) == (
                1,
                row["seconds"],
                row["cpu_seconds"],
            )


def test_a_worker_on_a_gpu_tells_how_much_of_it_was_taken(config: RunConfig) -> None:
    class OnGpu(ThresholdPredict):
        def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
            context["device_peak_bytes"] = 5
            return super()._work(case, row, context)

    summary = predict_inline(config, worker=OnGpu)
    peaks = [one.device_peak_bytes for one in read_timings(RunStore(summary.out), summary.ledger.commits)]
    assert peaks == [5, 5]


def test_a_case_whose_time_cannot_be_recorded_is_done_all_the_same(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = RunStore.write

    def write(store: RunStore, key: str, data: bytes) -> None:
        if key.startswith("timings/"):
            raise StorageError("no space is left")
        plain(store, key, data)

    monkeypatch.setattr(RunStore, "write", write)
    summary = predict_inline(config)
    assert (summary.ok, summary.failed) == (2, 0)
    assert caplog.text.count("what it took is not recorded: no space is left") == 2
    assert json.loads((Path(summary.out) / "run.json").read_text())["costs"]["cores_per_worker"] is None


def test_failures_are_retried_by_category(config: RunConfig, cases: Path) -> None:
    torn, empty = image(cases, "case-1"), image(cases, "case-2")
    whole = torn.read_bytes(), empty.read_bytes()
    torn.write_bytes(whole[0][:500])
    empty.write_bytes(gzip.compress(gzip.decompress(whole[1])[:352] + bytes(30 * 34 * 28 * 2)))
    first = predict_inline(config)
    assert {f.case_id: f.failure.category for f in first.failures} == {
        "case-1": Category.UNREADABLE_FILE,
        "case-2": Category.EMPTY_IMAGE,
    }
    torn.write_bytes(whole[0])
    empty.write_bytes(whole[1])
    assert predict_inline(config).failed == 2
    second = predict_inline(config, Again(retry=(Category.EMPTY_IMAGE,)))
    assert [failed.case_id for failed in second.failures] == ["case-1"]
    assert predict_inline(config, Again(retry=tuple(Category))).failed == 0


def test_a_case_that_lost_its_workers_under_dead_drivers_is_given_up_with_their_word(config: RunConfig) -> None:
    store = RunStore(config.out)
    predict_inline(config.model_copy(update={"limit": 1}))
    for _ in range(3):
        write_suspect(store, Suspect("case-2", Category.TIMED_OUT, "stage predict did not finish in 9 s", "predict"))
    summary = predict_inline(config)
    (failed,) = summary.failures
    assert (failed.case_id, failed.failure.category, failed.failure.attempts) == ("case-2", Category.TIMED_OUT, 3)
    assert store.list("suspects") == {}
    (row,) = pq.read_table(f"{summary.out}/tables/failures.parquet").to_pylist()
    assert (row["category"], row["attempts"], row["stage"]) == ("timed_out", 3, "predict")
    assert predict_inline(config, Again(retry=(Category.TIMED_OUT,))).ok == 2


class AlwaysWrong(ThresholdPredict):
    """A worker with the wrong weights."""

    def _work(self, *_: object) -> Row:
        raise CaseError(Category.NON_FINITE_OUTPUT, "not a number")


def test_a_run_in_which_all_fails_is_stopped_and_says_why(config: RunConfig, cases: Path) -> None:
    for number in range(3, 26):
        (cases / f"case-{number}").mkdir()
        for path in (cases / "case-1").iterdir():
            os.link(path, cases / f"case-{number}" / path.name.replace("case-1", f"case-{number}"))
    summary = predict_inline(config, worker=AlwaysWrong)
    assert (summary.discovered, summary.ok, summary.failed, summary.skipped) == (25, 0, 20, 5)
    assert "20 of the first 20 cases tried have failed, 20 of them with non_finite_output" in summary.stopped
    assert json.loads((Path(summary.out) / "run.json").read_text())["state"] == summary.stopped
    assert pq.read_table(f"{summary.out}/tables/failures.parquet").num_rows == 20
    allowed = config.model_copy(update={"max_failure_rate": 1.0})
    on = predict_inline(allowed, worker=AlwaysWrong)
    assert (on.failed, on.skipped, on.stopped) == (25, 0, "")
    repaired = predict_inline(config, Again(retry=(Category.NON_FINITE_OUTPUT,)), worker=ThresholdPredict)
    assert (repaired.ok, repaired.failed) == (25, 0)


def test_a_case_that_left_the_cohort_leaves_the_tables_but_not_the_folder(config: RunConfig, cases: Path) -> None:
    predict_inline(config)
    for path in (cases / "case-2").iterdir():
        path.unlink()
    summary = predict_inline(config)
    assert (summary.discovered, summary.ok) == (1, 1)
    for name in STABLE_TABLES:
        rows = pq.read_table(f"{summary.out}/tables/{name}.parquet").to_pylist()
        assert {row["case_id"] for row in rows} <= {"case-1"}, name
    assert len(commits(summary)) == 2


def test_what_killed_writers_left_is_swept_once_it_is_old(config: RunConfig) -> None:
    first = predict_inline(config)
    labels = Path(first.out) / "labels"
    for name, age_s in ((".tmp-old", 7200), (".tmp-new", 0)):
        (labels / name).write_bytes(b"half")
        then = (labels / name).stat().st_mtime - age_s
        os.utime(labels / name, (then, then))
    predict_inline(config)
    assert sorted(path.name for path in labels.iterdir()) == [".tmp-new", "case-1.nii.gz", "case-2.nii.gz"]


def test_no_text_of_an_input_header_and_no_credentials_reach_the_run_folder(
    config: RunConfig, cases: Path, s3_endpoint: str
) -> None:
    for path in cases.rglob("*.nii.gz"):
        data = bytearray(gzip.decompress(path.read_bytes()))
        for start, length in ((148, 80), (228, 24), (328, 16), (14, 18)):  # descrip, aux_file, intent_name, db_name
            data[start : start + length] = b"DOE^JANE".ljust(length, b"\0")
        path.write_bytes(gzip.compress(bytes(data)))
    image(cases, "case-2").write_bytes(image(cases, "case-2").read_bytes()[:2000])
    summary = predict_inline(config)
    assert (summary.ok, summary.failed) == (1, 1)
    for path in Path(summary.out).rglob("*"):
        if path.is_file():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert b"DOE^JANE" not in data, path
            assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in data, path


def test_two_drivers_on_one_folder_end_with_one_result(config: RunConfig, tmp_path: Path) -> None:
    alone = predict_inline(config.model_copy(update={"out": str(tmp_path / "alone")}))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(predict_inline, [config, config])
    assert (one.ok, other.ok, one.failed, other.failed) == (2, 2, 0, 0)
    assert outputs(one.out) == outputs(alone.out)
    assert commits(one) == commits(alone)
