import itertools

import numpy as np
import pytest

from goat_ray.demo.phantoms import (
    BENCHMARK_SEEDS,
    DEMO_SEEDS,
    SITES,
    TRAINING_SEEDS,
    TUMOURS,
    Phantom,
    make_phantom,
)
from goat_ray.errors import ConfigError
from goat_ray.labels import MODALITIES, Label

SHAPE = (40, 48, 40)
SEED = 31_000


@pytest.fixture(scope="module", params=[*TUMOURS])
def phantom(request: pytest.FixtureRequest) -> tuple[str, Phantom]:
    return request.param, make_phantom(SEED, SHAPE, request.param, "north")


def test_the_same_arguments_give_the_same_phantom() -> None:
    one, other = (make_phantom(SEED, SHAPE, "large_glioma", "south") for _ in range(2))
    assert np.array_equal(one.labels, other.labels)
    assert all(np.array_equal(one.images[m], other.images[m]) for m in MODALITIES)


def test_another_seed_gives_another_head() -> None:
    one, other = (make_phantom(seed, SHAPE, "large_glioma", "north") for seed in (SEED, SEED + 1))
    assert not np.array_equal(one.labels, other.labels)


def test_a_patient_has_the_same_anatomy_at_every_site_and_looks_different() -> None:
    scans = [make_phantom(SEED, SHAPE, "large_glioma", site) for site in SITES]
    assert len(scans) >= 3
    for one, other in itertools.pairwise(scans):
        assert np.array_equal(one.labels, other.labels)
        assert not np.allclose(one.images["t1c"], other.images["t1c"], rtol=0.1)


def test_images_are_float32_and_zero_exactly_outside_the_brain(phantom: tuple[str, Phantom]) -> None:
    _, made = phantom
    assert tuple(made.images) == MODALITIES
    brain = made.images["t1c"] > 0
    assert 0.2 < brain.mean() < 0.6
    for image in made.images.values():
        assert image.dtype == np.float32
        assert image.shape == SHAPE
        assert np.array_equal(np.rint(image) >= 1, brain)
        assert image.max() < np.iinfo(np.int16).max
    assert made.labels.dtype == np.uint8
    assert not made.labels[~brain].any()


def test_each_tumour_type_has_the_labels_it_is_named_for(phantom: tuple[str, Phantom]) -> None:
    tumour, made = phantom
    expected = {
        "large_glioma": {Label.NETC, Label.SNFH, Label.ET},
        "small_metastases": {Label.SNFH, Label.ET},
        "meningioma_like": {Label.SNFH, Label.ET},
        "no_enhancing": {Label.NETC, Label.SNFH},
        "none": set(),
    }[tumour]
    assert {int(label) for label in np.unique(made.labels)} - {0} == expected


def test_tumours_look_as_their_parts_do_in_each_modality() -> None:
    made = make_phantom(SEED, SHAPE, "large_glioma", "north")
    healthy = (made.images["t1c"] > 0) & (made.labels == 0)

    def median(modality: str, where: np.ndarray) -> float:
        return float(np.median(made.images[modality][where]))

    rim, core, oedema = (made.labels == label for label in (Label.ET, Label.NETC, Label.SNFH))
    assert median("t1c", rim) > 1.3 * median("t1c", healthy) > median("t1c", core)
    assert median("t1n", rim) < median("t1n", healthy)
    assert median("t2f", oedema) > 1.3 * median("t2f", healthy) > 1.3 * median("t2f", core)
    assert median("t2w", oedema) > 1.3 * median("t2w", healthy)


def test_a_brats_grid_holds_a_brain_of_usual_size_in_lps_storage() -> None:
    made = make_phantom(SEED, (240, 240, 155), "none", "north")
    inside = np.nonzero(made.images["t1c"])
    extent = [int(np.ptp(axis)) + 1 for axis in inside]
    assert extent == pytest.approx([136, 171, 140], rel=0.06)
    assert np.array_equal(made.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("shape", "tumour", "site"), [((8, 48, 40), "none", "north"), (SHAPE, "cyst", "north"), (SHAPE, "none", "west")]
)
def test_what_cannot_be_made_is_refused_with_the_choices(shape: tuple[int, int, int], tumour: str, site: str) -> None:
    with pytest.raises(ConfigError, match=r"large_glioma.*north"):
        make_phantom(SEED, shape, tumour, site)


def test_no_phantom_is_trained_on_and_judged_by() -> None:
    for one, other in itertools.combinations((TRAINING_SEEDS, DEMO_SEEDS, BENCHMARK_SEEDS), 2):
        assert not set(one) & set(other)
