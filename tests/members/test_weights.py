import os
import pathlib
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from goat_ray.errors import EnsembleError
from goat_ray.members.networks import build_network
from goat_ray.members.plans import Architecture
from goat_ray.members.weights import (
    assign_weights,
    canonical_weights,
    load_checkpoint,
    load_weights,
    save_weights,
)

TINY = Architecture(
    family="residual_encoder",
    features=(4, 6),
    kernels=((3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2)),
    encoder_blocks=(1, 2),
    decoder_blocks=(1,),
)
STEM = "encoder.stem.convs.0.conv.weight"


def tiny_network(seed=0, **changes):
    torch.manual_seed(seed)
    return build_network(replace(TINY, **changes), in_channels=4, heads=4).eval()


def on_meta():
    with torch.device("meta"):
        return build_network(TINY, in_channels=4, heads=4).eval()


def nnunet_checkpoint(weights, **others):
    """nnU-Net's own container, with the objects its trainer leaves in it."""
    return {
        "network_weights": weights,
        "optimizer_state": {
            "state": {0: {"momentum_buffer": torch.zeros(3)}},
            "param_groups": [{"lr": 0.01}],
        },
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float32(0.8)], "ema_fg_dice": [np.float64(0.7)], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cuda")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **others,
    }


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    torch.save(nnunet_checkpoint(tiny_network().state_dict()), path)
    return path


