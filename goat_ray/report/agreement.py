"""Whether predicted volumes agree with those of the reference, and confidence with quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from goat_ray.report.statistics import (
    SMALL,
    BySite,
    Estimate,
    Floats,
    Names,
    bootstrapped,
    by_site,
    columns_of,
    quotient,
    ratio,
)

_REACH = float(stats.norm.isf(0.025))
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class VolumeAgreement:
    """Predicted against reference volumes; intervals are bootstrapped over patients within sites.

    The first four estimates are over cases where both volumes are positive, the others over all cases that have both.

    Attributes:
        n_both: cases where both volumes are positive.
        n_only_reference: cases where nothing was predicted of what the reference has.
        n_only_predicted: cases where something was predicted that the reference lacks.
        n_neither: cases where both are 0.
        bias_percent: geometric mean of predicted by reference volume, less 1 (Bland and Altman, Stat Methods Med Res
            1999;8:135, on the log scale: in mL the differences fan out).
        lower_limit_percent: 95 % of cases agree better than from this …
        upper_limit_percent: … to this.
        slope: of log predicted on log reference volume; 1 is calibrated, less means large ones come out too small.
        concordance: Lin's coefficient of the volumes in mL (Biometrics 1989;45:255).
        absolute_error_ml: mean absolute difference.
    """

    n_both: int
    n_only_reference: int
    n_only_predicted: int
    n_neither: int
    bias_percent: Estimate
    lower_limit_percent: Estimate
    upper_limit_percent: Estimate
    slope: Estimate
    concordance: Estimate
    absolute_error_ml: Estimate


def volume_agreement(
    reference_ml: ArrayLike, predicted_ml: ArrayLike, patients: Names, sites: Names
) -> BySite[VolumeAgreement]:
    """Agreement of volumes, of all cases and of each site.

    Args:
        reference_ml: per case; NaN where there is none.
        predicted_ml: per case; NaN where there is none. Cases without both are dropped.
        patients: of each case; ids count within a site.
        sites: of each case.

    Raises:
        ValueError: where a volume is infinite or the lengths differ.
    """
    pairs = np.hstack([columns_of(reference_ml), columns_of(predicted_ml)])
    return by_site(_columns(pairs), patients, sites, _volume_agreement)


def spearman(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Rank correlation over pairs without NaN, each of another patient.

    The interval is Fisher's with the standard error of Bonett and Wright (Psychometrika 2000;65:23). The value is None
    where one side has no spread.
    """
    pairs = np.column_stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    n = len(pairs)
    if n < 2 or (np.ptp(pairs, axis=0) == 0).any():
        return Estimate(None, None, None, n)
    rho = float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
    if n < SMALL or abs(rho) >= 1 - _ROUNDING:
        return Estimate(rho, None, None, n)
    reach = _REACH * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-reach, reach]))
    return Estimate(rho, float(low), float(high), n)


def _columns(pairs: Floats) -> Floats:
    """What is summed: five counts, five moments of log volumes, five of volumes, the absolute error."""
    is_known = ~np.isnan(pairs).any(axis=1)
    pairs = np.where(is_known[:, None], pairs, 0.0)
    has_reference, has_predicted = (pairs > 0).T
    is_both = has_reference & has_predicted
    counts = [is_known, is_both, has_reference & ~is_both, has_predicted & ~is_both]
    logs = np.log(pairs, out=np.zeros_like(pairs), where=is_both[:, None])
    error = np.abs(pairs[:, 0] - pairs[:, 1])
    return np.column_stack([*counts, *_powers(logs[:, 0], logs[:, 1] - logs[:, 0]), *_powers(*pairs.T), error])


def _powers(x: Floats, y: Floats) -> list[Floats]:
    return [x, y, x * x, y * y, x * y]


def _volume_agreement(own: Floats, draws: Floats) -> VolumeAgreement:
    n_known, n_both = (int(count) for count in np.count_nonzero(own[:, :2], axis=0))
    total = own.sum(axis=0)
    known, both, only_reference, only_predicted = (int(count) for count in total[:4])
    found = _statistics(np.vstack([total, draws]))
    names = ("bias_percent", "lower_limit_percent", "upper_limit_percent", "slope", "concordance")
    patients = (n_both, n_both, n_both, n_both, n_known)
    estimates = {name: _estimate(*pair) for name, *pair in zip(names, found, patients, strict=True)}
    return VolumeAgreement(
        n_both=both,
        n_only_reference=only_reference,
        n_only_predicted=only_predicted,
        n_neither=known - both - only_reference - only_predicted,
        absolute_error_ml=ratio(own[:, -1], own[:, 0], draws[:, -1], draws[:, 0]),
        **estimates,
    )


def _estimate(found: Floats, n: int) -> Estimate:
    """From the observed value followed by that of each resample."""
    return bootstrapped(None if np.isnan(found[0]) else float(found[0]), found[1:], n)


def _statistics(sums: Floats) -> list[Floats]:
    """Bias, both limits, slope and concordance of each row of sums; NaN where there are too few cases."""
    known, both = sums[:, 0], sums[:, 1]
    _, bias, var_log, var_ratio, covariance = _moments(both, sums[:, 4:9])
    reach = _REACH * np.sqrt(quotient(var_ratio * both, both - 1))
    x, y, var_x, var_y, cov_xy = _moments(known, sums[:, 9:14])
    percents = [100 * np.expm1(value) for value in (bias, bias - reach, bias + reach)]
    return [*percents, 1 + quotient(covariance, var_log), quotient(2 * cov_xy, var_x + var_y + (x - y) ** 2)]


def _moments(n: Floats, sums: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Means, variances and covariance (by n) of two quantities from their sums; no variance below rounding."""
    x, y, xx, yy, xy = (quotient(column, n) for column in sums.T)
    var_x, var_y = (
        np.where(square - mean**2 > _ROUNDING * square, square - mean**2, 0) for mean, square in ((x, xx), (y, yy))
    )
    return x, y, var_x, var_y, xy - x * y
