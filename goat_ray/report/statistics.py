"""Estimates with honest intervals over the cases of many sites: means, shares, quantiles.

Every interval is one of 95 % over patients, not cases or lesions: those of one patient are not independent
(Reinke et al., Nat Methods 2024;21:182). Resamples are drawn within each site. Rows may come in any order; equal rows
give equal numbers, and a site's numbers do not depend on which other sites there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 2000
SEED = 20250917
SMALL = 10
"""Below so many patients no interval is given: bootstrap coverage is poor (El Jurdi et al., BRIDGE 2025)."""
FEW = 50
"""Below so many patients an interval is to be shown greyed."""

Floats = NDArray[np.float64]
Names = Sequence[str]
T = TypeVar("T")
Estimator = Callable[[Floats, Floats], T]
"""From the sums of each patient (patients × columns) and of each resample (resamples × columns)."""

_ALPHA = 0.05
_NO_SPREAD = 1e-12  # relative; rounding of equal values stays below
_AT_ONCE = 4_000_000  # picks held in memory at a time
_KEPT = 64  # draws of as many strata are kept for the next measure: to draw is what takes the time
_LONE = "\0"  # no site has this name


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval.

    Attributes:
        value: None where nothing was measured.
        low: None where no interval is honest: fewer than `SMALL` patients, or values without any spread.
        high: None where `low` is.
        n: patients that contribute a value.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def is_uncertain(self) -> bool:
        """Whether the interval, if any, rests on fewer than `FEW` patients and is to be shown greyed."""
        return self.n < FEW


@dataclass(frozen=True, slots=True)
class BySite(Generic[T]):
    """The same estimate of all cases together and of each site, sites sorted by name."""

    pooled: T
    sites: dict[str, T]


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of `n` values (linear interpolation); None where there are none."""

    n: int
    median: float | None
    q1: float | None
    q3: float | None
    p5: float | None
    p95: float | None


def means(values: ArrayLike, patients: Names, sites: Names) -> BySite[tuple[Estimate, ...]]:
    """Mean over cases of each column, with percentile bootstrap intervals over patients within sites.

    A column's NaN are dropped. Pooled means weigh every case alike.

    Args:
        values: cases × columns, or one column; finite or NaN.
        patients: of each case; ids count within a site.
        sites: of each case.

    Raises:
        ValueError: where a value is infinite or the lengths differ.
    """
    return by_site(with_counts(columns_of(values)), patients, sites, _per_column(ratio))


def shares(hits: ArrayLike, patients: Names, sites: Names) -> BySite[tuple[Estimate, ...]]:
    """Share of hits among the cases of each column; see `share` for the interval.

    Args:
        hits: cases × columns, or one column, of 1, 0 or NaN (dropped).
        patients: of each case; ids count within a site.
        sites: of each case.

    Raises:
        ValueError: where a value is infinite or the lengths differ.
    """
    return by_site(with_counts(columns_of(hits)), patients, sites, _per_column(share))


def shares_below(
    values: ArrayLike, threshold: float | Sequence[float], patients: Names, sites: Names
) -> BySite[tuple[Estimate, ...]]:
    """Share of cases whose value is below a threshold, one for all columns or one each; otherwise as `shares`."""
    values = columns_of(values)
    return shares(np.where(np.isnan(values), np.nan, values < np.asarray(threshold)), patients, sites)


def spread(values: ArrayLike) -> Spread:
    """Median, quartiles, 5th and 95th percentile of what is not NaN."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return Spread(0, None, None, None, None, None)
    p5, q1, median, q3, p95 = (float(value) for value in np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95]))
    return Spread(known.size, median, q1, q3, p5, p95)


def wilson(hits: int, n: int) -> Estimate:
    """Share of hits among `n` independent patients with Wilson's score interval."""
    if not n:
        return Estimate(None, None, None, 0)
    if n < SMALL:
        return Estimate(hits / n, None, None, n)
    low, high = proportion_confint(hits, n, alpha=_ALPHA, method="wilson")
    return Estimate(hits / n, float(low), float(high), n)


def share(hits: Floats, totals: Floats, drawn_hits: Floats, drawn_totals: Floats) -> Estimate:
    """Hits per total: Wilson's interval where no patient has more than one, else bootstrapped over patients.

    Where all or none are hits no resample differs; Wilson's interval then counts patients, as if what one patient
    has were all alike.
    """
    n, hit, total = int(np.count_nonzero(totals)), int(hits.sum()), int(totals.sum())
    if total == n:
        return wilson(hit, n)
    if hit in (0, total):
        return wilson(n if hit else 0, n)
    return ratio(hits, totals, drawn_hits, drawn_totals)


def ratio(tops: Floats, bottoms: Floats, drawn_tops: Floats, drawn_bottoms: Floats) -> Estimate:
    """Sum of `tops` by sum of `bottoms`, bootstrapped; patients whose bottom is 0 do not count."""
    n = int(np.count_nonzero(bottoms))
    if not n:
        return Estimate(None, None, None, 0)
    return bootstrapped(float(tops.sum() / bottoms.sum()), quotient(drawn_tops, drawn_bottoms), n)


def bootstrapped(value: float | None, draws: Floats, n: int) -> Estimate:
    """An estimate with the percentile interval of its draws, NaN left out, if `n` patients carry one."""
    draws = draws[~np.isnan(draws)]
    if value is None or n < SMALL or not draws.size or np.ptp(draws) <= _NO_SPREAD * max(1.0, abs(value)):
        return Estimate(value, None, None, n)
    low, high = np.quantile(draws, [_ALPHA / 2, 1 - _ALPHA / 2])
    return Estimate(value, float(low), float(high), n)