def test_a_checkpoint_goes_through_safetensors_into_a_network_unchanged(checkpoint, tmp_path):
    original, network = tiny_network(), on_meta()
    save_weights(canonical_weights(load_checkpoint(checkpoint).weights, network), tmp_path / "w.safetensors")
    assign_weights(network, load_weights(tmp_path / "w.safetensors"))
    image = torch.randn(1, 4, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(network(image), original(image))
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_a_checkpoint_says_how_it_was_trained(checkpoint):
    read = load_checkpoint(checkpoint)
    assert (read.trainer, read.configuration, read.fold, read.epoch) == (
        "nnUNetTrainer",
        "3d_fullres",
        "0",
        1000,
    )
    assert read.mirroring_axes == (0, 1, 2)


def test_scalars_of_numpy_1_are_read_too(checkpoint, tmp_path):
    older = tmp_path / "older.pth"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(older, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(entry.filename, content)
    weights = load_checkpoint(older).weights
    assert torch.equal(weights[STEM], load_checkpoint(checkpoint).weights[STEM])


class Malicious:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["init_args", "network_weights", "trainer_name", "logging"])
@pytest.mark.parametrize("function", [os.system, eval, pathlib.Path.touch])
def test_a_malicious_checkpoint_executes_nothing(tmp_path, place, function):
    trap, path = tmp_path / "executed", tmp_path / "checkpoint_final.pth"
    argument = {os.system: f"touch {trap}", eval: f"__import__('pathlib').Path({str(trap)!r}).touch()"}.get(
        function, trap
    )
    content = nnunet_checkpoint({}, **{place: {"x": Malicious(function, argument)}})
    torch.save(content, path)
    with pytest.raises(EnsembleError) as caught:
        load_checkpoint(path)
    assert not trap.exists()
    assert "If you trust the file, convert it" in str(caught.value)
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap itself must work"


def test_a_refused_object_is_named_and_the_recommended_conversion_helps(tmp_path):
    path, converted = tmp_path / "checkpoint_final.pth", tmp_path / "converted.pth"
    weights = tiny_network().state_dict()
    torch.save(nnunet_checkpoint(weights, init_args={"output": pathlib.PurePosixPath("/results")}), path)
    with pytest.raises(EnsembleError, match=r"needs pathlib\.\w*PurePosixPath") as caught:
        load_checkpoint(path)
    recipe = str(caught.value).split("import the result: ")[1]
    exec(recipe, {"torch": torch, "path": path, "new_path": converted})  # noqa: S102 - what a user would do
    read = load_checkpoint(converted)
    assert torch.equal(read.weights[STEM], weights[STEM])
    assert (read.trainer, read.mirroring_axes, read.fold) == ("nnUNetTrainer", (0, 1, 2), None)


def damaged_bytes(kind, healthy):
    return {
        "truncated": healthy[: len(healthy) // 2],
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "empty": b"",
        "pickle": pickle.dumps({"network_weights": {}}),
        "zip": b"PK\x05\x06" + bytes(18),
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "pickle", "zip"])
def test_a_damaged_checkpoint_is_reported(checkpoint, kind):
    checkpoint.write_bytes(damaged_bytes(kind, checkpoint.read_bytes()))
    with pytest.raises(EnsembleError, match="damaged or no torch checkpoint"):
        load_checkpoint(checkpoint)


def test_a_missing_checkpoint_is_reported(tmp_path):
    with pytest.raises(EnsembleError, match=r"nowhere\.pth cannot be read: No such file"):
        load_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1], {"network_weights": 3, "trainer_name": "x"}, torch.zeros(2)]
)
def test_another_kind_of_checkpoint_is_reported(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(EnsembleError, match="is no nnU-Net v2 checkpoint"):
        load_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize("value", [3.0, torch.empty(2, device="meta"), torch.eye(2).to_sparse()])
def test_a_weight_that_is_no_dense_tensor_is_reported(tmp_path, value):
    torch.save(nnunet_checkpoint({"a": value}), tmp_path / "odd.pth")
    with pytest.raises(EnsembleError, match="'a', which is no dense tensor"):
        load_checkpoint(tmp_path / "odd.pth")


def test_prefixes_of_ddp_and_compile_are_stripped():
    network = tiny_network()
    prefixed = {f"_orig_mod.module.{name}": value for name, value in network.state_dict().items()}
    assert list(canonical_weights(prefixed, on_meta())) == [name for name, _ in network.named_parameters()]


def test_aliases_are_dropped_and_enough_on_their_own():
    network = tiny_network()
    state = network.state_dict()
    aliases = {name: value for name, value in state.items() if "all_modules" in name or "decoder." in name}
    found = canonical_weights(aliases, on_meta())
    assert len(found) == len(list(network.parameters())) < len(aliases) < len(state)
    assert all(torch.equal(found[name], value) for name, value in network.named_parameters())


@pytest.mark.parametrize(
    "alias", ["encoder.stem.convs.0.all_modules.0.weight", "decoder.encoder.stem.convs.0.conv.weight"]
)
def test_aliases_that_differ_are_refused(alias):
    state = tiny_network().state_dict()
    state[alias] = state[alias] + 1
    with pytest.raises(EnsembleError, match=f"{alias} should repeat {STEM}"):
        canonical_weights(state, on_meta())


def test_a_misfit_is_shown_as_a_readable_difference():
    weights = canonical_weights(tiny_network().state_dict(), on_meta())
    del weights["decoder.seg_layers.0.bias"]
    weights["decoder.extra"] = torch.zeros(2, 3)
    weights[STEM] = weights[STEM][:, :3].half()
    with pytest.raises(EnsembleError) as caught:
        canonical_weights(weights, on_meta())
    summary, *lines = str(caught.value).splitlines()
    assert summary.startswith("3 of the weights do not fit the network")
    assert lines == [
        f"  {STEM}: found float16 4×3×3×3×3, expected float32 4×4×3×3×3",
        "  decoder.seg_layers.0.bias: found nothing, expected float32 4",
        "  decoder.extra: found float32 2×3, expected nothing",
    ]


def test_a_long_difference_is_cut():
    with pytest.raises(EnsembleError) as caught:
        assign_weights(on_meta(), tiny_network(features=(8, 12)).state_dict())
    assert str(caught.value).splitlines()[-1].startswith("  and ")
    assert len(str(caught.value).splitlines()) == 14


def test_saved_weights_depend_on_their_values_only(tmp_path):
    for name in ("one", "two"):
        save_weights(canonical_weights(tiny_network().state_dict(), on_meta()), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_damaged_safetensors_are_reported(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(EnsembleError, match="cannot be read as safetensors"):
        load_weights(path)
    with pytest.raises(EnsembleError, match="cannot be read as safetensors"):
        load_weights(tmp_path / "nowhere.safetensors")
