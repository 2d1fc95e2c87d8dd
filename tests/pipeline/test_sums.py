"""Running sums on their way through a row."""

import numpy as np

from goat_ray.members.agreement import bit_sets
from goat_ray.members.predictor import RunningSum
from goat_ray.pipeline.sums import decode_sum, encode_sum


def test_a_sum_comes_out_of_a_row_as_it_went_in() -> None:
    rng = np.random.default_rng(1)
    drawn = {code: bit_sets(rng.integers(0, 4, (5, 6, 7)).astype(np.uint8)) for code in ("M", "L")}
    before = RunningSum(rng.random((4, 5, 6, 7), np.float32), drawn, {"M": 0.25, "L": 1.5})
    after = decode_sum(encode_sum(before))
    assert after.merged.tobytes() == before.merged.tobytes()
    assert (after.drawn, after.member_seconds) == (before.drawn, before.member_seconds)
    assert list(after.drawn) == ["M", "L"]
