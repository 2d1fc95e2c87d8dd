"""What fuzzing found, one test each, so that it stays found whatever the mutations of another day are."""

import hashlib
import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import goat_ray
from goat_ray.cases import discover
from goat_ray.config import EvaluateConfig, RunConfig, load_config, parse_yaml
from goat_ray.errors import CaseError, Category, ConfigError, EnsembleError
from goat_ray.imaging.nifti import decode_image, decode_labels, peek_header
from goat_ray.labels import MODALITIES
from goat_ray.members.ensemble import load_ensemble, read_manifest
from goat_ray.members.plans import parse_plans
from goat_ray.metrics.specs import find_policy
from tests.fuzz.engine import peak_bytes
from tests.fuzz.mutations import yaml_bombs
from tests.members.results import small_plans
from tests.test_hostile import nifti

# --- headers that say what cannot be


def grid_of(data):
    """The grid of a whole file, from its header."""
    return peek_header(data, len(data), "a")


@pytest.mark.parametrize("slope", [1e300, 1e-300, -1e39, 5e-324])
def test_a_scale_that_float32_cannot_hold_is_refused(slope):
    with pytest.raises(CaseError, match="scales its values by"):
        decode_image(nifti(nib.Nifti2Image, scl_slope=slope), "a")


@pytest.mark.parametrize("row", [[1e-300, 0, 0, 0], [1e300, 0, 0, 0], [1, 0, 0, 1e30], [1, 0, 0, -1e300]])
def test_a_voxel_that_is_nowhere_near_is_refused(row):
    with pytest.raises(CaseError) as caught:
        grid_of(nifti(nib.Nifti2Image, srow_x=row))
    assert caught.value.category is Category.UNSUPPORTED_GEOMETRY


@pytest.mark.parametrize("sizes", [(1, -1, 1, 1), (1, 1, 0, 1), (1, 1, 1, np.nan)])
def test_voxels_that_have_no_size_and_no_other_place_are_refused(sizes):
    with pytest.raises(CaseError) as caught:
        grid_of(nifti(sform_code=0, qform_code=0, pixdim=[*sizes, 0, 0, 0, 0]))
    assert caught.value.category is Category.UNSUPPORTED_GEOMETRY


@pytest.mark.parametrize("code", [-1, 17, 348])
def test_a_form_with_an_unknown_code_does_not_count_as_in_nibabel(code):
    raw = nifti(sform_code=code, qform_code=0)
    np.testing.assert_array_equal(grid_of(raw).affine, nib.Nifti1Image.from_bytes(raw).affine)


@pytest.mark.parametrize(("dtype", "word"), [("float32", "<I"), ("float64", "<Q")])
def test_signalling_nan_is_refused_as_a_label_without_a_warning(dtype, word):
    bits = {"<I": 0x7F800001, "<Q": 0x7FF0000000000001}[word]
    for slope in (1, 2):
        raw = nifti(dtype=dtype, scl_slope=slope)
        size = struct.calcsize(word)
        with pytest.raises(CaseError) as caught:
            decode_labels(raw[:-size] + struct.pack(word, bits), "a")
        assert caught.value.category is Category.INVALID_LABELS


# --- YAML

READERS: tuple[tuple[Callable[[str], object], type[Exception]], ...] = (
    (lambda path: load_config(RunConfig, path, {}), ConfigError),
    (find_policy, ConfigError),
    (read_manifest, EnsembleError),
)


@pytest.mark.parametrize("bomb", range(len(yaml_bombs())))
@pytest.mark.parametrize(("read", "refusal"), READERS, ids=["config", "spec", "ensemble"])
def test_yaml_that_grows_or_nests_without_end_is_refused_soon(tmp_path, bomb, read, refusal):
    path = tmp_path / "a.yaml"
    path.write_text(yaml_bombs()[bomb])
    before, start = peak_bytes(since_now=True), time.process_time()
    with pytest.raises(refusal, match="nested too deeply or too large"):
        read(str(path))
    assert time.process_time() - start < 2
    assert peak_bytes() - before < 50e6


