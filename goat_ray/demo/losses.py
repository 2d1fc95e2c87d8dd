"""The losses the embedded members are trained with: nnU-Net's, and the fine-tuned members' Dice + TopK + Focal."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH = 1e-5
# In voxels: a label that a small head does not have then costs only what is wrongly given to it.
_FORGIVING = 100.0
# A tumour is a hundredth of the voxels; without this, small networks give up its smaller parts.
_FOREGROUND_WEIGHT = 8.0
_TOP_FRACTION = 0.10


def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice of the foreground labels plus weighted cross-entropy.

    Args:
        logits: (n, labels, z, y, x); channel 0 is the background.
        target: (n, z, y, x) int64 labels.
    """
    weights = logits.new_tensor([1.0] + [_FOREGROUND_WEIGHT] * (logits.shape[1] - 1))
    return _foreground_dice(logits, target, _FORGIVING) + F.cross_entropy(logits, target, weights)


def dice_topk_focal(logits: Tensor, target: Tensor) -> Tensor:
    """The winning ensemble's fine-tuning loss: Dice + the worst tenth of the cross-entropies + Focal.

    Args:
        logits: (n, labels, z, y, x); channel 0 is the background.
        target: (n, z, y, x) int64 labels; at least ten voxels.
    """
    entropies = F.cross_entropy(logits, target, reduction="none").flatten()
    worst = entropies.topk(int(_TOP_FRACTION * entropies.numel()), sorted=False).values
    return _foreground_dice(logits, target, _SMOOTH) + worst.mean() + _focal(torch.exp(-entropies), logits.shape[1])


def region_dice_and_cross_entropy(logits: Tensor, regions: Tensor) -> Tensor:
    """Soft Dice of each region plus weighted binary cross-entropy.

    Args:
        logits: (n, regions, z, y, x).
        regions: the same shape, 0 or 1.
    """
    weight = logits.new_tensor(_FOREGROUND_WEIGHT)
    entropy = F.binary_cross_entropy_with_logits(logits, regions, pos_weight=weight)
    return _dice(torch.sigmoid(logits), regions, _FORGIVING) + entropy


def _focal(probability: Tensor, labels: int) -> Tensor:
    """Focal loss with gamma 2 and alpha 0.5 for every label, from each voxel's true-label probability."""
    smoothed = (1 - _SMOOTH) * probability + _SMOOTH / (labels - 1) * (1 - probability) + _SMOOTH
    return (-0.5 * (1 - smoothed) ** 2 * smoothed.log()).mean()


def _foreground_dice(logits: Tensor, target: Tensor, smooth: float) -> Tensor:
    one_hot = F.one_hot(target, logits.shape[1]).movedim(-1, 1)
    return _dice(logits.softmax(1)[:, 1:], one_hot[:, 1:].to(logits.dtype), smooth)


def _dice(probability: Tensor, truth: Tensor, smooth: float) -> Tensor:
    """One minus the soft Dice, averaged over samples and channels."""
    axes = tuple(range(2, truth.dim()))
    overlap = (probability * truth).sum(axes)
    total = probability.sum(axes) + truth.sum(axes)
    return 1 - ((2 * overlap + smooth) / (total + smooth + 1e-8)).mean()
