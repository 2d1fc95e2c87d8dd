"""Members of recipes as nnU-Net's own programs want them: results folders, and cases in a member's channel order."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from goat_ray.cases import Case
from goat_ray.demo.recipes import Recipe
from goat_ray.labels import MODALITIES
from goat_ray.members.ensemble import Member, load_network
from goat_ray.members.networks import build_network
from goat_ray.members.plans import Architecture
from tests.members.results import write_results_folder

_RESAMPLING = {"is_seg": False, "order_z": 0, "force_separate_z": None}
_READING = {
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {str(index): {} for index in range(len(MODALITIES))},
}
_CONFIGURATION = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "batch_dice": True,
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {**_RESAMPLING, "order": 3},
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_seg_kwargs": {**_RESAMPLING, "is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {**_RESAMPLING, "order": 1},
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A member on nnU-Net's side.

    Attributes:
        code: as in the ensemble.
        dataset: name of the dataset it counts as trained on, its own for each member.
        plans: name of its plans.
        regions: whether its heads are sigmoids of WT, TC and ET instead of a softmax over labels.
    """

    code: str
    dataset: str
    plans: str
    regions: bool


def export_member(member: Member, recipe: Recipe, number: int, results: Path) -> Exported:
    """Write the results folder of a recipe's member, as the `number`-th dataset, for nnU-Net's stock trainer."""
    network = load_network(member)
    plans = {**recipe.plans, **_READING, "dataset_name": f"Dataset{900 + number}_{member.code}"}
    configuration = {**recipe.plans["configurations"]["3d_fullres"], **_CONFIGURATION}
    if member.architecture.family == "umamba_bot":
        configuration["architecture"] = {
            "network_class_name": f"{__name__}.umamba_bot",
            "arch_kwargs": {"architecture": dataclasses.asdict(member.architecture)},
            "_kw_requires_import": [],
        }
    plans["configurations"] = {"3d_fullres": configuration}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    write_results_folder(results, plans, recipe.dataset, state)
    return Exported(member.code, plans["dataset_name"], plans["plans_name"], recipe.objective == "regions")


def umamba_bot(
    input_channels: int, num_classes: int, architecture: Mapping[str, Any], deep_supervision: bool = False
) -> nn.Module:
    """What plans of the U-Mamba member name as its network: nnU-Net has none, and U-Mamba's own needs a GPU."""
    as_tuples = {key: _tuples(value) for key, value in architecture.items()}
    return build_network(Architecture(**as_tuples), input_channels, num_classes)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def link_cases(cases: Iterable[Case], channels: Iterable[str], folder: Path) -> Path:
    """A folder of `<case>_0000.nii.gz` and so on: links to the files in a member's order of channels."""
    folder.mkdir(parents=True)
    for case in cases:
        for index, modality in enumerate(channels):
            (folder / f"{case.case_id}_{index:04}.nii.gz").symlink_to(Path(case.images[modality]).resolve())
    return folder


def environment(results: Path, root: Path) -> dict[str, str]:
    """The environment that nnU-Net's programs run in."""
    folders = {"nnUNet_results": results, "nnUNet_raw": root / "raw", "nnUNet_preprocessed": root / "preprocessed"}
    path = str(Path(__file__).resolve().parents[1])
    return {**os.environ, **{name: str(place) for name, place in folders.items()}, "PYTHONPATH": path}