def quotient(tops: Floats, bottoms: Floats) -> Floats:
    """Element by element, NaN where the bottom is not positive."""
    result = np.full(tops.shape, np.nan)
    np.divide(tops, bottoms, out=result, where=bottoms > 0)
    return result


def columns_of(values: ArrayLike) -> Floats:
    """Values as cases × columns.

    Raises:
        ValueError: where one is infinite.
    """
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if np.isinf(columns).any():
        row, column = np.argwhere(np.isinf(columns))[0]
        msg = f"values must be finite or NaN, got {columns[row, column]} in row {row}, column {column}"
        raise ValueError(msg)
    return columns


def column_of(values: ArrayLike) -> Floats:
    """One value per case as a column; the errors of `columns_of`."""
    return columns_of(np.ravel(np.asarray(values, dtype=np.float64)))


def with_counts(columns: Floats) -> Floats:
    """Columns with 0 for NaN, then as many that count what is known: the sums of both make means."""
    is_known = ~np.isnan(columns)
    return np.hstack([np.where(is_known, columns, 0.0), is_known])


def by_site(columns: Floats, patients: Names, sites: Names, estimate: Estimator[T]) -> BySite[T]:
    """An estimate made of sums over patients, of all patients and of each site, from one set of resamples.

    Of the n patients of a site n - 1 are drawn with replacement and weighed n / (n - 1), so that small sites do not
    narrow the interval (Rao and Wu, J Am Stat Assoc 1988;83:231). Sites of one patient are drawn from together.

    Args:
        columns: cases × columns, finite, whose sums over patients are wanted.
        patients: of each case; ids count within a site.
        sites: of each case.
        estimate: is given no resamples where there are fewer than `SMALL` patients.

    Raises:
        ValueError: where the lengths differ.
    """
    sums, homes = patient_sums(columns, patients, sites)
    found, drawn = {}, np.zeros((RESAMPLES, columns.shape[1]))
    nothing = drawn[:0]
    for name, rows in _strata(sums, homes):
        draws = _resampled(rows, name) if len(sums) >= SMALL else nothing
        drawn = drawn + draws if draws.size else drawn
        if name != _LONE:
            found[name] = estimate(rows, draws if len(rows) >= SMALL else nothing)
    lone = {name: estimate(sums[homes == name], nothing) for name in np.unique(homes).tolist() if name not in found}
    pooled = estimate(sums, drawn if len(sums) >= SMALL else nothing)
    return BySite(pooled, dict(sorted({**found, **lone}.items())))


def patient_sums(columns: Floats, patients: Names, sites: Names) -> tuple[Floats, NDArray[np.str_]]:
    """Sums of the columns over each patient's cases, and each patient's site; sorted by site, then patient.

    Raises:
        ValueError: where the lengths differ.
    """
    if not len(columns) == len(patients) == len(sites):
        msg = f"expected one patient and site per case, got {len(columns)}, {len(patients)} and {len(sites)}"
        raise ValueError(msg)
    names, site_codes = np.unique(np.asarray(sites, dtype=np.str_), return_inverse=True)
    _, patient_codes = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    keys, codes = np.unique(site_codes * len(patients) + patient_codes, return_inverse=True)
    sums = np.zeros((len(keys), columns.shape[1]))
    for index, column in enumerate(columns.T):
        order = np.lexsort((column, codes))  # sums round alike whatever the order of rows
        sums[:, index] = np.bincount(codes[order], weights=column[order], minlength=len(keys))
    return sums, names[keys // max(1, len(patients))]


def _per_column(estimate: Callable[[Floats, Floats, Floats, Floats], Estimate]) -> Estimator[tuple[Estimate, ...]]:
    """For columns that are as many tops followed by their bottoms."""

    def estimates(own: Floats, draws: Floats) -> tuple[Estimate, ...]:
        m = own.shape[1] // 2
        return tuple(estimate(own[:, i], own[:, m + i], draws[:, i], draws[:, m + i]) for i in range(m))

    return estimates


def _strata(sums: Floats, homes: NDArray[np.str_]) -> Iterator[tuple[str, Floats]]:
    names, counts = np.unique(homes, return_counts=True)
    for name in names[counts > 1].tolist():
        yield name, sums[homes == name]
    if (counts == 1).any():
        yield _LONE, sums[np.isin(homes, names[counts == 1])]


def _resampled(rows: Floats, name: str) -> Floats:
    """Sums of each resample of a stratum, resamples × columns."""
    n = len(rows)
    if n == 1:
        return np.repeat(rows, RESAMPLES, axis=0)
    step, weights = max(1, _AT_ONCE // n), _weights(name, n, RESAMPLES)
    drawn = [weights[start : start + step].astype(np.float64) @ rows for start in range(0, RESAMPLES, step)]
    return np.concatenate(drawn) * (n / (n - 1))


@lru_cache(maxsize=_KEPT)
def _weights(name: str, n: int, resamples: int) -> NDArray[np.uint8]:
    """How often each of n patients of a stratum is drawn, resamples × patients; a byte holds any count that occurs."""
    rng = np.random.default_rng([SEED, *name.encode()])
    step = max(1, _AT_ONCE // n)
    batches = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([_picked(rng, n, size) for size in batches])


def _picked(rng: np.random.Generator, n: int, size: int) -> NDArray[np.uint8]:
    """How often each of n patients is among n - 1 picks, resamples × patients."""
    picks = rng.integers(n, size=(size, n - 1))
    picks += np.arange(size)[:, None] * n
    return np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.uint8)
