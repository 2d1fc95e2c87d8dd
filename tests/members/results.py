"""Trained nnU-Net result folders, in its own layout and checkpoint container, with the weights a test wants."""

import copy
import json
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn


def small_plans(patch: tuple[int, int, int] = (16, 16, 8), **changes: Any) -> dict[str, Any]:
    """New-format plans of a three-stage ResEnc network of four channels."""
    return {
        "dataset_name": "Dataset601_BraTS",
        "plans_name": "nnUNetResEncUNetMPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * 4,
                "use_mask_for_norm": [True] * 4,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 8, 16],
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[3, 3, 3]] * 3,
                        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 1]],
                        "n_blocks_per_stage": [1, 2, 2],
                        "n_conv_per_stage_decoder": [1, 1],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
        **changes,
    }


def small_dataset(**changes: Any) -> dict[str, Any]:
    """A dataset.json in this package's own channel order and labels."""
    return {
        "channel_names": {"0": "t1c", "1": "t1n", "2": "t2f", "3": "t2w"},
        "labels": {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3},
        "numTraining": 1351,
        "file_ending": ".nii.gz",
        **changes,
    }


def with_narrow_features(plans: dict[str, Any], divisor: int = 8) -> dict[str, Any]:
    """The same plans with every 3d_fullres stage `divisor` times narrower."""
    narrow = copy.deepcopy(plans)
    configuration = narrow["configurations"]["3d_fullres"]
    if "architecture" in configuration:
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [n // divisor for n in kwargs["features_per_stage"]]
    else:
        configuration["UNet_base_num_features"] //= divisor
        configuration["unet_max_num_features"] //= divisor
    return narrow


def nnunet_network(plans: dict[str, Any], channels: int, heads: int, *, deep_supervision: bool) -> nn.Module:
    """The network nnU-Net itself builds from 3d_fullres, initialised at random."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected old nnU-Net plans format")
        with redirect_stdout(StringIO()):
            configuration = PlansManager(plans).get_configuration("3d_fullres")
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        channels,
        heads,
        allow_init=True,
        deep_supervision=deep_supervision,
    )


def write_results_folder(
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any] | None,
    network_state: dict[str, Tensor],
    trainer: str = "nnUNetTrainer",
    fold: str = "all",
    checkpoint: str = "final",
) -> Path:
    """Write `<folder>/<dataset>/<trainer>__<plans>__3d_fullres` as nnU-Net's trainer does; returns it.

    `network_state` is a network's `state_dict()`, aliases included.
    """
    results = folder / plans["dataset_name"] / f"{trainer}__{plans['plans_name']}__3d_fullres"
    (results / f"fold_{fold}").mkdir(parents=True)
    (results / "plans.json").write_text(json.dumps(plans))
    if dataset is not None:
        (results / "dataset.json").write_text(json.dumps(dataset))
    content = {
        "network_weights": network_state,
        "optimizer_state": _optimizer_state(network_state),
        "grad_scaler_state": {
            "scale": 65536.0,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": 7,
        },
        "logging": {
            "ema_fg_dice": [np.float64(0.8)],
            "dice_per_class_or_region": [[np.float32(0.9)]],
            "epoch_end_timestamps": [1.7e9],
        },
        "_best_ema": np.float64(0.8),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": fold if fold == "all" else int(fold),
            "dataset_json": dataset,
            "unpack_dataset": True,
            "device": torch.device("cpu"),
        },
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, results / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth")
    return results


def _optimizer_state(network_state: dict[str, Tensor]) -> dict[str, Any]:
    first = next(iter(network_state.values()))
    group = {"lr": 1e-5, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5, "params": [0]}
    return {"state": {0: {"momentum_buffer": torch.zeros_like(first)}}, "param_groups": [group]}