TOKENS = ["2001-99-99", "!!int ''", "!!float ''", "!!bool maybe", "!!timestamp x", "!!set {a}", "0x_", "0b", "9" * 5000]
TOKENS += [
    "0x" + "f" * 5000,
    "1:1" + ":1" * 4000,
    '"\\ud800"',
    "!!python/object/apply:os.getcwd []",
    "!local x",
    "=",
    "*none",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(("read", "refusal"), READERS, ids=["config", "spec", "ensemble"])
def test_a_word_that_yaml_stumbles_over_is_refused(tmp_path, token, read, refusal):
    path = tmp_path / "a.yaml"
    path.write_text(f"workers: {token}\nname: {token}\n")
    with pytest.raises(refusal, match=r"a\.yaml"):
        read(str(path))


def test_yaml_keeps_what_people_use_of_it():
    text = b"a: &x {b: [1, 2.5, true, null, 0x10, -3]}\nc: {<<: *x, d: *x}\ne: 2001-01-01\nf: !!str 3\n"
    b = {"b": [1, 2.5, True, None, 16, -3]}
    assert parse_yaml(text) == {"a": b, "c": {**b, "d": b}, "e": "2001-01-01", "f": "3"}


def test_a_large_yaml_file_is_not_even_parsed(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"- a\n" * 2**22)
    start = time.process_time()
    with pytest.raises(ConfigError, match="more than 262144 bytes"):
        load_config(RunConfig, str(tmp_path / "a.yaml"), {})
    assert time.process_time() - start < 1


def test_of_many_wrong_keys_only_some_are_told(tmp_path):
    (tmp_path / "a.yaml").write_text("".join(f"{'wrong' * 100}{number}: 1\n" for number in range(300)))
    with pytest.raises(ConfigError, match=r"; and \d+ more$") as caught:
        load_config(EvaluateConfig, str(tmp_path / "a.yaml"), {})
    assert len(str(caught.value)) < 10_000


def test_a_region_whose_lesions_are_never_large_enough_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("{name: mine, regions: {ET: {labels: [3], min_volume_mm3: .inf}}}")
    with pytest.raises(ConfigError, match=r"regions\.ET\.min_volume_mm3: input should be a finite number"):
        find_policy(str(tmp_path / "a.yaml"))


# --- manifests


def table(**columns: object) -> pa.Table:
    ids = [f"case-{number}" for number in range(4)]
    return pa.table({"case_id": ids, **dict.fromkeys(MODALITIES, ids), **columns})


def refusal_of(folder: Path, columns: pa.Table) -> str:
    pq.write_table(columns, folder / "m.parquet")
    with pytest.raises(ConfigError) as caught:
        discover(str(folder / "m.parquet"))
    return str(caught.value)


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "No/City"), pa.duration("ns")])
def test_a_column_of_dates_that_no_calendar_has_is_refused(tmp_path, kind):
    assert "column site holds" in refusal_of(tmp_path, table(site=pa.array([0, 1, 2**31 - 1, -(2**31)], kind)))


@pytest.mark.parametrize("cells", [[b"a"] * 4, [["a"]] * 4, [{"a": 1}] * 4])
def test_a_column_that_holds_no_text_is_refused(tmp_path, cells):
    assert "column case_id holds" in refusal_of(tmp_path, table(case_id=cells))


@pytest.mark.parametrize(
    ("cells", "sites"),
    [
        ([1, 2, None, 4], ["1", "2", None, "4"]),
        ([1.5, float("nan"), None, 4], ["1.5", None, None, "4.0"]),
        (pa.array(["a", "b", "a", None]).dictionary_encode(), ["a", "b", "a", None]),
        (pa.array(["a", "", "a", None], pa.large_string()), ["a", None, "a", None]),
        (pa.nulls(4), [None] * 4),
    ],
)
def test_columns_of_text_and_numbers_are_read_as_text(tmp_path, cells, sites):
    pq.write_table(table(site=cells), tmp_path / "m.parquet")
    assert [case.site for case in discover(str(tmp_path / "m.parquet")).cases] == sites


def test_a_parquet_file_that_repeats_a_long_text_is_read_in_little_memory(tmp_path):
    sites = pa.DictionaryArray.from_arrays([0] * 256, ["x" * 2**20])
    columns = table().take([0, 1, 2, 3] * 64).append_column("site", sites)
    pq.write_table(columns, tmp_path / "m.parquet", compression="zstd")
    discover(str(tmp_path / "m.parquet"))
    before = peak_bytes(since_now=True)
    found = discover(str(tmp_path / "m.parquet"))
    assert peak_bytes() - before < 50e6
    assert {len(failed.site or "") for failed in found.failures} == {2**20}


def test_a_parquet_file_of_more_rows_than_bytes_is_refused(tmp_path):
    assert "rows in" in refusal_of(tmp_path, pa.table({name: pa.nulls(10**6) for name in ("case_id", *MODALITIES)}))


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "m.csv").write_text("case_id,t1c,t1n,t2f,t2w,t1c\na,1,2,3,4,5\n")
    with pytest.raises(ConfigError, match="two columns of one name"):
        discover(str(tmp_path / "m.csv"))


