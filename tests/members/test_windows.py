import subprocess
import sys

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from goat_ray.members.windows import padded_grid, window_slices, window_starts

axes = st.tuples(*[st.integers(1, 400)] * 3)


@settings(max_examples=100, deadline=None)
@given(shape=axes, patch=axes, step=st.sampled_from([0.5, 0.25, 0.7, 1.0]))
def test_windows_start_where_nnunet_starts_them(shape, patch, step):
    size, _ = padded_grid(shape, patch)
    z, y, x = compute_steps_for_sliding_window(size, patch, step)
    assert window_starts(size, patch, step) == [(a, b, c) for a in z for b in y for c in x]


@given(shape=st.tuples(*[st.integers(1, 12)] * 3), patch=st.tuples(*[st.integers(1, 12)] * 3))
@settings(deadline=None)
def test_padding_is_that_of_nnunet(shape, patch):
    image = np.arange(np.prod(shape)).reshape(1, *shape) + 1
    expected, slicer = pad_nd_image(image, patch, "constant", {"constant_values": 0}, True)
    size, inner = padded_grid(shape, patch)
    padded = np.zeros((1, *size), image.dtype)
    padded[(slice(None), *inner)] = image
    np.testing.assert_array_equal(padded, expected)
    assert inner == slicer[1:]


@pytest.mark.parametrize(("patch", "windows"), [((128, 160, 112), 8), ((128, 128, 128), 8), ((160, 192, 160), 1)])
def test_a_typical_brain_takes_eight_or_one_windows(patch, windows):
    size, _ = padded_grid((140, 171, 136), patch)
    starts = window_starts(size, patch)
    covered = torch.zeros(size, dtype=torch.int16)
    for start in starts:
        covered[window_slices(start, patch)] += 1
    assert len(starts) == windows
    assert covered.min() == 1


def test_the_grid_needs_no_torch():
    code = "import sys, goat_ray.members.windows, goat_ray.members.preprocess; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
