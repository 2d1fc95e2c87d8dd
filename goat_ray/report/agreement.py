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
    column_of,
    quotient,
    ratio,
)

_REACH = float(stats.norm.isf(0.025))
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class VolumeAgreement:
    """Predicted against reference volumes; intervals are bootstrapped over patients within sites.

    Those of the limits are approximate: where log ratios have heavy tails they cover about 90 %.

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
    pairs = np.hstack([column_of(reference_ml), column_of(predicted_ml)])
    return by_site(_columns(pairs), patients, sites, _volume_agreement)


def spearman(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Rank correlation over pairs without NaN, each of another patient.

    The interval is Fisher's with the standard error of Bonett and Wright (Psychometrika 2000;65:23). The value is None
    where one side has no spread.

    Raises:
        ValueError: where a value is infinite or the lengths differ.
    """
    pairs = np.hstack([column_of(first), column_of(second)])
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
    """What is summed: four counts, five moments of log volumes, five of volumes, the absolute error."""
    is_known = ~(np.isnan(pairs[:, 0]) | np.isnan(pairs[:, 1]))
    pairs = np.where(is_known[:, None], pairs, 0.0)
    has_reference, has_predicted = np.greater(pairs, 0.0).T
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
    sums = np.vstack([total, draws])
    _, bias, var_log, var_ratio, covariance = _moments(sums[:, 1], sums[:, 4:9])
    deviation = np.sqrt(quotient(var_ratio * sums[:, 1], sums[:, 1] - 1))
    return VolumeAgreement(
        n_both=both,
        n_only_reference=only_reference,
        n_only_predicted=only_predicted,
        n_neither=known - both - only_reference - only_predicted,
        bias_percent=_estimate(_percent(bias), n_both),
        lower_limit_percent=_limit(-1, bias, deviation, n_both),
        upper_limit_percent=_limit(1, bias, deviation, n_both),
        slope=_estimate(1 + quotient(covariance, var_log), n_both),
        concordance=_estimate(_concordance(*_moments(sums[:, 0], sums[:, 9:14])), n_known),
        absolute_error_ml=ratio(own[:, -1], own[:, 0], draws[:, -1], draws[:, 0]),
    )


def _estimate(found: Floats, n: int) -> Estimate:
    """From the observed value followed by that of each resample."""
    return bootstrapped(None if np.isnan(found[0]) else float(found[0]), found[1:], n)


def _percent(log_ratios: Floats) -> Floats:
    return 100 * np.expm1(log_ratios)


def _limit(sign: int, bias: Floats, deviation: Floats, n: int) -> Estimate:
    """A limit of agreement; bias and deviation of the log ratios are observed, then of each resample.

    Percentiles of resampled limits cover 80 % at 10 patients and 86 % at 20. Here intervals of the bias and of the
    log deviation, t by their bootstrapped standard errors, are joined as the limit is (MOVER: Zou, Stat Methods Med
    Res 2013;22:630), which covers 95 % of normal log ratios at 10.
    """
    limit = bias[0] + sign * _REACH * deviation[0]
    if np.isnan(limit) or n < SMALL or not deviation[0]:
        return Estimate(None if np.isnan(limit) else float(_percent(limit)), None, None, n)
    t = stats.t.isf(0.025, n - 1)
    factor = np.exp(t * np.std(np.log(deviation[1:][deviation[1:] > 0])))
    outwards = np.hypot(t * np.nanstd(bias[1:]), _REACH * deviation[0] * (factor - 1))
    inwards = np.hypot(t * np.nanstd(bias[1:]), _REACH * deviation[0] * (1 - 1 / factor))
    low, high = sorted((limit + sign * outwards, limit - sign * inwards))
    value, low, high = (float(percent) for percent in _percent(np.array([limit, low, high])))
    return Estimate(value, low, high, n)


def _concordance(x: Floats, y: Floats, var_x: Floats, var_y: Floats, cov_xy: Floats) -> Floats:
    spread = var_x + var_y
    return quotient(2 * cov_xy, np.where(spread > 0, spread + (x - y) ** 2, 0.0))


def _moments(n: Floats, sums: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Means, variances and covariance (by n) of two quantities from their sums."""
    x, y, xx, yy, xy = (quotient(column, n) for column in sums.T)
    return x, y, _variance(x, xx), _variance(y, yy), xy - x * y


def _variance(mean: Floats, square: Floats) -> Floats:
    variance = square - mean**2
    return np.where(variance > _ROUNDING * square, variance, 0.0)
