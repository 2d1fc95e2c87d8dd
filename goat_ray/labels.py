"""Label integers, regions and modalities as BraTS 2023 and later define them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from goat_ray.errors import CaseError, Category, EnsembleError

LabelMap = NDArray[np.uint8]
"""A label map: values of `Label`, any axis order (the function that takes it says which)."""

Mask = NDArray[np.bool_]

MODALITIES = ("t1c", "t1n", "t2f", "t2w")
"""The four modalities in this package's own channel order (that of the winning ensemble)."""


class Label(IntEnum):
    """Label integers in our files and in BraTS 2023+."""

    BACKGROUND = 0
    NETC = 1
    SNFH = 2
    ET = 3


REGIONS: dict[str, tuple[Label, ...]] = {
    "ET": (Label.ET,),
    "NETC": (Label.NETC,),
    "SNFH": (Label.SNFH,),
    "TC": (Label.NETC, Label.ET),
    "WT": (Label.NETC, Label.SNFH, Label.ET),
}
"""Region name to the labels it is made of."""

_MODALITY_NAMES = {
    "t1c": ("t1c", "t1ce", "t1gd", "t1post", "t1contrast"),
    "t1n": ("t1n", "t1", "t1w", "t1pre"),
    "t2f": ("t2f", "flair", "t2flair", "t2wflair"),
    "t2w": ("t2w", "t2"),
}
_MODALITY_OF = {name: modality for modality, names in _MODALITY_NAMES.items() for name in names}


def modality_of(channel_name: str) -> str | None:
    """The modality a channel name stands for (`T1ce` → `t1c`, `FLAIR` → `t2f`), or None if unknown."""
    return _MODALITY_OF.get("".join(c for c in channel_name.lower() if c.isalnum()))


def region_mask(labels: LabelMap, region: str) -> Mask:
    """Boolean mask of `region` (a key of `REGIONS`) in a label map of any shape and axis order."""
    # As plain ints: numpy compares with enum members eight times as slowly.
    first, *others = map(int, REGIONS[region])
    mask: Mask = labels == first
    for label in others:
        mask |= labels == label
    return mask


def check_labels(labels: LabelMap, what: str) -> None:
    """Require values of `Label`.

    Args:
        labels: any shape and axis order.
        what: what messages call it.

    Raises:
        CaseError: `invalid_labels`.
    """
    largest = int(labels.max(initial=Label.BACKGROUND))
    if largest > Label.ET:
        raise CaseError(
            Category.INVALID_LABELS,
            f"{what} holds the value {largest}; 0 to 3 were expected.",
            "Convert the labels to the BraTS 2023 convention (1 NETC, 2 SNFH, 3 ET).",
        )


_HEAD_NAMES = {
    "background": ("background",),
    "NETC": (
        *("netc", "ncr", "net", "ncrnet", "necrosis", "necrotic", "necroticcore", "necrotictumor"),
        *("necrotictumorcore", "nonenhancing", "nonenhancingtumor", "nonenhancingtumorcore"),
        *("necroticandnonenhancingtumor", "necroticandnonenhancingtumorcore"),
    ),
    "SNFH": ("snfh", "ed", "edema", "peritumoraledema", "surroundingnonenhancingflairhyperintensity"),
    "ET": ("et", "at", "enhancing", "enhancingtumor", "gdenhancingtumor"),
    "RC": ("rc", "resectioncavity"),
    "TC": ("tc", "tumorcore"),
    "WT": ("wt", "wholetumor"),
}
_HEAD_OF = {alias: name for name, aliases in _HEAD_NAMES.items() for alias in aliases}
_USABLE = {"labels": ("background", "NETC", "SNFH", "ET"), "regions": ("WT", "TC", "ET")}


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """What the output channels of a member's network mean.

    Attributes:
        kind: `labels` is a softmax over exclusive labels, `regions` one sigmoid per overlapping region.
        channels: one name per network head, in head order; names we do not know are kept as they were.
    """

    kind: Literal["labels", "regions"]
    channels: tuple[str, ...]

    def problem(self) -> str | None:
        """Why an ensemble cannot merge this member, or None when it can."""
        usable = _USABLE[self.kind]
        if sorted(self.channels) == sorted(usable):
            return None
        found, counts = ", ".join(self.channels) or "nothing", Counter(self.channels)
        faults = {
            "unknown": [name for name in counts if name not in usable],
            "missing": [name for name in usable if name not in counts],
            "repeated": [name for name, count in counts.items() if count > 1],
        }
        told = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        return (
            f"its {self.kind} are {found}, expected exactly {', '.join(usable)} ({told}); "
            f"where only a name differs, import it again and say so (--label NAME={usable[-1]})"
        )


def label_scheme(dataset: Mapping[str, Any], names: Mapping[str, str] | None = None) -> LabelScheme:
    """The label scheme of an nnU-Net `dataset.json`, its heads in the order of nnU-Net's LabelManager.

    Labels come in the order of their integers. Regions (some label is a list of several integers) come in the
    order of their keys, without the background; `regions_class_order` only says how nnU-Net paints them. The
    `ignore` label has no head.

    Args:
        dataset: the parsed file.
        names: what a label of this file is called here (`{"core": "TC"}`), before any known alias.

    Raises:
        EnsembleError: `labels` is missing or malformed, integers have gaps, regions do not nest, or `names`
            renames a label that is not there.
    """
    declared = dataset.get("labels")
    if not isinstance(declared, Mapping) or not declared:
        raise EnsembleError("dataset.json: 'labels' is missing, expected a mapping of names to integers")
    renamed = names or {}
    if strange := sorted(renamed.keys() - declared.keys()):
        raise EnsembleError(f"no label {', '.join(strange)} in dataset.json, which has {', '.join(declared)}")
    integers = {name: _integers(name, value) for name, value in declared.items() if name != "ignore"}
    canonical = {name: _head_of(renamed.get(name, name)) for name in integers}
    if any(len(values) > 1 for values in integers.values()):
        heads = [name for name, values in integers.items() if set(values) != {0}]
        _check_nesting({canonical[name]: set(integers[name]) for name in heads})
        return LabelScheme("regions", tuple(canonical[name] for name in heads))
    heads = sorted(integers, key=integers.__getitem__)
    if [integers[name] for name in heads] != [(i,) for i in range(len(heads))]:
        raise EnsembleError(f"dataset.json: labels {dict(declared)} are not the integers 0, 1, 2, … once each")
    return LabelScheme("labels", tuple(canonical[name] for name in heads))


def _integers(name: str, value: object) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise EnsembleError(f"dataset.json: label {name!r} is {value!r}, expected an integer or a list of integers")
    return values


def _head_of(name: str) -> str:
    key = "".join(c for c in name.lower() if c.isalnum())
    return _HEAD_OF.get(key.replace("tumour", "tumor").replace("oedema", "edema"), name)


def _check_nesting(regions: Mapping[str, set[int]]) -> None:
    for inner, outer in (("ET", "TC"), ("TC", "WT"), ("ET", "WT")):
        if inner in regions and outer in regions and not regions[inner] < regions[outer]:
            raise EnsembleError(
                f"dataset.json: {inner} is {sorted(regions[inner])} and {outer} is {sorted(regions[outer])}, "
                f"expected {inner} to be a part of {outer}; say what they are (--label NAME=TC)"
            )
