import copy
import json
import subprocess
import sys

import pytest

from goat_ray.errors import EnsembleError
from goat_ray.members.plans import parse_plans

DNA = "dynamic_network_architectures.architectures."
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 1]]
KERNELS = [[3, 3, 3]] * 6
SHARED = {
    "preprocessor_name": "DefaultPreprocessor",
    "patch_size": [128, 160, 112],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"] * 4,
    "use_mask_for_norm": [True] * 4,
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
}


def plans_with(configuration, **others):
    configurations = {"3d_fullres": configuration, **others}
    return {"plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2], "configurations": configurations}


def old_configuration(**changes):
    return {
        **SHARED,
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "pool_op_kernel_sizes": STRIDES,
        "conv_kernel_sizes": KERNELS,
        **changes,
    }


def new_configuration(network="unet.PlainConvUNet", **kwargs):
    blocks = "n_blocks_per_stage" if "Residual" in network else "n_conv_per_stage"
    arguments = {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        blocks: [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **kwargs,
    }
    return {**SHARED, "architecture": {"network_class_name": DNA + network, "arch_kwargs": arguments}}


def test_old_and_new_format_describe_the_same_network():
    old, new = parse_plans(plans_with(old_configuration())), parse_plans(plans_with(new_configuration()))
    assert old == new
    assert old.patch_size == (128, 160, 112)
    assert old.architecture.family == "plain_conv"
    assert old.architecture.strides[-1] == (2, 2, 1)
    assert old.architecture.encoder_blocks == (2, 2, 2, 2, 2, 2)
    assert old.preprocessing.normalization == ("ZScoreNormalization",) * 4


def test_features_of_old_plans_double_up_to_their_maximum():
    plans = plans_with(old_configuration(UNet_base_num_features=24, unet_max_num_features=100))
    assert parse_plans(plans).architecture.features == (24, 48, 96, 100, 100, 100)


@pytest.mark.parametrize("module", ["unet", "residual_unet"])
def test_a_residual_encoder_is_recognised_wherever_its_class_lives(module):
    plans = plans_with(new_configuration(f"{module}.ResidualEncoderUNet", n_blocks_per_stage=[1, 3, 4, 6, 6, 6]))
    architecture = parse_plans(plans).architecture
    assert architecture.family == "residual_encoder"
    assert architecture.encoder_blocks == (1, 3, 4, 6, 6, 6)


def test_one_number_stands_for_every_stage():
    listed = parse_plans(plans_with(new_configuration()))
    short = new_configuration(kernel_sizes=3, n_conv_per_stage=2, n_conv_per_stage_decoder=2)
    assert parse_plans(plans_with(short)) == listed


def test_a_configuration_inherits_through_several_parents_and_its_own_entries_win():
    plans = plans_with(
        old_configuration(),
        wide={"inherits_from": "3d_fullres", "UNet_base_num_features": 64, "unet_max_num_features": 512},
        cube={"inherits_from": "wide", "patch_size": [128, 128, 128], "unet_max_num_features": 128},
    )
    parsed = parse_plans(plans, "cube")
    assert parsed.patch_size == (128, 128, 128)
    assert parsed.architecture.features == (64, 128, 128, 128, 128, 128)
    assert parsed.configuration == "cube"


def test_a_circular_inheritance_is_refused():
    plans = plans_with({"inherits_from": "other"}, other={"inherits_from": "3d_fullres"})
    with pytest.raises(EnsembleError, match="inherits from itself"):
        parse_plans(plans)


def test_an_unknown_configuration_is_refused_with_the_known_ones():
    with pytest.raises(EnsembleError, match="no configuration '2d'; there are 3d_fullres"):
        parse_plans(plans_with(old_configuration()), "2d")


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (old_configuration(patch_size=[192, 160]), "2-D"),
        (old_configuration(patch_size=[128, 160, 100]), "multiple of the strides 32×32×16"),
        (old_configuration(previous_stage="3d_lowres"), "cascade on top of '3d_lowres'"),
        (old_configuration(UNet_class_name="SwinUNETR"), "SwinUNETR.*supported are PlainConvUNet"),
        (old_configuration(normalization_schemes=["CTNormalization"] * 4), "CTNormalization"),
        (old_configuration(use_mask_for_norm=[True]), "4 normalisations but 1 mask"),
        (old_configuration(resampling_fn_data="resample_torch_fornnunet"), "resample_torch_fornnunet"),
        (old_configuration(spacing=[1.0, float("nan"), 1.0]), "not positive"),
        (old_configuration(n_conv_per_stage_decoder=[2] * 6), "n_conv_per_stage_decoder.*expected 5"),
        (old_configuration(UNet_base_num_features=0), "none below 1"),
        (new_configuration("primus.Primus"), "Primus"),
        (new_configuration(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"), "BatchNorm3d"),
        (new_configuration(norm_op_kwargs={"eps": 1e-5, "affine": False}), "norm_op_kwargs"),
        (new_configuration(dropout_op="torch.nn.Dropout3d"), "dropout_op.*Dropout3d"),
        (new_configuration(conv_op="torch.nn.modules.conv.Conv2d"), "Conv2d"),
        (new_configuration(nonlin="torch.nn.GELU"), "GELU"),
        (new_configuration(nonlin_first=True), "nonlin_first"),
        (new_configuration(n_stages=10**9, kernel_sizes=3), "n_stages"),
    ],
)
def test_what_is_unsupported_is_refused_by_name(configuration, message):
    with pytest.raises(EnsembleError, match=message) as caught:
        parse_plans(plans_with(configuration))
    assert "nnUNetPlans" in str(caught.value)


@pytest.mark.parametrize("network", ["os.PlainConvUNet", "goat_ray.demo.PlainConvUNet", "PlainConvUNet"])
def test_a_class_outside_the_known_package_is_refused(network):
    configuration = new_configuration()
    configuration["architecture"]["network_class_name"] = network
    with pytest.raises(EnsembleError, match=network):
        parse_plans(plans_with(configuration))


def test_an_impossible_transpose_is_refused():
    with pytest.raises(EnsembleError, match="no permutation"):
        parse_plans({**plans_with(old_configuration()), "transpose_forward": [0, 1, 1]})


@pytest.mark.parametrize("junk", [None, "x", -1, 0, [], {}, [0], float("inf"), "missing"])
@pytest.mark.parametrize("configuration", [old_configuration(), new_configuration()])
def test_damaged_plans_never_fail_with_anything_but_an_ensemble_error(configuration, junk):
    def damaged(values, key):
        spoilt = copy.deepcopy(values)
        if junk == "missing":
            del spoilt[key]
        else:
            spoilt[key] = junk
        return spoilt

    variants = [damaged(configuration, key) for key in configuration]
    if "architecture" in configuration:
        network = configuration["architecture"]
        variants += [
            {
                **configuration,
                "architecture": {**network, "arch_kwargs": damaged(network["arch_kwargs"], key)},
            }
            for key in network["arch_kwargs"]
        ]
    refused = 0
    for variant in variants:
        try:
            parse_plans(plans_with(variant))
        except EnsembleError:
            refused += 1
    assert refused >= len(variants) / 2


def test_reading_plans_needs_no_torch():
    code = "import sys, goat_ray.members.plans; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real_data
def test_every_real_and_generated_plans_file_is_read(data_root):
    files = [*data_root.glob("plans/real/*/plans.json"), *data_root.glob("plans/generated/*Plans.json")]
    parsed = {file: parse_plans(json.loads(file.read_text())) for file in files}
    assert len(parsed) == 17
    for file, plans in parsed.items():
        residual = "ResEnc" in str(file)
        assert plans.architecture.family == ("residual_encoder" if residual else "plain_conv"), file
        assert plans.architecture.features == (32, 64, 128, 256, 320, 320), file
        assert plans.architecture.encoder_blocks == ((1, 3, 4, 6, 6, 6) if residual else (2,) * 6), file


@pytest.mark.real_data
def test_one_channel_plans_with_their_own_spacing_and_no_mask_are_read(data_root):
    plans = json.loads((data_root / "plans/real/ShadowTwin41_BraTS2024_MEN/plans.json").read_text())
    spec = parse_plans(plans).preprocessing
    assert spec.spacing_mm == (1.100006103515625, 0.9375, 0.9375)
    assert spec.use_mask == (False,)
    assert spec.normalization == ("ZScoreNormalization",)
    with pytest.raises(EnsembleError, match="cascade"):
        parse_plans(plans, "3d_cascade_fullres")
    with pytest.raises(EnsembleError, match="2-D"):
        parse_plans(plans, "2d")
