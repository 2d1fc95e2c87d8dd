"""How many cases each gate would keep, from stored signs alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from goat_ray.pseudolabel.gates import breaks
from goat_ray.quality import PUBLISHED_LIMITS, Limit

ALL_SITES = "all"
NO_GATE, PUBLISHED, CHOSEN = "no gate", "strict: all of the published", "all gates as set"

_SHARES = tuple(float(share) for share in np.round(np.arange(0.30, 0.96, 0.05), 2))
_AT_LEAST = dict.fromkeys(("dice_wt", "dice_tc", "dice_et", "confidence", "margin"), _SHARES)
_AT_LEAST["wt_volume_ml"] = (0.1, 0.5, 1, 2, 5, 10, 20)
_AT_MOST = {
    "entropy": (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6),
    "wt_volume_ml": (50, 100, 150, 200, 300, 400),
    "wt_components": (1, 2, 3, 5, 10, 20),
}


def sweep(signs: pd.DataFrame, sites: pd.Series, chosen: "pd.Series[bool]", limits: Sequence[Limit]) -> pd.DataFrame:
    """Cases that each gate alone would keep, at many limits, and that sets of gates would keep together.

    Args:
        signs: of the cases that gates decide on.
        sites: site of each of these cases.
        chosen: which of them the gates as set keep, a cap of sites included.
        limits: the gates that are set.

    Returns:
        Columns `gate`, `is_main` (sets of gates, gates as set, published ones), `site` (`ALL_SITES` too), `kept` and
        `cases`, the main ones first.
    """
    passes = {NO_GATE: pd.Series(True, index=signs.index), CHOSEN: chosen.astype(bool)}
    passes[PUBLISHED] = _passes_all(signs, PUBLISHED_LIMITS)
    main = (*limits, *PUBLISHED_LIMITS)
    for limit in (*main, *_grid()):
        passes.setdefault(str(limit), ~breaks(signs, limit))
    names = {NO_GATE, CHOSEN, PUBLISHED, *map(str, main)}
    by_site = sites.reindex(signs.index).to_numpy()
    rows = [
        (gate, gate in names, site, int(kept.sum()), len(kept))
        for gate, passing in passes.items()
        for site, kept in [(ALL_SITES, passing), *passing.groupby(by_site)]
    ]
    return pd.DataFrame(rows, columns=["gate", "is_main", "site", "kept", "cases"])


def _passes_all(signs: pd.DataFrame, limits: Sequence[Limit]) -> "pd.Series[bool]":
    kept = pd.Series(True, index=signs.index)
    for limit in limits:
        kept &= ~breaks(signs, limit)
    return kept


def _grid() -> Iterator[Limit]:
    for sign, values in _AT_LEAST.items():
        yield from (Limit(sign, at_least=value) for value in values)
    for sign, values in _AT_MOST.items():
        yield from (Limit(sign, at_most=value) for value in values)
