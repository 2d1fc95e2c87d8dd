"""Tiny cohorts and ensembles for tests of the whole path."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np

from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE
from goat_ray.demo.phantoms import Phantom, make_phantom
from goat_ray.labels import MODALITIES
from goat_ray.members.cards import CARD_FILE

SHAPE = (30, 34, 28)
REGION_LABELS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


def phantom(seed: int) -> Phantom:
    """A small head with a glioma."""
    return make_phantom(seed, SHAPE, "large_glioma", "north")


def write_case(cohort: Path, case_id: str, seed: int = 1) -> Path:
    """Write one phantom as a BraTS case folder; returns the folder."""
    head = phantom(seed)
    folder = cohort / case_id
    folder.mkdir(parents=True)
    for modality in MODALITIES:
        image = nibabel.Nifti1Image(head.images[modality].astype(np.int16), head.affine)
        nibabel.save(image, folder / f"{case_id}-{modality}.nii.gz")
    return folder


def write_linked_cohort(cohort: Path, cases: int) -> None:
    """Write so many cases that share the files of one, which lies beside the cohort."""
    model = write_case(cohort.parent / "model", "model")
    for number in range(cases):
        case_id = f"case-{number:06d}"
        (cohort / case_id).mkdir(parents=True)
        for path in model.iterdir():
            os.link(path, cohort / case_id / path.name.replace("model", case_id))


def write_tiny_ensemble(folder: Path, *, poisoned: str = "") -> Path:
    """Import two members with random weights, of different channel orders and label schemes; returns the manifest.

    Args:
        folder: where results folders and the ensemble go.
        poisoned: the member, Labels or Regions, that is given a weight that is not a number.
    """
    # Only here: workers that import this module for its phantoms start much faster without torch.
    import torch

    from goat_ray.members.importing import import_results
    from tests.members.results import nnunet_network, small_dataset, small_plans, write_results_folder

    torch.manual_seed(0)
    sources = []
    for code, dataset, heads in (
        ("Labels", small_dataset(), 4),
        ("Regions", small_dataset(labels=REGION_LABELS, regions_class_order=[2, 1, 3], **_other_order()), 3),
    ):
        plans = small_plans(patch=(24, 24, 16))
        state = nnunet_network(plans, 4, heads, deep_supervision=False).state_dict()
        if code == poisoned:
            state["decoder.seg_layers.1.bias"][0] = float("nan")
        sources.append(f"{code}={write_results_folder(folder / code, plans, dataset, state)}")
    manifest = folder / "ensemble.yaml"
    import_results(sources, manifest)
    return manifest


def _other_order() -> dict[str, dict[str, str]]:
    return {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}


def embedded_with_small_windows(folder: Path) -> Path:
    """The embedded members on windows that just hold a small head: theirs take seconds each, whatever is in them."""
    shutil.copytree(EMBEDDED_ENSEMBLE.parent, folder)
    manifest = folder / EMBEDDED_ENSEMBLE.name
    for path in folder.rglob(CARD_FILE):
        before = path.read_bytes()
        path.write_text(json.dumps({**json.loads(before), "patch_size": [32, 48, 32]}))
        hashes = (hashlib.sha256(data).hexdigest() for data in (before, path.read_bytes()))
        manifest.write_text(manifest.read_text().replace(*hashes))
    return manifest
