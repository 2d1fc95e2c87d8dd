"""Targets that read what people write: manifests, settings, specs, ensembles and plans."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import goat_ray
from goat_ray.cases import discover, is_safe_id
from goat_ray.config import EvaluateConfig, RunConfig, load_config, run_id_of
from goat_ray.errors import ConfigError, EnsembleError
from goat_ray.labels import MODALITIES
from goat_ray.members.cards import card_text
from goat_ray.members.ensemble import load_ensemble, load_network
from goat_ray.members.inspection import describe
from goat_ray.members.plans import parse_plans
from goat_ray.metrics.specs import find_policy
from tests.fuzz import mutations
from tests.fuzz.engine import Target

_EMBEDDED = Path(goat_ray.__file__).parent / "demo" / "ensemble"
_CODES = ("ResNetM", "UMamba")


def document_targets(folder: Path) -> Iterator[Target]:
    """Every target that reads documents."""
    folder.mkdir(parents=True)
    csv, parquet = folder / "m.csv", folder / "m.parquet"
    yield Target("csv manifest", (_csv(_TABLE),), _damaged_csv, partial(_read_manifest, csv), ConfigError)
    yield Target(
        "parquet manifest", (_parquet(_TEXT_COLUMNS),), _damaged_parquet, partial(_read_manifest, parquet), ConfigError
    )
    yield _yaml_target("run config", _RUN_CONFIG, partial(_read_run_config, folder / "run.yaml"))
    yield _yaml_target("evaluate config", _EVALUATE_CONFIG, partial(_read_evaluate_config, folder / "evaluate.yaml"))
    yield _yaml_target("spec", _SPEC, partial(_read_spec, folder / "spec.yaml"))
    yield from _ensemble_targets(folder / "ensemble")
    plans = json.dumps(_PLANS).encode()
    yield Target("plans", (plans,), partial(damaged_json, _PLANS), _read_plans, EnsembleError)


def damaged_json(tree: Any, rng: Random) -> bytes:
    """JSON of a damaged tree, its bytes damaged too now and then."""
    data = mutations.as_json(rng, mutations.damaged_tree(rng, tree))
    return data if rng.random() < 0.8 else mutations.damaged_bytes(rng, data, data)


def _damaged_yaml(tree: Any, rng: Random) -> bytes:
    data = mutations.as_yaml(rng, mutations.damaged_tree(rng, tree))
    return data if rng.random() < 0.8 else mutations.damaged_bytes(rng, data, data)


def _yaml_target(name: str, tree: Any, read: Any) -> Target:
    return Target(name, (yaml.safe_dump(tree).encode(),), partial(_damaged_yaml, tree), read, ConfigError)


# --- manifests

_COLUMNS = ("case_id", *MODALITIES, "site", "cohort", "reference")
_ROWS = [[f"case-{i}", *(f"case-{i}/{m}.nii.gz" for m in MODALITIES), "north", "", "seg.nii.gz"] for i in range(4)]
_TABLE = [list(_COLUMNS), *_ROWS]
_TEXT_COLUMNS = {name: [row[i] for row in _ROWS] for i, name in enumerate(_COLUMNS)}


def _csv(lines: list[list[str]], separator: str = ",", end: str = "\n") -> bytes:
    return end.join(separator.join(line) for line in lines).encode("utf-8", "surrogatepass")


def _damaged_csv(rng: Random) -> bytes:
    tree = mutations.damaged_tree(rng, _TABLE)
    lines = [line if isinstance(line, list) else [line] for line in (tree if isinstance(tree, list) else [tree])]
    quotes = (*[""] * 200, *['"'] * 50, "'")
    cells = [[f"{quote}{cell}{quote}" for cell in line for quote in [rng.choice(quotes)]] for line in lines]
    data = _csv(cells, rng.choice(",,,,,;"), rng.choice(["\n", "\n", "\r\n", "\r"]))
    if rng.random() < 0.1:
        data = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\n"]) + data
    if rng.random() < 0.05:
        data += b'\n"' + b"x" * rng.choice([131_071, 131_073, 3_000_000]) + b'",1,2,3,4,5,6,7'
    return data if rng.random() < 0.7 else mutations.damaged_bytes(rng, data, data)


def _parquet(columns: dict[str, Any], compression: str = "snappy") -> bytes:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, list(columns)), sink, compression=compression)
    return sink.getvalue().to_pybytes()


def _damaged_parquet(rng: Random) -> bytes:
    columns: dict[str, Any] = dict(_TEXT_COLUMNS)
    if rng.random() < 0.4:
        columns[rng.choice([*_COLUMNS, "", "x" * 300])] = rng.choice(_odd_columns())
    data = _parquet(columns, rng.choice(["none", "snappy", "zstd", "gzip"]))
    if rng.random() < 0.3:
        return data
    at = rng.choice([0, rng.randrange(len(data))])  # the footer is where `damaged_bytes` seldom looks
    return data[:at] + mutations.damaged_bytes(rng, data[at:], data)


def _odd_columns() -> list[pa.Array]:
    """Four rows of every kind of column that a manifest is not made of."""
    far = 2**62
    text = pa.array(["a", "b", "a", None])
    return [
        *(pa.array([1, 2, None, 4]), pa.array([1.0, float("nan"), float("inf"), None]), pa.nulls(4)),
        *(text.dictionary_encode(), text.cast(pa.large_string()), pa.array([True, False, None, True])),
        *(pa.array([b"a", b"\xff\xfe", None, b"\0"]), pa.array([["a"], None, [], ["b", "c"]])),
        *(pa.array([{"a": 1}, None, {"a": 2}, {"a": 3}]), pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64()))),
        *(pa.array([0, 1, far, -far], kind) for kind in (pa.timestamp("us"), pa.timestamp("ns", "No/City"))),
        *(pa.array([0, 1, far, -far], pa.duration("ns")), pa.array([0, 1, 2**31 - 1, -(2**31)], pa.date32())),
        pa.Array.from_buffers(pa.string(), 4, pa.array([b"\xff", b"\xfe", b"a", b"b"], pa.binary()).buffers()),
    ]


def _read_manifest(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found = discover(str(path))
    assert found.discovered > 0
    assert all(is_safe_id(case.case_id) for case in found.cases)
    assert all(set(case.images) == set(MODALITIES) and all(case.images.values()) for case in found.cases)
    assert all(failed.failure.message and failed.failure.hint for failed in found.failures)


# --- settings

_RUN_CONFIG: dict[str, Any] = {
    "cohort": "scans",
    "ensemble": "ensemble.yaml",
    "out": "run",
    "limit": 3,
    "members": ["ResNetM"],
    "suffixes": {"t1ce": "t1c"},
    "channels": ["t1c", "t1n", "t2f", "t2w"],
    "decode": "argmax",
    "mirroring": True,
    "postprocess": {"method": "fixed", "wt_max": 250.0, "nested": True},
    "s3": {"endpoint_url": "http://localhost:9000", "anonymous": True},
    "case_timeout_s": 60.0,
}
_EVALUATE_CONFIG: dict[str, Any] = {
    "labels": "run",
    "references": "refs",
    "spec": "goat2025",
    "out": "scores",
    "missing": "exclude",
    "official": True,
    "workers": 2,
    "max_failure_rate": 0.5,
    "s3": {"region": "eu-central-1"},
}
_SPEC: dict[str, Any] = {
    "name": "mine",
    "base": "brats2023-gli",
    "hd95_penalty": 300.0,
    "max_label": 4,
    "warning": "none",
    "regions": {"ET": {"labels": [3], "dilation_vox": 2, "join": ["TC"]}, "RC": {"labels": [4], "min_pred_vox": 5}},
}


def _read_run_config(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    config = load_config(RunConfig, str(path), {"out": "run"})
    assert len(run_id_of(config.fingerprint("abc", {}))) == 12
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def _read_evaluate_config(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    config = load_config(EvaluateConfig, str(path), {"out": "run"})
    assert len(run_id_of(config.fingerprint({}))) == 12
    assert EvaluateConfig.model_validate(config.model_dump(mode="json")) == config


def _read_spec(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    policy = find_policy(str(path))
    (spec,) = policy.specs
    assert len(spec.sha256) == 64
    assert policy.spec_of(None) is spec
    assert 0 <= spec.penalty_mm((240, 240, 155)) < np.inf
    assert all(0 < label <= spec.max_label for region in spec.regions.values() for label in region.labels)
    assert all(0 <= region.min_volume_mm3 < np.inf for region in spec.regions.values())


# --- ensembles


def _ensemble_targets(folder: Path) -> Iterator[Target]:
    for code in _CODES:
        shutil.copytree(_EMBEDDED / "members" / code, folder / "members" / code)
    entries = yaml.safe_load((_EMBEDDED / "ensemble.yaml").read_bytes())
    entries["members"] = [entry for entry in entries["members"] if entry["code"] in _CODES]
    intact, read = yaml.safe_dump(entries).encode(), partial(_read_ensemble, folder / "ensemble.yaml")
    yield Target("ensemble", (intact,), partial(_damaged_yaml, entries), read, EnsembleError)
    for code in _CODES:
        data = (_EMBEDDED / "members" / code / "member.json").read_bytes()
        damage, read = partial(damaged_json, json.loads(data)), partial(_read_card, folder, entries, code)
        yield Target(f"card of {code}", (data,), damage, read, EnsembleError)


def _read_ensemble(manifest: Path, data: bytes) -> None:
    manifest.write_bytes(data)
    ensemble = load_ensemble(manifest)
    assert all(0 < member.weight < np.inf for member in ensemble.members)
    assert len(ensemble.sha256) == 64


def _read_card(folder: Path, entries: dict[str, Any], code: str, data: bytes) -> None:
    """A card is used to describe its member and to build its network; both must go well once it is accepted."""
    (entry,) = [entry for entry in entries["members"] if entry["code"] == code]
    entry = {**entry, "path": "damaged", "card_sha256": hashlib.sha256(data).hexdigest()}
    (folder / "damaged").mkdir(exist_ok=True)
    (folder / "damaged" / "member.json").write_bytes(data)
    shutil.copyfile(folder / "members" / code / "weights.safetensors", folder / "damaged" / "weights.safetensors")
    (folder / "card.yaml").write_text(json.dumps({**entries, "members": [entry]}), encoding="utf-8")
    (member,) = load_ensemble(folder / "card.yaml").members
    summary = describe(member)
    assert summary.windows > 0
    assert 0 <= summary.vram_fp16_gb < 1e6
    assert card_text(member.card, member.sha256).encode()
    if member.problem() is None:
        assert sorted(member.channel_index) == [0, 1, 2, 3]
    load_network(member)


_PLANS: dict[str, Any] = {
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "base": {"spacing": [1.0, 1.0, 1.0], "patch_size": [32, 32, 16]},
        "3d_fullres": {
            "inherits_from": "base",
            "normalization_schemes": ["ZScoreNormalization"] * 4,
            "use_mask_for_norm": [True] * 4,
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 32,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 1]],
            "conv_kernel_sizes": [[3, 3, 3]] * 3,
        },
    },
}


def _read_plans(data: bytes) -> None:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EnsembleError("no JSON") from error
    if not isinstance(values, dict):
        raise EnsembleError("no plans")
    plans = parse_plans(values)
    assert min(plans.patch_size) > 0
    assert sorted(plans.preprocessing.transpose) == [0, 1, 2]
    assert all(0 < step < np.inf for step in plans.preprocessing.spacing_mm)
    assert len(plans.architecture.features) == len(plans.architecture.strides) <= 16
    assert max(plans.architecture.features) < 1e6
