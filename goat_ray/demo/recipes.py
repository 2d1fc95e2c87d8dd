"""How each of the seven embedded members is made: its plans, its dataset description and its training."""

from dataclasses import dataclass
from typing import Any, Literal

from goat_ray.demo.phantoms import TRAINING_SEEDS
from goat_ray.labels import MODALITIES

DATASET = "Dataset901_SyntheticPhantoms"

Triple = tuple[int, int, int]
Objective = Literal["dice_ce", "dice_topk_focal", "regions"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One member.

    Attributes:
        code: the winning ensemble's name for its full-size sibling.
        plans: nnU-Net plans with one configuration `3d_fullres`.
        objective: which loss; `regions` trains sigmoids for WT, TC and ET instead of a softmax over labels.
        channels: modalities in this member's own input order.
        seeds: its training phantoms, seen by no other member.
        base: code of the member whose weights it starts from.
    """

    code: str
    plans: dict[str, Any]
    objective: Objective
    seeds: range
    steps: int
    learning_rate: float
    channels: tuple[str, ...] = MODALITIES
    base: str | None = None

    @property
    def trainer(self) -> str:
        """Trainer as nnU-Net would name it in folder and checkpoint."""
        return "PhantomTrainer" + ("FineTuning" if self.base else "UMambaBot" if self.code == "UMamba" else "")

    @property
    def dataset(self) -> dict[str, Any]:
        """The member's dataset.json."""
        labels: dict[str, Any] = {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3}
        orders: dict[str, Any] = {}
        if self.objective == "regions":
            labels = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
            orders = {"regions_class_order": [2, 1, 3]}
        return {
            "channel_names": {str(index): name for index, name in enumerate(self.channels)},
            "labels": labels,
            **orders,
            "numTraining": len(self.seeds),
            "file_ending": ".nii.gz",
        }


def residual_plans(name: str, patch: Triple, features: list[int], blocks: list[int], last: Triple) -> dict[str, Any]:
    """Plans in the format of nnU-Net ≥ 2.4 for a residual encoder U-Net."""
    stages = len(features)
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": _strides(stages, last),
            "n_blocks_per_stage": blocks,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    return _plans(f"nnUNetResEncUNet{name}Plans", patch, {"architecture": architecture})


def old_plans(patch: Triple, base: int, largest: int, blocks: list[int]) -> dict[str, Any]:
    """Plans as nnU-Net < 2.4 wrote them; U-Mamba's trainer reads its network from plans of a plain U-Net."""
    stages = len(blocks)
    network = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": base,
        "unet_max_num_features": largest,
        "n_conv_per_stage_encoder": blocks,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "pool_op_kernel_sizes": _strides(stages, (2, 2, 2)),
        "conv_kernel_sizes": [[3, 3, 3]] * stages,
    }
    return _plans("nnUNetPlans", patch, network)


def _strides(stages: int, last: Triple) -> list[list[int]]:
    return [[1, 1, 1], *[[2, 2, 2]] * (stages - 2), [*last]]


def _plans(name: str, patch: Triple, network: dict[str, Any]) -> dict[str, Any]:
    configuration = {
        "patch_size": [*patch],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * len(MODALITIES),
        "use_mask_for_norm": [True] * len(MODALITIES),
        **network,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": name,
        "transpose_forward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
    }


def _seeds(member: int, count: int) -> range:
    start = TRAINING_SEEDS.start + 1000 * member
    return range(start, start + count)


# One window holds a usual brain; M needs two.
_WHOLE: Triple = (160, 192, 160)
_HALF: Triple = (160, 192, 96)
_M = residual_plans("M", _HALF, [6, 12, 24, 32], [1, 1, 1, 2], (2, 2, 1))
_L = residual_plans("L", _WHOLE, [6, 12, 24, 32, 32], [1, 1, 1, 1, 1], (2, 2, 2))
_XL = residual_plans("XL", _WHOLE, [6, 12, 24, 28, 28], [1, 1, 2, 2, 2], (2, 2, 2))
_BASE: dict[str, Any] = {"objective": "dice_ce", "steps": 500, "learning_rate": 4e-3}
_TUNED: dict[str, Any] = {"objective": "dice_topk_focal", "steps": 160, "learning_rate": 1.5e-3}

RECIPES = (
    Recipe("ResNetM", _M, seeds=_seeds(0, 72), **_BASE),
    Recipe("ResNetL", _L, seeds=_seeds(1, 72), **_BASE),
    Recipe("ResNetXL", _XL, seeds=_seeds(2, 72), **_BASE),
    Recipe("FinetuneM", _M, seeds=_seeds(3, 48), base="ResNetM", **_TUNED),
    Recipe("FinetuneL", _L, seeds=_seeds(4, 48), base="ResNetL", **_TUNED),
    Recipe("FinetuneXL", _XL, seeds=_seeds(5, 48), base="ResNetXL", **_TUNED),
    Recipe(
        "UMamba",
        old_plans(_WHOLE, 6, 32, [1, 1, 1, 1, 1]),
        "regions",
        _seeds(6, 72),
        steps=500,
        learning_rate=4e-3,
        # The other order in circulation, that of the public T7 conversion: each member brings its own.
        channels=("t1n", "t1c", "t2w", "t2f"),
    ),
)
"""The seven members in the order their probabilities are summed; a base comes before its twin."""
