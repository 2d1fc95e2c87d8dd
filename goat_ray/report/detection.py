"""How many lesions are found, by size, and how many are made up, with intervals over patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from goat_ray.report.statistics import BySite, Estimate, Floats, Names, by_site, column_of, ratio, share

VOLUME_EDGES_MM3 = (27.0, 100.0, 500.0, 1000.0, 5000.0)
"""Lower edges belong to their bin; the 2026 organisers split at 27."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Detected lesions among those of the reference with `low_mm3` ≤ volume < `high_mm3` (None: no limit).

    The share's `n` counts patients that have such a lesion.
    """

    low_mm3: float
    high_mm3: float | None
    detected: int
    lesions: int
    share: Estimate


@dataclass(frozen=True, slots=True)
class FalsePositives:
    """Predicted lesions that the reference lacks: their number, mean per case and the share of cases without any."""

    n_cases: int
    total: int
    per_case: Estimate
    none: Estimate


def sensitivities(
    volumes_mm3: ArrayLike,
    detected: ArrayLike,
    patients: Names,
    sites: Names,
    edges_mm3: Sequence[float] = VOLUME_EDGES_MM3,
) -> BySite[tuple[Sensitivity, ...]]:
    """Sensitivity over lesions of any size (first) and by bin of the reference volume, smallest bin next.

    Args:
        volumes_mm3: of each lesion of the reference.
        detected: whether it was found.
        patients: of each lesion; ids count within a site.
        sites: of each lesion; a site without lesions is not in the result.
        edges_mm3: between the bins, ascending.

    Raises:
        ValueError: where a volume is infinite or the lengths differ.
    """
    volumes, hits = np.hstack([column_of(volumes_mm3), column_of(detected)]).T[:, :, None]
    lows = np.array([0.0, 0.0, *edges_mm3])
    highs = np.array([np.inf, *edges_mm3, np.inf])
    is_in = (lows <= volumes) & (volumes < highs)

    def estimate(own: Floats, draws: Floats) -> tuple[Sensitivity, ...]:
        return tuple(_sensitivity(lows[i], highs[i], own[:, i::m], draws[:, i::m]) for i in range(m))

    m = len(lows)
    return by_site(np.hstack([is_in & (hits > 0), is_in]).astype(np.float64), patients, sites, estimate)


def false_positives(counts: ArrayLike, patients: Names, sites: Names) -> BySite[FalsePositives]:
    """False positives of the cases that were scored.

    Args:
        counts: per case; NaN where it was not scored.
        patients: of each case; ids count within a site.
        sites: of each case.

    Raises:
        ValueError: where a count is infinite or the lengths differ.
    """
    values = column_of(counts)
    columns = np.hstack([np.nan_to_num(values), values == 0, ~np.isnan(values)])
    return by_site(columns, patients, sites, _false_positives)


def _sensitivity(low: float, high: float, own: Floats, draws: Floats) -> Sensitivity:
    hits, totals = own.T
    limit = float(high) if np.isfinite(high) else None
    return Sensitivity(float(low), limit, int(hits.sum()), int(totals.sum()), share(hits, totals, *draws.T))


def _false_positives(own: Floats, draws: Floats) -> FalsePositives:
    (found, none, cases), (drawn_found, drawn_none, drawn_cases) = own.T, draws.T
    return FalsePositives(
        n_cases=int(cases.sum()),
        total=int(found.sum()),
        per_case=ratio(found, cases, drawn_found, drawn_cases),
        none=share(none, cases, drawn_none, drawn_cases),
    )
