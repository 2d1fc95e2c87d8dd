"""How costs grow with cases, members, lesions, voxels and workers: each linear or better, or this ends with 1.

Costs are processor seconds; only workers are timed by the clock, over members that sleep.

    python -m benchmarks.growth [--quick]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._growth_costs import lesion_growth, member_growth, size_growth
from benchmarks._growth_fit import STEEPEST, Growth
from benchmarks._growth_plot import draw
from benchmarks._growth_runs import actor_growth, cohort_growth
from benchmarks._record import RESULTS, record


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured at, and how often."""

    cases: tuple[int, ...] = (10, 100, 1000, 10_000)
    workers: tuple[int, ...] = (1, 2, 4)
    members: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    lesions: tuple[int, ...] = (1, 10, 100, 1000)
    voxels: tuple[float, ...] = (0.5e6, 1e6, 2e6, 4e6, 8.928e6)
    repeats: int = 3
    cases_of_each_worker: int = 12

    def axes(self, folder: Path) -> dict[str, Callable[[], tuple[Growth, ...]]]:
        """What measures each growth, by name."""
        return {
            "lesions": lambda: lesion_growth(self.lesions, self.repeats),
            "size": lambda: size_growth(folder / "size", self.voxels, self.repeats),
            "members": lambda: member_growth(folder / "members", self.members, self.repeats),
            "actors": lambda: actor_growth(self.workers, self.cases_of_each_worker),
            "cohort": lambda: cohort_growth(self.cases),
        }


FULL = Plan()
QUICK = Plan((10, 100, 1000), (1, 2), (1, 4, 7), (10, 100, 1000), (0.5e6, 1e6, 2e6), 1, 6)


def main() -> None:
    """Measure, tell, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes; draws nothing")
    options = parser.parse_args()
    growths, seconds, load = list[Growth](), dict[str, float](), os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        for axis, measure in (QUICK if options.quick else FULL).axes(Path(name)).items():
            started = time.monotonic()
            for growth in measure():
                growths.append(growth)
                print(f"{growth.name:22s} {growth.told}", flush=True)
            seconds[axis] = round(time.monotonic() - started, 1)
    failed = [growth.name for growth in growths if not growth.is_linear_or_better]
    record(
        "growth",
        {
            "load_average_before_and_after": (load, os.getloadavg()),
            "wall_s": {**seconds, "all": round(sum(seconds.values()), 1)},
            "largest_exponent": STEEPEST,
            "worse_than_linear": failed,
            "growths": {growth.name: growth.to_dict() for growth in growths},
        },
        ("numpy", "scipy", "torch", "ray"),
        is_quick=options.quick,
    )
    if not options.quick:
        draw(growths, RESULTS / "growth.png")
    if failed:
        sys.exit(f"worse than linear: {', '.join(failed)}")


if __name__ == "__main__":
    main()
