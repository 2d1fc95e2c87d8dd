"""Running sums as rows carry them from one pool of members to the next."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from goat_ray.pipeline.rows import Row

if TYPE_CHECKING:
    from goat_ray.members.predictor import RunningSum

NO_SUM: Row = {"merged": np.zeros((0, 0, 0, 0), np.float32), "so_far": ""}
"""Columns of a sum, in a row that has none."""


def encode_sum(running: "RunningSum") -> Row:
    """The sum itself, and as text what else is known of its members; masks are whole numbers, in hexadecimal."""
    drawn = {code: {region: f"{bits:x}" for region, bits in masks.items()} for code, masks in running.drawn.items()}
    so_far = json.dumps({"drawn": drawn, "member_seconds": running.member_seconds})
    return {"merged": running.merged, "so_far": so_far}


def decode_sum(row: Row) -> "RunningSum":
    """Inverse of `encode_sum`."""
    # Only here: tasks that pass a case on without a network start much faster without torch.
    from goat_ray.members.predictor import RunningSum

    told = json.loads(row["so_far"])
    drawn: dict[str, Mapping[str, int]] = {
        code: {region: int(bits, 16) for region, bits in masks.items()} for code, masks in told["drawn"].items()
    }
    return RunningSum(row["merged"], drawn, told["member_seconds"])
