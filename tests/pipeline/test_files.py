"""The files of a case beside its labels, through the whole path without Ray."""

import io
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from goat_ray.cases import discover
from goat_ray.commits import commit_key, probabilities_key, read_commit, thumbnail_key
from goat_ray.config import RunConfig
from goat_ray.imaging.geometry import from_network_axes, uncrop
from goat_ray.imaging.reading import load_case
from goat_ray.members.ensemble import load_ensemble
from goat_ray.members.predictor import Predictor, PredictorSettings
from goat_ray.members.preprocess import preprocess
from goat_ray.storage import RunStore
from tests.cohorts import phantom, write_case
from tests.inline import predict_inline


def with_reference(folder: Path, turned: bool = False) -> Path:
    """One case with the reference of its phantom; `turned` stores everything as RAS."""
    case = write_case(folder, "case-1")
    head = phantom(1)
    nibabel.save(nibabel.Nifti1Image(head.labels, head.affine), case / "case-1-seg.nii.gz")
    if turned:
        for path in case.iterdir():
            nibabel.save(nibabel.as_closest_canonical(nibabel.load(path)), path)
    return folder


@pytest.fixture
def one(config: RunConfig, tmp_path: Path) -> RunConfig:
    """A run over one case that has a reference."""
    return config.model_copy(update={"cohort": str(with_reference(tmp_path / "cohort"))})


def test_a_commit_vouches_for_the_picture_and_probabilities_only_where_asked(one: RunConfig, tmp_path: Path) -> None:
    expected = {
        (True, False): {thumbnail_key("case-1")},
        (True, True): {thumbnail_key("case-1"), probabilities_key("case-1")},
        (False, False): set(),
    }
    for (thumbnails, probabilities), files in expected.items():
        out = str(tmp_path / f"run-{thumbnails}-{probabilities}")
        change = {"out": out, "thumbnails": thumbnails, "save_probabilities": probabilities}
        assert predict_inline(one.model_copy(update=change)).ok == 1
        store = RunStore(out)
        assert {*store.list("thumbnails"), *store.list("probabilities")} == files
        commit = read_commit(store, commit_key("case-1"))
        assert commit is not None
        assert commit.outputs.keys() - {"labels/case-1.nii.gz"} == files


def test_other_files_do_not_change_the_labels_or_what_the_tables_say(one: RunConfig, tmp_path: Path) -> None:
    found = []
    for number, change in enumerate(({}, {"thumbnails": False, "save_probabilities": True})):
        out = tmp_path / f"run-{number}"
        predict_inline(one.model_copy(update={"out": str(out), **change}))
        tables = [pq.read_table(out / f"tables/{name}.parquet").drop_columns("run_id") for name in ("cases", "regions")]
        found.append([(out / "labels/case-1.nii.gz").read_bytes(), *tables])
    assert found[0] == found[1]


def test_a_picture_shows_both_and_does_not_depend_on_how_the_scan_is_stored(one: RunConfig, tmp_path: Path) -> None:
    turned = one.model_copy(update={"cohort": str(with_reference(tmp_path / "turned", turned=True))})
    runs = [
        predict_inline(config.model_copy(update={"out": str(tmp_path / f"run-{n}")}))
        for n, config in enumerate((one, turned))
    ]
    plain, other = ((Path(run.out) / thumbnail_key("case-1")).read_bytes() for run in runs)
    assert plain == other
    assert Image.open(io.BytesIO(plain)).size == (456, 720)


def test_a_reference_that_cannot_be_used_leaves_a_picture_of_the_prediction(one: RunConfig) -> None:
    path = Path(one.cohort) / "case-1/case-1-seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)), path)
    assert predict_inline(one).unscored == 1
    picture = (Path(one.out) / thumbnail_key("case-1")).read_bytes()
    assert Image.open(io.BytesIO(picture)).size == (684, 264)


def test_a_lost_picture_is_drawn_again(one: RunConfig) -> None:
    predict_inline(one)
    path = Path(one.out) / thumbnail_key("case-1")
    before = path.read_bytes()
    path.unlink()
    assert predict_inline(one).already_done == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("turned", [False, True])
def test_saved_probabilities_are_the_merged_ones_on_the_grid_of_t1c(
    config: RunConfig, tmp_path: Path, turned: bool
) -> None:
    cohort = with_reference(tmp_path / "cohort", turned)
    predict_inline(config.model_copy(update={"cohort": str(cohort), "save_probabilities": True}))
    image = nibabel.load(Path(config.out) / probabilities_key("case-1"))
    labels = nibabel.load(Path(config.out) / "labels/case-1.nii.gz")
    found = image.get_fdata()
    assert image.get_data_dtype() == np.uint8
    assert (found.min() >= 0, found.max() <= 1) == (True, True)
    for form in ("get_qform", "get_sform"):
        np.testing.assert_array_equal(getattr(image, form)(), getattr(labels, form)())
    for region, merged in enumerate(merged_regions(config, cohort)):
        np.testing.assert_allclose(found[..., region], merged, rtol=0, atol=1 / 510 + 1e-6)


def merged_regions(config: RunConfig, cohort: Path) -> list[np.ndarray]:
    """P(ET), P(TC), P(WT) of the file's voxels, from the predictor itself; 0 outside the crop."""
    loaded = load_case(discover(str(cohort)).cases[0])
    ensemble = load_ensemble(config.ensemble)
    spec = ensemble.members[0].preprocessing
    volumes = {spec: preprocess(loaded.crop, loaded.mask, (1.0, 1.0, 1.0), spec)}
    p = Predictor(ensemble, PredictorSettings(threads=1, keep_probabilities=True)).predict(volumes).probabilities
    assert p is not None
    crops = (p[3], p[1] + p[3], 1 - p[0])
    return [from_network_axes(uncrop(crop, loaded.box, loaded.full_shape), loaded.grid.affine) for crop in crops]


def test_the_tables_tell_how_far_the_members_agree(one: RunConfig) -> None:
    predict_inline(one)
    (case,) = pq.read_table(f"{one.out}/tables/cases.parquet").to_pylist()
    assert 0 < case["mean_margin"] <= 1
    for row in pq.read_table(f"{one.out}/tables/regions.parquet").to_pylist():
        agreement = [row[name] for name in ("member_dice_mean", "member_dice_min", "member_volume_cv")]
        if row["region"] in ("NETC", "SNFH"):
            assert agreement == [None] * 3
        elif row["region"] == "WT":
            assert row["member_dice_mean"] == row["member_dice_min"]  # of two members' only pair
            assert 0 <= row["member_dice_mean"] < 1
            assert row["member_volume_cv"] > 0


def test_one_member_alone_has_nobody_to_agree_with(one: RunConfig) -> None:
    predict_inline(one.model_copy(update={"members": ("Labels",)}))
    rows = pq.read_table(f"{one.out}/tables/regions.parquet").to_pylist()
    assert all(row["member_dice_mean"] is None and row["member_volume_cv"] is None for row in rows)
    assert all(row["mean_probability"] for row in rows if row["pred_volume_vox"])
