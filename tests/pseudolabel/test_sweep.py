"""How many cases each gate would keep."""

import time

import numpy as np
import pandas as pd

from goat_ray.pseudolabel.sweep import ALL_SITES, CHOSEN, NO_GATE, PUBLISHED, sweep
from goat_ray.quality import PUBLISHED_LIMITS, SIGNS, Limit


def made_up(n: int) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    index = [f"c{i:05d}" for i in range(n)]
    signs = pd.DataFrame(rng.random((n, len(SIGNS))), index=index, columns=list(SIGNS))
    return signs, pd.Series(rng.choice(["north", "south"], n), index=index)


def kept(table: pd.DataFrame, gate: str, site: str) -> tuple[int, int]:
    (row,) = table[(table["gate"] == gate) & (table["site"] == site)].itertuples()
    return row.kept, row.cases


def test_counts_are_those_of_the_signs() -> None:
    signs, sites = made_up(200)
    chosen = signs["margin"] > 0.5
    table = sweep(signs, sites, chosen, [Limit("margin", at_least=0.42)])
    north = sites == "north"
    assert kept(table, NO_GATE, ALL_SITES) == (200, 200)
    assert kept(table, NO_GATE, "north") == (north.sum(), north.sum())
    assert kept(table, CHOSEN, "north") == ((chosen & north).sum(), north.sum())
    assert kept(table, "margin >= 0.42", "south") == (((signs["margin"] >= 0.42) & ~north).sum(), (~north).sum())
    assert kept(table, "entropy <= 0.35", ALL_SITES) == ((signs["entropy"] <= 0.35).sum(), 200)
    passing = (signs["dice_wt"] >= 0.85) & (signs["dice_tc"] >= 0.7) & (signs["dice_et"] >= 0.5)
    passing &= (signs["confidence"] >= 0.7) & (signs["entropy"] <= 0.35) & (signs["margin"] >= 0.2)
    assert kept(table, PUBLISHED, ALL_SITES) == (passing.sum(), 200)


def test_sets_and_published_gates_are_the_main_rows() -> None:
    signs, sites = made_up(20)
    table = sweep(signs, sites, signs["margin"] > 0, [Limit("dice_wt", at_least=0.99)])
    main = set(table[table["is_main"]]["gate"])
    assert main == {NO_GATE, CHOSEN, PUBLISHED, "dice_wt >= 0.99", *map(str, PUBLISHED_LIMITS)}
    assert len(table["gate"].unique()) > 60


def test_five_thousand_cases_take_a_moment() -> None:
    signs, sites = made_up(5000)
    started = time.process_time()
    sweep(signs, sites, signs["margin"] > 0, ())
    assert time.process_time() - started < 2
