"""Sites compared at equal lesion size.

Dice falls with the size of what is to be found, so that a site with small tumours would look like a worse one. A mixed
model takes scores as a straight line in the log of the reference volume, with an intercept drawn for each site (Laird
and Ware, Biometrics 1982;38:963). A site's predicted intercept is shrunk towards the others the more, the fewer
patients it has.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from goat_ray.report.statistics import SMALL, Floats, Names

FEWEST_SITES = 3


_NO_SPREAD = 1e-9  # relative; rounding of equal values stays below
_NOTHING_LEFT = 1e-6  # of the variance within sites: the optimiser stops that close to 0
_OPTIMISERS = ("bfgs", "powell")  # statsmodels 0.15's lbfgs steps to an infinite likelihood and says it converged


@dataclass(frozen=True, slots=True)
class SiteEffect:
    """How far a site is from the mean of all sites, every site counting alike.

    Attributes:
        patients: that carry it.
        raw: mean over its patients, less the mean of all sites' means.
        adjusted: its predicted intercept: what of that is left at equal lesion size.
        low: of the 95 % interval of `adjusted`, by t with one degree of freedom less than sites; variances count as
            known. None below `SMALL` patients, and where the model leaves no variance between sites.
        high: of the same interval.
    """

    patients: int
    raw: float
    adjusted: float
    low: float | None
    high: float | None

    @property
    def is_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Sites at equal lesion size.

    Attributes:
        sites: each by name, sorted; empty where there is a `problem`.
        per_tenfold: what the score gains where the reference is ten times as large.
        has_variance: whether the model finds variance between sites; without any, all of `adjusted` are 0.
        is_by_cohort: whether the cohort is adjusted for too. It is not where a cohort has but one site: the two
            could not be told apart.
        problem: why the model cannot be fitted, in words; empty if it is.
    """

    sites: dict[str, SiteEffect]
    per_tenfold: float | None
    has_variance: bool
    is_by_cohort: bool
    problem: str


def at_equal_size(
    scores: ArrayLike, volumes_mm3: ArrayLike, cohorts: Sequence[str], patients: Names, sites: Names
) -> Adjusted:
    """Compare sites at equal lesion size, on the mean of each patient's cases.

    Args:
        scores: one per case, finite or NaN.
        volumes_mm3: of the reference; cases without score or volume, or with a volume of 0, are left out.
        cohorts: of each case; a patient's first counts.
        patients: of each case; ids count within a site.
        sites: of each case.
    """
    rows = pd.DataFrame({"score": np.asarray(scores, np.float64), "volume": np.asarray(volumes_mm3, np.float64)})
    rows = rows.assign(cohort=list(cohorts), patient=list(patients), site=list(sites))
    rows = rows[rows["score"].notna() & (rows["volume"] > 0)]
    rows["size"] = np.log10(rows["volume"])
    rows = rows.sort_values(["site", "patient", "size", "score"])  # sums round alike whatever the order of rows
    people = rows.groupby(["site", "patient"], as_index=False).agg({"score": "mean", "size": "mean", "cohort": "first"})
    design, is_by_cohort = _design(people)
    problem = _problem(people, design)
    fitted = None if problem else _fitted(people, design)
    if fitted is None:
        return Adjusted({}, None, False, is_by_cohort, problem or "the fit does not converge")
    effects = _effects(people, design, fitted)
    return Adjusted(effects, float(fitted.fe_params[1]), _has_variance(fitted), is_by_cohort, "")


def _design(people: pd.DataFrame) -> tuple[Floats, bool]:
    """Columns of the straight line: 1, size less its mean, and a cohort against the first where that can be told."""
    columns = [np.ones(len(people)), people["size"].to_numpy() - people["size"].mean()]
    per_cohort = people.groupby("cohort")["site"].nunique()
    is_by_cohort = len(per_cohort) > 1 and bool((per_cohort > 1).all())
    if is_by_cohort:
        columns += [(people["cohort"] == cohort).to_numpy(np.float64) for cohort in per_cohort.index[1:]]
    return np.column_stack(columns), is_by_cohort


def _problem(people: pd.DataFrame, design: Floats) -> str:
    n_patients, n_sites = len(people), people["site"].nunique()
    if n_sites < FEWEST_SITES:
        return f"only {n_sites} site(s) have the region in a reference, and {FEWEST_SITES} are needed"
    needed = max(SMALL, n_sites + design.shape[1])
    if n_patients < needed:
        return f"only {n_patients} patients at {n_sites} sites have the region in a reference, and {needed} are needed"
    for name, text in (("score", "scores"), ("size", "lesions")):
        values = people[name].to_numpy()
        if np.ptp(values) <= _NO_SPREAD * max(1.0, float(np.abs(values).max())):
            return f"all {text} are alike"
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return "lesion size and cohort cannot be told apart"
    return ""


def _fitted(people: pd.DataFrame, design: Floats) -> Any | None:  # noqa: ANN401 - statsmodels has no types
    """The mixed model by restricted maximum likelihood; None where no optimiser comes to an end."""
    model = MixedLM(people["score"].to_numpy(), design, groups=people["site"].to_numpy())
    for optimiser in _OPTIMISERS:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # at the edge, where sites do not differ, it warns and is right
            try:
                found = model.fit(reml=True, method=optimiser)
            except (np.linalg.LinAlgError, ValueError):
                continue
        if found.converged and np.isfinite([found.llf, *found.fe_params, found.scale, found.cov_re[0, 0]]).all():
            return found
    return None


def _has_variance(fitted: Any) -> bool:  # noqa: ANN401
    return float(fitted.cov_re[0, 0]) > _NOTHING_LEFT * float(fitted.scale)


def _effects(people: pd.DataFrame, design: Floats, fitted: Any) -> dict[str, SiteEffect]:  # noqa: ANN401
    means = people.groupby("site")["score"].agg(["mean", "size"])
    raw = means["mean"] - means["mean"].mean()
    names = [str(name) for name in means.index]
    if not _has_variance(fitted):
        return {name: SiteEffect(int(means["size"][name]), float(raw[name]), 0.0, None, None) for name in names}
    within, between = float(fitted.scale), float(fitted.cov_re[0, 0])
    errors = dict(zip(names, _standard_errors(people, design, within, between), strict=True))
    reach = float(stats.t.isf(0.025, len(names) - 1))  # the normal one covers 80 to 90 % of simulated sites
    found = {}
    for name, predicted in fitted.random_effects.items():
        n, value, error = int(means["size"][name]), float(predicted.iloc[0]), reach * float(errors[name])
        low, high = (value - error, value + error) if n >= SMALL else (None, None)
        found[name] = SiteEffect(n, float(raw[name]), value, low, high)
    return dict(sorted(found.items()))


def _standard_errors(people: pd.DataFrame, design: Floats, within: float, between: float) -> Floats:
    """Of each site's intercept less the mean of all sites' (the predicted ones have mean 0), sites sorted by name.

    From the inverse of Henderson's equations (Biometrics 1975;31:423), so that what the straight line's coefficients
    are uncertain by is counted.
    """
    belongs = pd.get_dummies(people["site"]).to_numpy(np.float64)
    n_sites, n_fixed = belongs.shape[1], design.shape[1]
    both = np.hstack([design, belongs])
    equations = both.T @ both
    equations[n_fixed:, n_fixed:] += np.eye(n_sites) * within / between
    covariance = within * np.linalg.inv(equations)[n_fixed:, n_fixed:]
    centring = np.eye(n_sites) - 1 / n_sites
    errors: Floats = np.sqrt(np.diag(centring @ covariance @ centring))
    return errors
