"""One number of many sites: by case, by site, and as a random effect with what a new site may expect."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.meta_analysis import CombineResults, combine_effects

from goat_ray.report.statistics import Floats, Names, columns_of, patient_sums

_NO_SPREAD = 1e-6  # standard error; the official NSD of a perfect case is 1 - 5e-9, of an empty one 1
_TOLERANCE = {"atol": 1e-9, "maxiter": 1000}  # of the Paule-Mandel equation; 50 rounds miss it for a precise site


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """Lowest and highest random-effects mean when one site is left out, and which."""

    low: float
    low_without: str
    high: float
    high_without: str


@dataclass(frozen=True, slots=True)
class RandomEffects:
    """Sites as a sample of all sites.

    Attributes:
        value: mean over sites, between-site variance by Paule and Mandel.
        low: of the Hartung-Knapp-Sidik-Jonkman 95 % interval, never narrower than its t interval of scale 1
            (Röver et al., BMC Med Res Methodol 2015;15:99).
        high: of the same interval.
        new_site_low: of the 95 % prediction interval for the mean of a new site, t with two degrees of freedom fewer
            than sites (Higgins et al., J R Stat Soc A 2009;172:137); not cut to a metric's range. None below 3 sites.
        new_site_high: of the same interval.
        tau2: variance between sites.
        i2: share of the variance that is between sites, from Cochran's Q, 0 to 1.
        sites: those that carry it.
        leave_one_out: None below 3 sites.
    """

    value: float
    low: float
    high: float
    new_site_low: float | None
    new_site_high: float | None
    tau2: float
    i2: float
    sites: tuple[str, ...]
    leave_one_out: LeaveOneOut | None


@dataclass(frozen=True, slots=True)
class Pooling:
    """A metric over all sites.

    Attributes:
        n_cases: with a value.
        case_weighted: mean over cases; None without any. `means` has its interval.
        site_weighted: mean over the means of sites.
        random_effects: None where fewer than 2 sites can carry it.
        left_out: sites that the random effects cannot use: fewer than 2 patients, or values without spread.
    """

    n_cases: int
    case_weighted: float | None
    site_weighted: float | None
    random_effects: RandomEffects | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sites:
    names: tuple[str, ...]
    means: Floats
    variances: Floats  # of the means

    def without(self, index: int) -> "_Sites":
        names = self.names[:index] + self.names[index + 1 :]
        return _Sites(names, np.delete(self.means, index), np.delete(self.variances, index))


def pool(values: ArrayLike, patients: Names, sites: Names) -> Pooling:
    """Pool the site means of a metric.

    Args:
        values: one per case, finite or NaN (dropped).
        patients: of each case; ids count within a site.
        sites: of each case.

    Raises:
        ValueError: where a value is infinite or the lengths differ.
    """
    column = columns_of(values)
    is_known = ~np.isnan(column)
    sums, homes = patient_sums(np.hstack([np.where(is_known, column, 0.0), is_known]), patients, sites)
    sums, homes = sums[sums[:, 1] > 0], homes[sums[:, 1] > 0]
    if not len(sums):
        return Pooling(0, None, None, None, ())
    every = [(str(name), *_mean_and_variance(sums[homes == name])) for name in np.unique(homes)]
    usable = [site for site in every if site[2] > _NO_SPREAD**2]
    kept = _Sites(tuple(site[0] for site in usable), *(np.array([site[i] for site in usable]) for i in (1, 2)))
    return Pooling(
        n_cases=int(sums[:, 1].sum()),
        case_weighted=float(sums[:, 0].sum() / sums[:, 1].sum()),
        site_weighted=float(np.mean([site[1] for site in every])),
        random_effects=_random_effects(kept) if len(kept.names) > 1 else None,
        left_out=tuple(site[0] for site in every if site not in usable),
    )


def _mean_and_variance(rows: Floats) -> tuple[float, float]:
    """Mean over cases and its variance from patients as clusters; the variance of one patient is 0.

    With one case per patient this is the sample variance by n.
    """
    n, (total, cases) = len(rows), rows.sum(axis=0)
    mean = total / cases
    residuals = rows[:, 0] - mean * rows[:, 1]
    return float(mean), float(n / max(1, n - 1) * (residuals**2).sum() / cases**2) if n > 1 else 0.0


def _random_effects(sites: _Sites) -> RandomEffects:
    found, k = _combined(sites), len(sites.names)
    (low, high), error = _interval(found)
    reach = float(stats.t.isf(0.025, k - 2) * np.hypot(np.sqrt(found.tau2), error)) if k > 2 else None
    value = float(found.mean_effect_re)
    return RandomEffects(
        value=value,
        low=low,
        high=high,
        new_site_low=None if reach is None else value - reach,
        new_site_high=None if reach is None else value + reach,
        tau2=float(found.tau2),
        i2=max(0.0, float(found.i2)),
        sites=sites.names,
        leave_one_out=_leave_one_out(sites) if k > 2 else None,
    )


def _combined(sites: _Sites) -> CombineResults:
    with np.errstate(divide="ignore"):  # of I² where all means are equal
        return combine_effects(sites.means, sites.variances, method_re="pm", use_t=True, **_TOLERANCE)


def _interval(found: CombineResults) -> tuple[tuple[float, float], float]:
    """The wider of the intervals with estimated scale and scale 1, and the standard error that it rests on."""
    _, fixed, _, estimated = found.conf_int()
    error = max(float(found.sd_eff_w_re), float(found.sd_eff_w_re_hksj))
    return (float(min(fixed[0], estimated[0])), float(max(fixed[1], estimated[1]))), error


def _leave_one_out(sites: _Sites) -> LeaveOneOut:
    means = [float(_combined(sites.without(index)).mean_effect_re) for index in range(len(sites.names))]
    low, high = int(np.argmin(means)), int(np.argmax(means))
    return LeaveOneOut(means[low], sites.names[low], means[high], sites.names[high])
