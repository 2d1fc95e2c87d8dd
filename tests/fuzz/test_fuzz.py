"""Thousands of damaged inputs: each ends as a sound result or as one of our own errors, soon and in little memory.

A finding names its target, seed and index: `try_mutation(make_targets(folder)[target], seed, index)` repeats it.
`python -m benchmarks.fuzz` goes on for as long as it is told to.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from goat_ray.errors import CaseError, ConfigError, EnsembleError, GoatRayError
from goat_ray.imaging.nifti import Image, decode_image
from tests.fuzz import images
from tests.fuzz.engine import CAN_RESET_PEAK, Target, try_mutation
from tests.fuzz.targets import make_targets

SEED = 2025
MUTATIONS = {
    "nifti bytes": 500,
    "nifti header": 400,
    "nifti gzip": 200,
    "case": 250,
    "csv manifest": 300,
    "parquet manifest": 150,
    "run config": 120,
    "evaluate config": 100,
    "spec": 120,
    "ensemble": 100,
    "card of ResNetM": 80,
    "card of UMamba": 40,
    "plans": 300,
    "commits": 30,
    "errors": 20,
    "timings": 20,
    "suspects": 20,
    "run.json": 30,
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return make_targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_is_tried_and_all_together_two_thousand_times(targets: dict[str, Target]) -> None:
    assert MUTATIONS.keys() == targets.keys()
    assert sum(MUTATIONS.values()) >= 2000


@pytest.mark.parametrize("name", MUTATIONS)
def test_damage_ends_as_a_sound_result_or_as_an_error_of_our_own(targets: dict[str, Target], name: str) -> None:
    target = targets[name]
    for content in target.intact:
        target.read(content)
    verdicts = Counter(try_mutation(target, SEED, index).verdict for index in range(MUTATIONS[name]))
    assert verdicts["accepted"] > 0
    resumes = target.refusal in (None, GoatRayError)  # objects of a run folder: damaged ones simply do not count
    assert verdicts.total() > verdicts["accepted"] or resumes


def test_damage_depends_on_nothing_but_its_number(targets: dict[str, Target], tmp_path: Path) -> None:
    others = make_targets(tmp_path)
    for name, target in targets.items():
        for index in range(20):
            assert target.damage(Random(index)) == others[name].damage(Random(index)), name


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "read",
    [
        lambda _data: _raise(ValueError("oops")),
        lambda _data: _raise(EnsembleError("another kind")),
        lambda _data: _raise(ConfigError("")),
        lambda _data: _raise(ConfigError("x" * 50_000)),
        lambda _data: warnings.warn("oops", RuntimeWarning, stacklevel=1),
        lambda _data: _raise(AssertionError("not sound")),
    ],
    ids=["foreign error", "other error", "no message", "endless message", "warning", "unsound result"],
)
def test_what_should_not_happen_is_a_finding_that_can_be_repeated(read: Callable[[bytes], None]) -> None:
    with pytest.raises(AssertionError, match=r"targets\['sample'\], seed 7, index 3: "):
        try_mutation(Target("sample", (), lambda rng: rng.randbytes(3), read, ConfigError), 7, 3)


@pytest.mark.skipif(not CAN_RESET_PEAK, reason="the kernel does not tell of a single call's peak memory")
def test_a_call_that_takes_much_memory_is_a_finding_each_time() -> None:
    target = Target("sample", (), lambda rng: rng.randbytes(3), lambda _data: np.ones(30_000_000).sum(), ConfigError)
    for index in range(2):
        with pytest.raises(AssertionError, match=r"index \d: \d+ MB"):
            try_mutation(target, 7, index)


def test_the_comparison_with_nibabel_takes_place_and_notices_one_wrong_voxel_or_place() -> None:
    for data in images.intact_files():
        image = decode_image(data, "a")
        images.compare_with_nibabel(data, image)
        wrong = image.data.copy()
        wrong[1, 2, 3] += 1
        moved = image.grid.affine.copy()
        moved[0, 3] += 0.01
        for other in (Image(wrong, image.grid), replace(image, grid=replace(image.grid, affine=moved))):
            with pytest.raises(AssertionError):
                images.compare_with_nibabel(data, other)


def test_a_case_error_counts_by_its_category(targets: dict[str, Target]) -> None:
    target = replace(targets["nifti bytes"], damage=lambda _rng: b"no image")
    assert target.refusal is CaseError
    assert try_mutation(target, 0, 0).verdict == "unreadable_file"
