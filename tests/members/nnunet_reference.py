"""nnU-Net itself as the reference: its preprocessor and predictor around any network, and a network worth comparing.

Parity needs a fitted network: with random weights nearly every voxel is a tie between classes.
"""

import warnings
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F

LABELS = {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3}
REGIONS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3}


def plans(patch, *, spacing=(1.0, 1.0, 1.0), use_mask=True, transpose=(0, 1, 2)) -> dict[str, Any]:
    """A plans file (new format) as far as nnU-Net's inference reads it."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "plans_name": "nnUNetPlans",
        "transpose_forward": list(transpose),
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(4)},
        "label_manager": "LabelManager",
        "configurations": {
            "3d_fullres": {
                "architecture": {},
                "patch_size": list(patch),
                "spacing": list(spacing),
                "preprocessor_name": "DefaultPreprocessor",
                "normalization_schemes": ["ZScoreNormalization"] * 4,
                "use_mask_for_norm": [use_mask] * 4,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
            }
        },
    }


def dataset(labels: dict[str, Any] = LABELS) -> dict[str, Any]:
    """A dataset file with these labels, or with regions painted WT, TC, ET."""
    regions = any(isinstance(value, list) for value in labels.values())
    channels = {str(index): name for index, name in enumerate(("t1c", "t1n", "t2f", "t2w"))}
    order = {"regions_class_order": [2, 1, 3]} if regions else {}
    return {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz", **order}


def preprocessed(images, spacing_mm, plans: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """nnU-Net's input for images (c, z, y, x), and its record of the crop."""
    with _quiet():
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(plans)
        image, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            images, None, {"spacing": list(spacing_mm)}, manager, manager.get_configuration("3d_fullres"), {}
        )
    return image, properties


def predicted(
    network: nn.Module,
    images,
    spacing_mm,
    plans: dict[str, Any],
    *,
    labels: dict[str, Any] = LABELS,
    mirroring_axes: tuple[int, ...] | None = None,
    on_device: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net's labels (z, y, x) and head probabilities (heads, z, y, x) of images (c, z, y, x), on the CPU."""
    with _quiet():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        predictor = nnUNetPredictor(
            use_mirroring=mirroring_axes is not None,
            perform_everything_on_device=on_device,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        manager = PlansManager(plans)
        predictor.manual_initialization(
            network,
            manager,
            manager.get_configuration("3d_fullres"),
            [network.state_dict()],
            dataset(labels),
            "nnUNetTrainer",
            mirroring_axes,
        )
        segmentation, probabilities = predictor.predict_single_npy_array(
            images, {"spacing": list(spacing_mm)}, None, None, True
        )
    return np.asarray(segmentation), np.asarray(probabilities)


class _quiet:  # noqa: N801 - used like a function
    """nnU-Net prints and warns about folders and plan formats; none of that is under test."""

    def __enter__(self) -> None:
        self._warnings, self._stdout = warnings.catch_warnings(), redirect_stdout(StringIO())
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._stdout.__enter__()

    def __exit__(self, *raised) -> None:
        self._stdout.__exit__(*raised)
        self._warnings.__exit__(*raised)


def head_scan(seed: int, shape=(40, 44, 36)) -> tuple[np.ndarray, np.ndarray]:
    """Four noisy images (4, z, y, x) of an ellipsoid with nested blobs, and its labels (z, y, x)."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    brain = (grid**2).sum(0) < 0.9
    labels = np.zeros(shape, np.uint8)
    for _ in range(2):
        centre = random.uniform(-0.4, 0.4, 3)[:, None, None, None]
        distance = np.sqrt(((grid - centre) ** 2).sum(0)) + gaussian_filter(random.normal(0, 1, shape), 3)
        for label, radius in ((2, 0.6), (3, 0.45), (1, 0.3)):
            labels[(distance < radius) & brain] = label
    contrast = np.array([[100, 80, 90, 210], [100, 70, 80, 90], [100, 160, 220, 180], [100, 200, 190, 150]])
    images = contrast[:, labels] + random.normal(0, 18, (4, *shape))
    return np.where(brain, np.maximum(images, 1), 0).astype(np.float32), labels


def unet(heads: int) -> nn.Module:
    """A U-Net of three stages and 4–16 features, freshly initialised from torch's seed."""
    return PlainConvUNet(
        *(4, 3, [4, 8, 16], nn.Conv3d, 3, [1, 2, 2], 1, heads, 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    ).eval()


def fitted(labels: dict[str, Any] = LABELS, steps: int = 60) -> nn.Module:
    """A small U-Net that has learned the blobs of `head_scan` as these labels or regions, in three seconds."""
    random = torch.random.get_rng_state()
    torch.manual_seed(0)
    scans = [head_scan(seed, (24, 24, 24)) for seed in range(4)]
    images = torch.stack([_z_scored(image) for image, _ in scans])
    truth = torch.from_numpy(np.stack([truth for _, truth in scans])).long()
    regions = [torch.tensor(value) for value in labels.values() if value != 0]
    network = unet(3 if labels is REGIONS else 4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        if labels is REGIONS:
            wanted = torch.stack([torch.isin(truth, region) for region in regions], 1).float()
            loss = F.binary_cross_entropy_with_logits(network(images), wanted, pos_weight=torch.tensor(4.0))
        else:
            loss = F.cross_entropy(network(images), truth, weight=torch.tensor([0.1, 1, 1, 1]))
        loss.backward()
        optimizer.step()
    torch.random.set_rng_state(random)
    return network.requires_grad_(False)


def _z_scored(images: np.ndarray) -> torch.Tensor:
    inside = images[0] != 0
    values = images[:, inside]
    images[:, inside] = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    return torch.from_numpy(images)