def test_a_message_does_not_repeat_a_whole_file(tmp_path):
    (tmp_path / "m.csv").write_text(f"case_id,t1c,t1n,t2f,t2w,{'x' * 10**5}\n")
    with pytest.raises(ConfigError, match="unknown column") as caught:
        discover(str(tmp_path / "m.csv"))
    assert len(str(caught.value)) < 500


# --- member cards and plans


@pytest.fixture
def load_card(tmp_path: Path) -> Callable[[bytes], object]:
    """Load an ensemble of one embedded member whose card is replaced by these bytes, the manifest's hash with it."""
    member = Path(goat_ray.__file__).parent / "demo" / "ensemble" / "members" / "ResNetM"
    shutil.copytree(member, tmp_path / "m")
    weights = hashlib.sha256((member / "weights.safetensors").read_bytes()).hexdigest()

    def load(data: bytes) -> object:
        entry = {
            "code": "ResNetM",
            "path": "m",
            "weights_sha256": weights,
            "card_sha256": hashlib.sha256(data).hexdigest(),
        }
        (tmp_path / "e.yaml").write_text(json.dumps({"goat_ray_ensemble": 1, "name": "e", "members": [entry]}))
        (tmp_path / "m" / "member.json").write_bytes(data)
        return load_ensemble(tmp_path / "e.yaml")

    return load


def changed(tmp_path: Path, group: str | None, values: dict[str, Any]) -> bytes:
    card = json.loads((tmp_path / "m" / "member.json").read_bytes())
    (card[group] if group else card).update(values)
    return json.dumps(card).encode()


@pytest.mark.parametrize(
    ("group", "values", "told"),
    [
        (None, {"patch_size": [160, 192, 97]}, "no multiple of the strides"),
        (None, {"patch_size": [160, 192, 0]}, "the patch is"),
        (None, {"patch_size": [160, 192, 10**300]}, "the patch is"),
        (None, {"channels": ["t1c"]}, "not one normalisation for each channel"),
        (None, {"channels": []}, "not one normalisation for each channel"),
        (None, {"mirroring_axes": [3]}, "mirroring axes"),
        (None, {"parameters": -1}, "-1 parameters"),
        ("labels", {"channels": []}, "0 outputs"),
        ("architecture", {"features": [6]}, "1 stages"),
        ("architecture", {"features": [6, 12, 24, 10**9]}, "features is"),
        ("architecture", {"kernels": [[3, 3, 3]]}, "kernels is .*expected 4 entries"),
        ("architecture", {"kernels": [[3, 3, 2]] * 4}, "expected odd sizes"),
        ("architecture", {"strides": [[1, 1, 0]] * 4}, "strides is"),
        ("architecture", {"encoder_blocks": [1, 1, 1, 10**6]}, "encoder_blocks is"),
        ("architecture", {"encoder_blocks": [200] * 4}, "803 blocks"),
        ("architecture", {"decoder_blocks": [1, 1, 1, 1]}, "decoder_blocks is"),
        ("preprocessing", {"transpose": [0, 0, 1]}, "transpose"),
        ("preprocessing", {"spacing_mm": [1e-9, 1, 1]}, "spacing"),
        ("preprocessing", {"spacing_mm": ["nan", 1, 1]}, "spacing"),
        ("preprocessing", {"spacing_mm": [0.02, 1, 1]}, "windows of"),
        ("preprocessing", {"use_mask": []}, "not one normalisation for each channel"),
    ],
)
def test_a_card_that_describes_no_network_or_input_is_refused(load_card, tmp_path, group, values, told):
    with pytest.raises(EnsembleError, match=f"member ResNetM: .*{told}"):
        load_card(changed(tmp_path, group, values))


@pytest.mark.parametrize("data", [b"[" * 10**5, b'{"a":' * 10**5, b'"\\ud800"', b"NaN", b"1" * 5000, b"\xff"])
def test_a_card_that_is_no_plain_json_is_refused(load_card, data):
    with pytest.raises(EnsembleError, match="no member card of this version"):
        load_card(data)


def test_the_card_as_it_was_is_accepted(load_card, tmp_path):
    assert load_card((tmp_path / "m" / "member.json").read_bytes())


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"features_per_stage": [4, 8, 10**9]}, "features is"),
        ({"n_blocks_per_stage": [1, 2, 10**9]}, "encoder_blocks is"),
        ({"kernel_sizes": [[3, 3, 2]] * 3}, "expected odd sizes"),
        ({"strides": [[1, 1, 1], [2, 2, 2], [10**6, 1, 1]]}, "strides is"),
    ],
)
def test_plans_of_a_network_beyond_all_measure_are_refused(kwargs, told):
    plans = small_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(kwargs)
    with pytest.raises(EnsembleError, match=told):
        parse_plans(plans)
