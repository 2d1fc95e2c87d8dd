"""From the heads of one member to canonical probabilities, and from merged probabilities to labels."""

from typing import Literal

import torch
from torch import Tensor

from goat_ray.labels import REGIONS, Label, LabelScheme

Rule = Literal["majority", "argmax", "regions"]
"""How probabilities become labels; `majority` is the rule of the winning BraTS-GoAT 2025 entry."""

CLASSES = ("background", "NETC", "SNFH", "ET")
"""Names of the canonical classes, in the order of `Label`."""

MAPPED_REGIONS = ("ET", "TC", "WT")
"""The regions whose probabilities can be saved, in file order."""


def canonical_probabilities(logits: Tensor, scheme: LabelScheme) -> Tensor:
    """Probabilities of the four classes (4, z, y, x), fp32, from a member's logits (heads, z, y, x).

    Sigmoid regions are nested first (ET ≤ TC ≤ WT, by a running maximum) and then taken apart, so that the
    `regions` rule gives back nnU-Net's own decoding of them.
    """
    if scheme.kind == "labels":
        probabilities = torch.softmax(logits.float(), dim=0)
        heads = [scheme.channels.index(name) for name in CLASSES]
        return probabilities if heads == [0, 1, 2, 3] else probabilities[heads]
    probabilities = torch.sigmoid(logits.float())
    wt, tc, et = (probabilities[scheme.channels.index(name)] for name in ("WT", "TC", "ET"))
    tc = torch.maximum(tc, et)
    wt = torch.maximum(wt, tc)
    return torch.stack((1 - wt, tc - et, wt - tc, et))


def decode(probabilities: Tensor, rule: Rule) -> Tensor:
    """Labels, uint8 (z, y, x), of class probabilities (4, z, y, x).

    * `majority`: the class with more than half of the probability; background where there is none.
    * `argmax`: the likeliest class, the lowest one of equals.
    * `regions`: WT, TC and ET each where likelier than not, nested.
    """
    if rule == "majority":
        return _majority(probabilities)
    return _argmax(probabilities) if rule == "argmax" else _regions(probabilities)


def _majority(probabilities: Tensor) -> Tensor:
    labels = _as_label(probabilities[Label.NETC] > 0.5, Label.NETC)
    for label in (Label.SNFH, Label.ET):
        torch.maximum(labels, _as_label(probabilities[label] > 0.5, label), out=labels)
    return labels


def _argmax(probabilities: Tensor) -> Tensor:
    # torch.argmax over the slowest axis takes twenty times as long as three comparisons.
    labels = _as_label(probabilities[Label.NETC] > probabilities[0], Label.NETC)
    best = torch.maximum(probabilities[0], probabilities[Label.NETC])
    for label in (Label.SNFH, Label.ET):
        torch.maximum(labels, _as_label(probabilities[label] > best, label), out=labels)
        torch.maximum(best, probabilities[label], out=best)
    return labels


def _regions(probabilities: Tensor) -> Tensor:
    wt = region_probability(probabilities, "WT") > 0.5
    tc = (region_probability(probabilities, "TC") > 0.5) & wt
    et = (region_probability(probabilities, "ET") > 0.5) & tc
    # Each region lies inside the one before it: 2, then 2 - 1, then 2 - 1 + 2.
    return _as_label(wt, Label.SNFH).sub_(_as_label(tc, Label.NETC)).add_(_as_label(et, 2))


def _as_label(mask: Tensor, label: int) -> Tensor:
    # Bytes are multiplied ten times as fast as masks are filled.
    return mask.view(torch.uint8) * int(label)


def region_probability(probabilities: Tensor, region: str) -> Tensor:
    """Probability (…) of belonging to a region (key of `REGIONS`), from class probabilities (4, …)."""
    if region == "WT":
        return 1 - probabilities[Label.BACKGROUND]
    first, *others = REGIONS[region]
    return sum((probabilities[label] for label in others), start=probabilities[first])


def quantised_regions(probabilities: Tensor) -> Tensor:
    """P(ET), P(TC) and P(WT), uint8 (3, z, y, x) in steps of 1/255, of class probabilities (4, z, y, x)."""
    regions = torch.empty((len(MAPPED_REGIONS), *probabilities.shape[1:]), dtype=torch.uint8)
    for target, region in zip(regions, MAPPED_REGIONS, strict=True):
        # Sums of rounded numbers may lie a little outside 0 to 1.
        target.copy_((region_probability(probabilities, region) * 255).round_().clamp_(0, 255))
    return regions


def confidence(probabilities: Tensor, labels: Tensor) -> dict[str, float | None]:
    """How sure the ensemble is of what it found: scalars of one case, None where there is nothing to judge.

    Each region of `REGIONS`: its mean probability over the voxels labelled so. Over the predicted tumour,
    `entropy`: mean Shannon entropy (nats) of the classes; `margin`: mean lead of the likeliest class on the next.

    Args:
        probabilities: merged class probabilities (4, z, y, x).
        labels: decoded labels (z, y, x).
    """
    tumour = labels > 0
    inside, found = probabilities[:, tumour], labels[tumour]
    members = {region: torch.isin(found, torch.tensor(REGIONS[region], device=found.device)) for region in REGIONS}
    scores = {region: _mean(region_probability(inside, region)[mask]) for region, mask in members.items()}
    first, second = inside.topk(2, dim=0).values
    return {**scores, "entropy": _mean(torch.special.entr(inside).sum(dim=0)), "margin": _mean(first - second)}


def _mean(values: Tensor) -> float | None:
    # Rounded: how many threads shared the sum must not show in a table.
    return round(float(values.mean(dtype=torch.float64)), 6) if len(values) else None
