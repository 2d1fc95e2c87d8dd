"""What `goat-ray check` shows: the cohort by counts, sites and grids, what would fail, and what a case costs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from goat_ray import console

if TYPE_CHECKING:
    from goat_ray.pipeline.measure import Measured
    from goat_ray.preflight import GridKind, Preflight, Tick
    from goat_ray.status import RunStatus

_MOST_GRIDS, _MOST_SITES = 10, 30
_ONLY_HEADERS = "Headers only were read: damaged data, values that are no numbers and empty images show in a run."
_ALL_IN = "what --json gives"


@contextmanager
def header_bar() -> Iterator["Tick"]:
    """A bar that is gone when all headers are read; nothing in a log."""
    from rich.progress import Progress

    with Progress(console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        task = bar.add_task("reading headers", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_check(found: "Preflight", status: "RunStatus | None") -> None:
    """What would become of a cohort, and how far its run is if there is one."""
    for warning in found.warnings:
        console.err.print(f"warning: {warning}", soft_wrap=True, markup=False)
    console.show_failed(found.failures, _ALL_IN, "Would fail")
    console.show_failed(found.unscored, _ALL_IN, "Would run, but not be scored", "case not scored")
    _show_sites(found)
    _show_grids(found.grids)
    columns = ("discovered", "would run", "would fail", "beyond --limit", "with reference", "input")
    references = sum(one.case.reference is not None for one in found.runnable)
    counts = (found.discovered, len(found.runnable), len(found.failures), found.skipped, references)
    console.show_table("Cohort", columns, [(*counts, bytes_text(found.input_bytes))], right=columns)
    if status is not None:
        console.show_status(status)
    console.out.print(_ONLY_HEADERS, soft_wrap=True)


def show_measured(measured: "Measured") -> None:
    """What the measured cases took, and what that makes of the whole cohort."""
    console.show_failed(measured.failures, _ALL_IN, "Failed when they were measured")
    cores = measured.costs.cores
    rows = [
        (stage, f"{cost.wall_median_s:.2f}", f"{cost.cpu_median_s:.2f}", f"{cores[stage]:.2f}")
        for stage, cost in measured.costs.stages.items()
    ]
    columns = ("stage", "wall s", "CPU s", "cores per worker")
    number = len(measured.case_ids)
    console.show_table(f"A case, median of {number}", columns, [*rows, _together(cores)], right=columns[1:])
    for line in _conclusions(measured):
        console.out.print(line, soft_wrap=True, markup=False)


def _together(cores: dict[str, float]) -> Sequence[str]:
    return ("together", "", "", f"{sum(cores.values()):.2f}")


def _conclusions(measured: "Measured") -> Iterator[str]:
    placement, costs = measured.placement, measured.costs
    pool = placement.pools[0]
    device, worker = (pool.gpu_type or "GPU", "GPU") if pool.gpus else ("CPU", "worker")
    yield f"device: {device}, {measured.predict_s:.2f} s a case (median of {len(measured.case_ids)})"
    if measured.device_peak_bytes:
        held = bytes_text(measured.device_peak_bytes)
        yield f"device memory: torch held {held} at most, CUDA's own comes on top; what was planned with is told below"
    together = sum(costs.cores.values())
    fed = f"; the {measured.node_cpus:g} CPUs of a node keep {costs.workers_fed(measured.node_cpus)} GPU(s) busy"
    yield (
        f"cores: {costs.cores_per_worker} per {worker}: all stages take {together:.2f} CPU seconds for each second of "
        f"predict, rounded up{f'{fed}, one CPU left to Ray' if pool.gpus else ''}"
    )
    yield f"here: {placement.explain()}"
    basis = "CPU seconds ÷ CPUs, which are too few" if measured.waits_for_cpus else "predict's seconds ÷ workers"
    yield (
        f"estimate: {measured.cases} case(s) take about {timedelta(seconds=round(measured.time_s))} with "
        f"{placement.workers} worker(s), by {basis}; labels {bytes_text(measured.cases * measured.label_bytes)}, "
        f"everything written {bytes_text(measured.cases * measured.output_bytes)}"
    )


def _show_sites(found: "Preflight") -> None:
    sites = found.sites
    if [site for site, _, _ in sites] == [None]:
        return
    rows = [(site or "no site", run, fail) for site, run, fail in sites[:_MOST_SITES]]
    columns = ("site", "would run", "would fail")
    console.show_table("Sites", columns, [*rows, *_more(len(sites) - _MOST_SITES, "sites", 2)], right=columns[1:])


def _show_grids(grids: "Sequence[tuple[GridKind, int]]") -> None:
    if not grids:
        return
    rows = [
        ("×".join(map(str, kind.size_vox)), "×".join(f"{side:g}" for side in kind.spacing_mm), cases)
        for kind, cases in grids[:_MOST_GRIDS]
    ]
    more = _more(len(grids) - _MOST_GRIDS, "grids", 1, sum(cases for _, cases in grids[_MOST_GRIDS:]))
    columns = ("grid (voxels)", "spacing (mm)", "cases")
    console.show_table("Grids", columns, [*rows, *more], right=columns[2:])


def _more(number: int, what: str, empty: int, *last: object) -> list[tuple[object, ...]]:
    """The row that stands for those not shown."""
    return [(f"and {number} more {what}", *[""] * empty, *last)] if number > 0 else []


def bytes_text(number: float) -> str:
    """A size in the largest unit of which there is at least one."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"
