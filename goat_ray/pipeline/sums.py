"""Running sums as rows carry them from one pool of members to the next."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from goat_ray.members.predictor import RunningSum


def encode_sum(running: "RunningSum") -> tuple[NDArray[np.float32], str]:
    """The sum itself, and as text what else is known of its members; masks are whole numbers, in hexadecimal."""
    drawn = {code: {region: f"{bits:x}" for region, bits in masks.items()} for code, masks in running.drawn.items()}
    return running.merged, json.dumps({"drawn": drawn, "member_seconds": running.member_seconds})


def decode_sum(merged: NDArray[np.float32], text: str) -> "RunningSum":
    """Inverse of `encode_sum`."""
    # Only here: tasks that pass a case on without a network start much faster without torch.
    from goat_ray.members.predictor import RunningSum

    told = json.loads(text)
    drawn: dict[str, Mapping[str, int]] = {
        code: {region: int(bits, 16) for region, bits in masks.items()} for code, masks in told["drawn"].items()
    }
    return RunningSum(merged, drawn, told["member_seconds"])
