import json
import shutil
import subprocess
import sys
from dataclasses import replace
from math import prod

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from goat_ray import storage
from goat_ray.errors import EnsembleError
from goat_ray.members.cards import MemberCard
from goat_ray.members.ensemble import Member, file_sha256, load_ensemble, load_network
from goat_ray.members.importing import import_results
from goat_ray.members.inspection import describe, verify
from goat_ray.members.networks import build_network, parameter_count
from goat_ray.members.plans import parse_plans
from tests.members.results import nnunet_network, small_dataset, small_plans, write_results_folder

CODES = ["ResNetM", "ResNetL", "UMamba"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    torch.manual_seed(0)
    network = nnunet_network(small_plans(), 4, 4, deep_supervision=True)
    results = write_results_folder(folder / "results", small_plans(), small_dataset(), network.state_dict())
    import_results([f"{code}={results}" for code in CODES], folder / "made" / "ensemble.yaml")
    return folder / "made"


@pytest.fixture
def manifest(imported, tmp_path):
    """An ensemble of three members that the test may damage."""
    return shutil.copytree(imported, tmp_path / "made") / "ensemble.yaml"


@pytest.fixture
def edit(manifest):
    def change(**entry):
        content = yaml.safe_load(manifest.read_text())
        content["members"][1].update(entry)
        manifest.write_text(yaml.safe_dump(content))

    return change


def codes(ensemble):
    return [member.code for member in ensemble.members]


def test_members_come_in_the_manifests_order_whichever_are_chosen(manifest):
    assert codes(load_ensemble(manifest)) == CODES
    assert codes(load_ensemble(manifest, ["UMamba", "ResNetM"])) == ["ResNetM", "UMamba"]


def test_an_unknown_code_names_the_nearest(manifest):
    with pytest.raises(EnsembleError, match="no member 'UMmaba' in the ensemble; did you mean 'UMamba'"):
        load_ensemble(manifest, ["UMmaba"])
    with pytest.raises(EnsembleError, match="there are ResNetM, ResNetL, UMamba"):
        load_ensemble(manifest, ["qqq"])


def test_no_chosen_member_is_no_ensemble(manifest):
    with pytest.raises(EnsembleError, match="no member was chosen"):
        load_ensemble(manifest, [])


def test_the_hash_changes_with_whatever_can_change_a_result(manifest, edit):
    hashes = {load_ensemble(manifest).sha256, load_ensemble(manifest, CODES[:2]).sha256}
    edit(weight=2)
    hashes.add(load_ensemble(manifest).sha256)
    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(yaml.safe_dump({**content, "members": content["members"][::-1]}))
    hashes.add(load_ensemble(manifest).sha256)
    assert len(hashes) == 4


def test_the_hash_does_not_depend_on_where_the_ensemble_lies(manifest, imported):
    assert load_ensemble(manifest).sha256 == load_ensemble(imported / "ensemble.yaml").sha256


def test_a_manifest_is_read_without_torch(manifest):
    code = "import sys; sys.modules['torch'] = None; from goat_ray.members.ensemble import load_ensemble; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}load_ensemble({str(manifest)!r})"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_member_needs_torchs_compiler_to_be_loaded():
    code = (
        "import sys; from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE\n"
        "from goat_ray.members.ensemble import load_ensemble\n"
        "from goat_ray.members.predictor import Predictor, PredictorSettings\n"
        "Predictor(load_ensemble(EMBEDDED_ENSEMBLE), PredictorSettings())\n"
        "assert 'torch' in sys.modules\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"wieght": 2}, r"member 2: wieght: unknown key, did you mean 'weight'"),
        ({"weight": 0}, "member 2: weight: .*greater than 0"),
        ({"weight": float("inf")}, "member 2: weight: .*finite"),
        ({"path": "../made/members/ResNetL"}, "leaves the manifest's folder"),
        ({"path": "/members/ResNetL"}, "leaves the manifest's folder"),
        ({"path": "s3://bucket/member"}, "leaves the manifest's folder"),
        ({"code": ".."}, "member 2: code:"),
        ({"code": "ResNetM"}, "more than one member is called ResNetM"),
        ({"code": "Other"}, r"is the card of ResNetL"),
        ({"weights_sha256": "0" * 64}, r"member ResNetL: .*weights.safetensors has sha256"),
        ({"card_sha256": "0" * 64}, r"member ResNetL: .*member.json has sha256"),
        ({"card_sha256": "0"}, "member 2: card_sha256:"),
    ],
)
def test_a_wrong_entry_of_the_manifest_is_refused(manifest, edit, entry, told):
    edit(**entry)
    with pytest.raises(EnsembleError, match=told):
        load_ensemble(manifest)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("goat_ray_ensembl: 1\nname: x\nmembers: [{}]", "did you mean 'goat_ray_ensemble'"),
        ("goat_ray_ensemble: 1\nname: x\nmembers: []", "members: "),
        ("[1, 2]", "ensemble.yaml"),
        ("a: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(manifest, text, told):
    manifest.write_text(text)
    with pytest.raises(EnsembleError, match=told):
        load_ensemble(manifest)


def test_a_manifest_of_a_later_version_is_refused(manifest):
    manifest.write_text(manifest.read_text().replace("goat_ray_ensemble: 1", "goat_ray_ensemble: 2"))
    with pytest.raises(EnsembleError, match="format 2, this version reads format 1"):
        load_ensemble(manifest)


def test_a_missing_manifest_is_reported_as_such(tmp_path):
    with pytest.raises(EnsembleError, match=r"nowhere\.yaml"):
        load_ensemble(tmp_path / "nowhere.yaml")


def test_missing_weights_are_named(manifest):
    (manifest.parent / "members" / "ResNetL" / "weights.safetensors").unlink()
    with pytest.raises(EnsembleError, match=r"member ResNetL: its weights .* are missing"):
        load_ensemble(manifest)
    assert codes(load_ensemble(manifest, ["UMamba"])) == ["UMamba"]


def test_an_edited_card_is_noticed(manifest):
    card = manifest.parent / "members" / "ResNetL" / "member.json"
    card.write_text(card.read_text().replace("t1n", "t2w"))
    with pytest.raises(EnsembleError, match=r"member ResNetL: .*member.json has sha256"):
        load_ensemble(manifest)


def test_a_card_with_an_unknown_entry_is_refused(manifest, edit):
    card = manifest.parent / "members" / "ResNetL" / "member.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "licens": "x"}))
    edit(card_sha256=file_sha256(card))
    with pytest.raises(EnsembleError, match="licens: unknown key, did you mean 'licence'"):
        load_ensemble(manifest)


def test_a_loaded_network_is_complete_and_in_evaluation_mode(manifest):
    network = load_network(load_ensemble(manifest).members[0])
    assert not network.training
    assert not any(tensor.is_meta for tensor in network.parameters())


def damage_weights(manifest, edit, change):
    path = manifest.parent / "members" / "ResNetL" / "weights.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    edit(weights_sha256=file_sha256(path))


def test_weights_of_another_shape_are_refused_with_the_members_name(manifest, edit):
    damage_weights(manifest, edit, lambda weights: weights.update({"decoder.seg_layers.1.weight": torch.zeros(9)}))
    with pytest.raises(EnsembleError, match=r"member ResNetL: .*\n.*seg_layers.1.weight: found float32 9, expected"):
        load_network(load_ensemble(manifest).members[1])


def test_verify_tells_every_members_outcome(manifest, edit):
    assert [(one.code, one.problem) for one in verify(manifest)] == [(code, None) for code in CODES]
    damage_weights(manifest, edit, lambda weights: weights["decoder.seg_layers.1.bias"].fill_(torch.nan))
    (manifest.parent / "members" / "UMamba" / "member.json").write_text("{}")
    good, undefined, changed = (one.problem for one in verify(manifest))
    assert good is None
    assert "not finite" in undefined
    assert "sha256" in changed


def test_remote_weights_are_fetched_once_and_checked(manifest, tmp_path, monkeypatch):
    root, fetched = "s3://bucket/deep/made", []

    def read_bytes(uri):
        fetched.append(uri.rpartition("/")[2])
        return (manifest.parent / uri.removeprefix(f"{root}/")).read_bytes()

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load_ensemble(f"{root}/ensemble.yaml")
    assert first.sha256 == load_ensemble(manifest).sha256
    assert fetched.count("weights.safetensors") == 1  # three members, one file: cached by its hash
    assert load_network(first.members[0]).training is False
    (cached,) = (tmp_path / "cache").rglob("*.safetensors")
    cached.write_bytes(b"damaged")
    assert load_ensemble(f"{root}/ensemble.yaml") == first
    assert fetched.count("weights.safetensors") == 2


def test_wrong_remote_weights_never_enter_the_cache(manifest, edit, tmp_path, monkeypatch):
    edit(weights_sha256="0" * 64)
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (manifest.parent / uri.removeprefix("s3://b/")).read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(EnsembleError, match="the manifest says 000000000000"):
        load_ensemble("s3://b/ensemble.yaml")
    assert len([*(tmp_path / "cache").rglob("*.*")]) == 1


def member_of(plans, family=None):
    """A member of full-size plans, as far as it can be described without weights."""
    parsed = parse_plans(plans)
    architecture = replace(parsed.architecture, family=family or parsed.architecture.family)
    with torch.device("meta"):
        parameters = parameter_count(build_network(architecture, 4, 4))
    card = {
        "code": "M",
        "trainer": "nnUNetTrainer",
        "configuration": "3d_fullres",
        "architecture": architecture,
        "preprocessing": parsed.preprocessing,
        "patch_size": parsed.patch_size,
        "channels": ("t1c", "t1n", "t2f", "t2w"),
        "labels": {"kind": "regions", "channels": ("WT", "TC", "ET")},
        "mirroring_axes": (),
        "parameters": parameters,
        "source": {
            "dataset": "d",
            "training_cases": None,
            "plans": "p",
            "fold": "all",
            "epoch": None,
            "checkpoint": "c",
            "checkpoint_sha256": "0" * 64,
        },
    }
    return Member("M", MemberCard.model_validate(card), None, "a" * 64, "b" * 64)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("plans", "family", "windows", "activations_gb"),
    [
        # Windows of the median case and activations counted per operation, the latter for 128³ and 160×192×160.
        ("nnUNetResEncUNetMPlans", None, 8, 0.77),
        ("nnUNetResEncUNetLPlans", None, 1, 1.79),
        ("nnUNetPlans", "umamba_bot", 8, 1.03),
    ],
)
def test_a_summary_tells_windows_and_memory_of_a_typical_case(data_root, plans, family, windows, activations_gb):
    content = json.loads((data_root / "plans" / "generated" / f"{plans}.json").read_text())
    member = member_of(content, family)
    summary = describe(member)
    assert summary.windows == windows
    counted_patch = 160 * 192 * 160 if windows == 1 else 128**3
    counted = activations_gb * prod(summary.patch_size) / counted_patch
    assert summary.vram_fp16_gb == pytest.approx(counted + 2e-9 * summary.parameters, rel=0.06)
    assert summary.vram_fp32_gb == pytest.approx(2 * summary.vram_fp16_gb, abs=0.02)
