"""Mean scores by spec and region, from the table of regions."""

import pyarrow as pa

from goat_ray.report.summary import COLUMNS, mean_scores
from goat_ray.tables import SCHEMAS


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS["regions"]).select(COLUMNS)


def row(region: str = "ET", spec: str | None = "brats2023-gli", **scores: object) -> dict:
    return {"region": region, "spec": spec, "official": True, "penalised": False, **scores}


def test_means_are_plain_means_over_the_cases_and_counts_are_sums() -> None:
    (mean,) = mean_scores(table(row(lw_dice=1.0, tp=2, fp=0, fn=1), row(lw_dice=0.5, tp=1, fp=3, fn=0)))
    assert (mean.n, mean.tp, mean.fp, mean.fn) == (2, 3, 3, 1)
    assert mean.means["lw_dice"] == 0.75
    assert mean.means["sq_dice"] is None


def test_penalised_cases_are_in_the_mean_and_counted() -> None:
    (mean,) = mean_scores(table(row(lw_dice=1.0, tp=1), row(lw_dice=0.0, penalised=True)))
    assert (mean.n, mean.n_penalised, mean.means["lw_dice"], mean.tp) == (2, 1, 0.5, 1)


def test_regions_and_specs_come_in_order_of_appearance() -> None:
    found = mean_scores(table(row("WT"), row("ET"), row("WT", "brats2023-met"), row("WT")))
    assert [(mean.spec, mean.region, mean.n) for mean in found] == [
        ("brats2023-gli", "WT", 2),
        ("brats2023-gli", "ET", 1),
        ("brats2023-met", "WT", 1),
    ]


def test_what_was_not_scored_is_in_no_mean() -> None:
    assert mean_scores(table(row(spec=None), row(spec=None))) == []
    assert mean_scores(table()) == []
