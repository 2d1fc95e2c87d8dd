"""Mean scores of a run by spec and region, from its table `regions`."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

MEANS = ("lw_dice", "lw_nsd_0_5", "lw_nsd_1_0", "lw_hd95_mm", "sq_dice", "sq_nsd", "sq_hd95_mm", "match_f1")
_SUMS = ("tp", "fp", "fn")
COLUMNS = ("region", "spec", "official", "penalised", *MEANS, *_SUMS)
"""What `mean_scores` needs of the table."""


@dataclass(frozen=True, slots=True)
class MeanScores:
    """Plain means over cases, as the organisers rank by; None where no case has a value.

    `n` counts the scored cases, those without prediction that the policy penalises (`n_penalised`) among them.
    """

    spec: str
    region: str
    official: bool
    n: int
    n_penalised: int
    tp: int
    fp: int
    fn: int
    means: dict[str, float | None]


def mean_scores(regions: pa.Table) -> list[MeanScores]:
    """Scores by spec and region in order of first appearance; empty when no case was scored."""
    scored = regions.filter(pc.is_valid(regions["spec"]))
    scored = scored.set_column(
        scored.schema.get_field_index("penalised"), "penalised", pc.cast(scored["penalised"], pa.int32())
    )
    aggregates = [*((name, "mean") for name in MEANS), *((name, "sum") for name in (*_SUMS, "penalised"))]
    grouped = scored.group_by(["spec", "region", "official"], use_threads=False).aggregate(
        [("region", "count"), *aggregates]
    )
    return [
        MeanScores(
            spec=row["spec"],
            region=row["region"],
            official=row["official"],
            n=row["region_count"],
            n_penalised=row["penalised_sum"] or 0,
            **{name: row[f"{name}_sum"] or 0 for name in _SUMS},
            means={name: row[f"{name}_mean"] for name in MEANS},
        )
        for row in grouped.to_pylist()
    ]
