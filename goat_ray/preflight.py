"""What would become of a cohort, from listings and headers alone: which cases would run, which would fail, and why."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from goat_ray.cases import Case, Discovery, FailedCase, discover
from goat_ray.config import NO_SPEC, RunConfig
from goat_ray.errors import CaseError, Category, ConfigError, Failure, StorageError
from goat_ray.filesystems import use_s3
from goat_ray.imaging.geometry import check_same_grid
from goat_ray.imaging.nifti import Grid
from goat_ray.imaging.preview import Stats, preview_case, preview_labels
from goat_ray.metrics.specs import Policy, find_policy

_READERS = 32
_SPACING_DIGITS = 3

Tick = Callable[[int, int], None]
"""Told how many cases were looked at, and of how many."""


class CheckConfig(RunConfig):
    """A run's settings before there need be an ensemble or a run folder."""

    ensemble: str = ""
    out: str = ""


@dataclass(frozen=True, slots=True, order=True)
class GridKind:
    """What makes grids alike: voxels along (x, y, z), and their edges in mm, rounded."""

    size_vox: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    @classmethod
    def of(cls, grid: Grid) -> "GridKind":
        """The kind that a grid is of."""
        return cls(grid.shape, tuple(round(side, _SPACING_DIGITS) for side in grid.spacing_mm))


@dataclass(frozen=True, slots=True)
class Runnable:
    """A case that would run.

    Attributes:
        case: what would be run.
        grid: of t1c.
        image_bytes: of its four files.
        reference_bytes: of its reference, where there is one to be scored against.
        unscored: why the reference could not be used; the case would run all the same.
    """

    case: Case
    grid: GridKind
    image_bytes: int
    reference_bytes: int = 0
    unscored: Failure | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What would become of a cohort. `discovered = runnable + failures + skipped` always holds.

    `skipped` cases are those beyond the limit; nobody looked at them.
    """

    cohort: str
    runnable: tuple[Runnable, ...]
    failures: tuple[FailedCase, ...]
    skipped: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def discovered(self) -> int:
        """Number of case ids that were found."""
        return len(self.runnable) + len(self.failures) + self.skipped

    @property
    def unscored(self) -> tuple[FailedCase, ...]:
        """Cases that would run, but could not be scored."""
        return tuple(
            FailedCase(one.case.case_id, one.unscored, one.case.site, one.case.cohort)
            for one in self.runnable
            if one.unscored
        )

    @property
    def input_bytes(self) -> int:
        """What the cases that would run have to read."""
        return sum(one.image_bytes + one.reference_bytes for one in self.runnable)

    @property
    def grids(self) -> list[tuple[GridKind, int]]:
        """Kinds of grid among the cases that would run, the commonest first."""
        return _counted(one.grid for one in self.runnable)

    @property
    def sites(self) -> list[tuple[str | None, int, int]]:
        """How many cases of each site would run, and how many would fail."""
        run = Counter(one.case.site for one in self.runnable)
        fail = Counter(failed.site for failed in self.failures)
        names = sorted(run.keys() | fail.keys(), key=lambda site: (site is None, site))
        return [(site, run[site], fail[site]) for site in names]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "cohort": self.cohort,
            "discovered": self.discovered,
            "would_run": len(self.runnable),
            "would_fail": len(self.failures),
            "skipped": self.skipped,
            "input_bytes": self.input_bytes,
            "sites": [{"site": site, "would_run": run, "would_fail": fail} for site, run, fail in self.sites],
            "grids": [
                {"size_vox": list(kind.size_vox), "spacing_mm": list(kind.spacing_mm), "cases": cases}
                for kind, cases in self.grids
            ],
            "failures": [_plain(failed) for failed in self.failures],
            "references": sum(one.case.reference is not None for one in self.runnable),
            "unscored": [_plain(failed) for failed in self.unscored],
            "warnings": list(self.warnings),
        }


def check_cohort(config: RunConfig, tick: Tick = lambda done, total: None) -> Preflight:
    """Find the cases of a cohort as a run does, and look at the headers of each within the limit.

    Args:
        config: what would be run; ensemble and run folder are not looked at.
        tick: told after every case.

    Raises:
        ConfigError: an empty or missing cohort, faulty tables or settings, or storage out of reach.
    """
    use_s3(config.s3)
    policy = policy_of(config)
    found = _discovered(config)
    cases = found.cases[: config.limit]
    look = partial(_look, stats=found.stats, policy=policy)
    seen: list[Runnable | FailedCase] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for one in pool.map(look, cases):
            seen.append(one)
            tick(len(seen), len(cases))
    runnable = tuple(one for one in seen if isinstance(one, Runnable))
    failures = [*found.failures, *(one for one in seen if isinstance(one, FailedCase))]
    scored = [one.case.cohort for one in runnable if one.case.reference and not one.unscored]
    return Preflight(
        cohort=config.cohort,
        runnable=runnable,
        failures=tuple(sorted(failures, key=lambda failed: failed.case_id)),
        skipped=len(found.cases) - len(cases),
        warnings=(*found.warnings, *(policy.warnings(scored) if policy and scored else ())),
    )


def find_cases(config: RunConfig, elsewhere: Collection[str] = ()) -> Discovery:
    """The cases of a run's cohort; see `discover`."""
    return discover(
        config.cohort,
        suffixes=config.suffixes,
        channels=config.channels,
        sites=config.sites,
        references=config.references,
        elsewhere=elsewhere,
    )


def policy_of(config: RunConfig) -> Policy | None:
    """How a run's cases are scored; None if not at all."""
    return None if config.spec == NO_SPEC else find_policy(config.spec)


def _discovered(config: RunConfig) -> Discovery:
    try:
        found = find_cases(config)
    except StorageError as error:
        raise ConfigError(str(error)) from error
    if not found.discovered:
        raise ConfigError(f"{config.cohort}: no case was found")
    return found


def _look(case: Case, stats: Stats, policy: Policy | None) -> Runnable | FailedCase:
    try:
        images = preview_case(case, stats)
    except CaseError as error:
        return FailedCase(case.case_id, Failure.of(error, "read"), case.site, case.cohort)
    size, unscored = 0, None
    if policy is not None and case.reference is not None:
        try:
            size = _check_reference(case, case.reference, images.grid, stats, policy)
        except CaseError as error:
            unscored = Failure.of(error, "finish")
    return Runnable(case, GridKind.of(images.grid), images.size, size, unscored)


def _check_reference(case: Case, uri: str, grid: Grid, stats: Stats, policy: Policy) -> int:
    """Bytes of a reference that a label map on `grid` could be scored against, as `evaluate_labels` would do it."""
    policy.spec_of(case.cohort)
    reference = preview_labels(uri, "reference", Category.MISSING_REFERENCE, stats)
    check_same_grid({"the reference": reference.grid, "the prediction": grid})
    return reference.size


def _counted(kinds: Iterable[GridKind]) -> list[tuple[GridKind, int]]:
    return sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0]))


def _plain(failed: FailedCase) -> dict[str, Any]:
    return {"case_id": failed.case_id, "site": failed.site, "cohort": failed.cohort, **failed.failure.to_dict()}
