import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from goat_ray.errors import EnsembleError
from goat_ray.members.networks import build_network, initialize_weights, parameter_count, with_family
from goat_ray.members.plans import Architecture, parse_plans
from goat_ray.members.weights import assign_weights, load_checkpoint

FAMILIES = ("plain_conv", "residual_encoder", "umamba_bot", "umamba_bot_upstream")
TINY = Architecture(
    family="plain_conv",
    features=(4, 6, 8),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2), (1, 2, 2)),
    encoder_blocks=(2, 2, 1),
    decoder_blocks=(2, 1),
)


def full_size(family, last_stride):
    """The winner's plans: ResEnc M, L and XL, and the default planner's for U-Mamba-Bot."""
    residual = family == "residual_encoder"
    return Architecture(
        family=family,
        features=(32, 64, 128, 256, 320, 320),
        kernels=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 4, last_stride),
        encoder_blocks=(1, 3, 4, 6, 6, 6) if residual else (2,) * 6,
        decoder_blocks=(1,) * 5 if residual else (2,) * 5,
    )


def on_meta(architecture, in_channels=4, heads=4):
    with torch.device("meta"):
        return build_network(architecture, in_channels, heads)


@pytest.mark.parametrize(
    ("family", "last_stride", "parameters"),
    [
        ("residual_encoder", (2, 2, 1), 101_944_372),
        ("residual_encoder", (2, 2, 2), 102_353_972),
        ("umamba_bot", (2, 2, 1), 58_001_364),
        ("umamba_bot", (2, 2, 2), 58_410_964),
    ],
)
def test_the_winners_networks_have_their_published_parameter_counts(family, last_stride, parameters):
    assert parameter_count(on_meta(full_size(family, last_stride))) == parameters


def test_the_upstream_flavour_keeps_one_block_in_its_deeper_half():
    plain = full_size("plain_conv", (2, 2, 2))
    upstream = with_family(plain, on_meta(replace(plain, family="umamba_bot_upstream")).state_dict())
    assert upstream.encoder_blocks == (2, 2, 2, 1, 1, 1)
    assert upstream.decoder_blocks == (2, 2, 2, 1, 1)
    assert parameter_count(on_meta(upstream)) / 1e6 == pytest.approx(42.1, abs=0.05)
    assert with_family(upstream, on_meta(upstream).state_dict()) == upstream


@pytest.mark.parametrize(("family", "names", "tensors"), [("residual_encoder", 956, 264), ("umamba_bot", 669, 238)])
def test_state_dicts_have_nnunets_names_and_aliases(family, names, tensors):
    network = on_meta(full_size(family, (2, 2, 2)))
    assert len(network.state_dict()) == names
    assert len(list(network.parameters())) == tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_is_the_logits_at_full_resolution(family):
    network = build_network(replace(TINY, family=family), in_channels=3, heads=5).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 8, 16, 12)).shape == (2, 5, 8, 16, 12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_the_family_is_told_by_the_checkpoints_keys(family, prefix):
    keys = [prefix + key for key in on_meta(replace(TINY, family=family)).state_dict()]
    named = "residual_encoder" if family == "residual_encoder" else "plain_conv"
    assert with_family(replace(TINY, family=named), keys).family == family


def test_plans_and_keys_that_name_different_networks_are_refused():
    keys = on_meta(replace(TINY, family="residual_encoder")).state_dict()
    with pytest.raises(EnsembleError, match="residual_encoder network, its plans name plain_conv"):
        with_family(TINY, keys)


def test_batch_normalisation_is_refused():
    keys = [*on_meta(TINY).state_dict(), "encoder.stages.0.0.convs.0.norm.running_mean"]
    with pytest.raises(EnsembleError, match="batch normalisation"):
        with_family(TINY, keys)


def test_an_unknown_network_is_refused_with_some_of_its_keys():
    with pytest.raises(EnsembleError, match=r"swinViT\.patch_embed.*fit none"):
        with_family(TINY, ["swinViT.patch_embed.proj.weight"])


def test_initialisation_leaves_mamba_alone_and_starts_residual_blocks_as_their_skip():
    torch.manual_seed(0)
    network = build_network(replace(TINY, family="umamba_bot"), 4, 4)
    before = {name: value.clone() for name, value in network.mamba.state_dict().items()}
    initialize_weights(network)
    after = network.mamba.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.count_nonzero(network.encoder.stages[1].blocks[0].conv2.norm.weight) == 0
    assert torch.count_nonzero(network.encoder.stem.convs[0].conv.bias) == 0


@pytest.mark.parametrize("family", ["umamba_bot", "umamba_bot_upstream"])
def test_under_autocast_mamba_stays_in_float32(family):
    torch.manual_seed(0)
    network = build_network(replace(TINY, family=family), 4, 4).eval()
    seen = []
    mamba = next(module for module in network.modules() if type(module).__name__ == "Mamba")
    mamba.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.randn(1, 4, 8, 8, 8))
    assert seen == [torch.float32, torch.float32]
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_on_the_way_to_the_logits_learns(family):
    torch.manual_seed(0)
    network = build_network(replace(TINY, family=family), 4, 4)
    network(torch.randn(2, 4, 8, 8, 8)).square().mean().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None]
    assert idle == ["decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"]
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)


@pytest.mark.real_data
@pytest.mark.parametrize("flavour", ["winner", "upstream"])
def test_both_umamba_flavours_reproduce_their_original(data_root, flavour):
    folder = next((data_root / "umamba" / flavour).glob("*__3d_fullres"))
    plans = parse_plans(json.loads((folder / "plans.json").read_text()))
    weights = load_checkpoint(folder / "fold_all" / "checkpoint_final.pth").weights
    network = on_meta(with_family(plans.architecture, weights)).eval()
    assign_weights(network, weights)
    golden = {name: torch.from_numpy(array) for name, array in np.load(folder.parent / "golden.npz").items()}
    layer: nn.Module = network.mamba if flavour == "winner" else network.mamba_layer.mamba
    with torch.inference_mode():
        torch.testing.assert_close(network(golden["input"]), golden["logits"], rtol=0, atol=1e-4)
        torch.testing.assert_close(layer(golden["mamba_in"]), golden["mamba_out"], rtol=0, atol=1e-6)
    assert parameter_count(network) == {"winner": 582_860, "upstream": 389_148}[flavour]
