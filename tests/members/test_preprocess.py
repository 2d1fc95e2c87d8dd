import subprocess
import sys

import nibabel
import numpy as np
import pytest

from goat_ray.errors import CaseError, Category, EnsembleError
from goat_ray.members.plans import Preprocessing
from goat_ray.members.preprocess import preprocess, restore
from tests.members import nnunet_reference as nnunet

Z_SCORE = ("ZScoreNormalization",) * 4


def spec_of(plans):
    values = plans["configurations"]["3d_fullres"]
    return Preprocessing(
        tuple(values["spacing"]),
        tuple(values["normalization_schemes"]),
        tuple(values["use_mask_for_norm"]),
        tuple(plans["transpose_forward"]),
    )


def cropped_as_nnunet(images):
    """The brain box of images (c, z, y, x) as a view, and its filled mask."""
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    crop, outside, _ = crop_to_nonzero(images)
    return crop, outside[0] == 0


@pytest.fixture
def head():
    images, _ = nnunet.head_scan(5, (30, 40, 34))
    images[:, 14:16, 18:20, 16:18] = 0  # a hole inside the brain, which belongs to it
    images[1, 10:12] = 0
    return np.pad(images, ((0, 0), (2, 3), (4, 1), (3, 2)))


@pytest.mark.parametrize("use_mask", [True, False])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0000001, 1.0, 1.0), (0.93, 1.1, 1.0), (3.5, 0.9, 0.9)])
def test_bits_are_those_of_nnunet(head, use_mask, transpose, spacing_mm):
    plans = nnunet.plans((16, 16, 16), use_mask=use_mask, transpose=transpose)
    expected, _ = nnunet.preprocessed(head, spacing_mm, plans)
    crop, mask = cropped_as_nnunet(head)
    volume = preprocess(crop, mask, spacing_mm, spec_of(plans))
    np.testing.assert_array_equal(volume.image, expected, strict=True)
    assert volume.crop_shape == crop.shape[1:]
    assert volume.crop_spacing_mm == spacing_mm


def test_integer_images_give_the_same_bits_and_stay_as_they_are(head):
    plans = nnunet.plans((16, 16, 16))
    crop, mask = cropped_as_nnunet(head.astype(np.int16))
    before = crop.copy()
    expected, _ = nnunet.preprocessed(head.astype(np.int16), (1, 1, 1), plans)
    np.testing.assert_array_equal(preprocess(crop, mask, (1, 1, 1), spec_of(plans)).image, expected)
    np.testing.assert_array_equal(crop, before)


def test_a_constant_channel_becomes_zero_and_not_nan(head):
    crop, mask = cropped_as_nnunet(head)
    crop[2][mask] = 7
    image = preprocess(crop, mask, (1, 1, 1), spec_of(nnunet.plans((16, 16, 16)))).image
    assert not image[2].any()
    assert np.isfinite(image).all()


@pytest.mark.real_data
def test_bits_are_those_of_nnunet_on_a_real_case(data_root):
    case = data_root / "cohort" / "TCGA-FG-6692"
    paths = [case / f"{case.name}-{name}.nii.gz" for name in ("t1c", "t1n", "t2f", "t2w")]
    images = np.stack([np.asarray(nibabel.load(path).dataobj).T for path in paths])
    plans = nnunet.plans((16, 16, 16))
    expected, _ = nnunet.preprocessed(images, (1, 1, 1), plans)
    crop, mask = cropped_as_nnunet(images)
    np.testing.assert_array_equal(preprocess(crop, mask, (1, 1, 1), spec_of(plans)).image, expected)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_logits_go_back_to_the_crop_as_in_nnunet(head, transpose, dtype):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    spacing_mm = (0.9, 1.2, 1.0)
    spec = Preprocessing((1.0, 1.0, 1.0), Z_SCORE, (True,) * 4, transpose)
    crop, mask = cropped_as_nnunet(head)
    volume = preprocess(crop, mask, spacing_mm, spec)
    logits = volume.image[:3].astype(dtype)
    expected = resample_data_or_seg_to_shape(
        logits,
        [crop.shape[1 + axis] for axis in transpose],
        (1.0, 1.0, 1.0),
        [spacing_mm[axis] for axis in transpose],
        is_seg=False,
        order=1,
        force_separate_z=None,
    ).transpose(0, *(1 + transpose.index(axis) for axis in range(3)))
    np.testing.assert_array_equal(restore(logits, volume, spec), expected, strict=True)
    assert expected.shape[1:] == crop.shape[1:]


def test_logits_of_a_case_at_planned_spacing_are_not_copied(head):
    spec = spec_of(nnunet.plans((16, 16, 16)))
    volume = preprocess(*cropped_as_nnunet(head), (1, 1, 1), spec)
    assert restore(volume.image, volume, spec).base is volume.image


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (Preprocessing((1, 1, 1), ("CTNormalization",) * 4, (True,) * 4, (0, 1, 2)), "CTNormalization"),
        (Preprocessing((1, 1, 1), Z_SCORE, (True, True, False, True), (0, 1, 2)), "some channels"),
    ],
)
def test_a_normalisation_we_do_not_have_is_refused(head, spec, named):
    with pytest.raises(EnsembleError, match=named):
        preprocess(*cropped_as_nnunet(head), (1, 1, 1), spec)


def test_resampling_says_nothing_on_the_terminal():
    code = (
        "import numpy as np; from goat_ray.members.preprocess import *;"
        "spec = Preprocessing((1., 1., 1.), ('ZScoreNormalization',), (True,), (0, 1, 2));"
        "crop = np.ones((1, 4, 4, 4)); volume = preprocess(crop, crop[0] > 0, (2., 1., 1.), spec);"
        "raise SystemExit(volume.image.shape != (1, 8, 4, 4))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("spacing_mm", [(500.0, 500.0, 500.0), (1e-6, 1.0, 1.0)])
def test_an_absurd_voxel_size_is_refused_before_anything_is_resampled(head, spacing_mm):
    crop, mask = cropped_as_nnunet(head)
    with pytest.raises(CaseError) as caught:
        preprocess(crop, mask, spacing_mm, spec_of(nnunet.plans((16, 16, 16))))
    assert caught.value.category == Category.TOO_LARGE
    assert "voxel size" in caught.value.hint
