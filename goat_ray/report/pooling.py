"""One number of many sites: by case, by site, and as a random effect with what a new site may expect."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.meta_analysis import CombineResults, combine_effects

from goat_ray.report.statistics import Floats, Names, column_of, patient_sums, with_counts

_NO_SPREAD = 1e-6  # standard error; the official NSD of a perfect case is 1 - 5e-9, of an empty one 1
_ACCURACY = 1e-6  # of Paule and Mandel's equation; statsmodels 0.15 answers 0 where rounding steps over its root
_ROUNDS = 1000  # 50, the default, do not reach the root if one site is very precise


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
    sums, homes = patient_sums(with_counts(column_of(values)), patients, sites)
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
    centre, found = _combined(sites)
    value, k, tau2 = centre + float(found.mean_effect_re), len(sites.names), float(found.tau2)
    error = max(float(found.sd_eff_w_re), float(found.sd_eff_w_re_hksj))
    reach = float(stats.t.isf(0.025, k - 1)) * error
    new_site_reach = float(stats.t.isf(0.025, k - 2) * np.hypot(np.sqrt(tau2), error)) if k > 2 else None
    return RandomEffects(
        value=value,
        low=value - reach,
        high=value + reach,
        new_site_low=None if new_site_reach is None else value - new_site_reach,
        new_site_high=None if new_site_reach is None else value + new_site_reach,
        tau2=tau2,
        i2=float(found.i2) if found.q > k - 1 else 0.0,
        sites=sites.names,
        leave_one_out=_leave_one_out(sites) if k > 2 else None,
    )


def _combined(sites: _Sites) -> tuple[float, CombineResults]:
    """The fixed-effect mean, and the results for means less it: Cochran's Q cancels badly far from 0."""
    centre = float(np.average(sites.means, weights=1 / sites.variances))
    accuracy = _ACCURACY * (len(sites.names) - 1)
    with np.errstate(divide="ignore"):  # of I² where all means are equal
        found = combine_effects(
            sites.means - centre, sites.variances, method_re="pm", use_t=True, atol=accuracy, maxiter=_ROUNDS
        )
    return centre, found


def _leave_one_out(sites: _Sites) -> LeaveOneOut:
    means = [_random_effects_mean(sites.without(index)) for index in range(len(sites.names))]
    low, high = int(np.argmin(means)), int(np.argmax(means))
    return LeaveOneOut(means[low], sites.names[low], means[high], sites.names[high])


def _random_effects_mean(sites: _Sites) -> float:
    centre, found = _combined(sites)
    return centre + float(found.mean_effect_re)
