"""What a pseudo-label run kept and refused, why, and how the extremes of both look."""

import io
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from goat_ray.pseudolabel.config import GatesConfig
from goat_ray.pseudolabel.gates import best_first, limits_of
from goat_ray.pseudolabel.provenance import HUMAN, PSEUDO
from goat_ray.pseudolabel.selection import Reason
from goat_ray.quality import SIGNS, Limit
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import NO_SITE, Cohort, RunData, by_site
from goat_ray.report.drawing import INK, draw, legend, looks
from goat_ray.report.sections.failures import picture
from goat_ray.report.statistics import spread
from goat_ray.tables import table_key

_KEPT, _REFUSED = "kept", "refused by a gate"
_GATED = (str(Reason.GATE), str(Reason.SITE_CAP))
_SHOWN = 3  # pictures of each extreme
_BINS, _FEWEST = 20, 3
_ALL = "all"


def pseudo_labels(cohort: Cohort) -> Section | None:
    """Acceptance by site, the gates' distributions, thumbnails of extremes; None where no run makes pseudo-labels."""
    blocks: list[Table | Figure] = []
    for run in cohort.runs:
        rows = _provenance(run)
        if rows is not None:
            blocks += [_by_site(rows), *_gates(run, rows), *_pictures(run, rows)]
    if not blocks:
        return None
    text = (
        "Which predictions became pseudo-labels, and why others did not. No patient's pseudo-label is in a fold that "
        "validates on that patient; a scan that is labelled, under whatever id, is never pseudo-labelled.",
    )
    return Section("pseudo", "Pseudo-labels", text, blocks)


def _provenance(run: RunData) -> pd.DataFrame | None:
    data = run.store.find(table_key("provenance"))
    if data is None:
        return None
    rows = pd.read_parquet(io.BytesIO(data))
    return rows.assign(site=rows["site"].fillna(NO_SITE)).set_index("case_id", drop=False)


def _by_site(rows: pd.DataFrame) -> Table:
    pseudo = rows[rows["source"] == PSEUDO]
    reasons = [str(reason) for reason in Reason if (pseudo["reason"] == reason).any()]
    cells: list[list[Cell]] = []
    for site, here in by_site(rows, sorted(rows["site"].unique()), _ALL):
        human, ours = here[here["source"] == HUMAN], here[here["source"] == PSEUDO]
        kept = int(ours["accepted"].sum())
        counts: list[Cell] = [int((ours["reason"] == reason).sum()) for reason in reasons]
        cells.append(
            [site, int(human["accepted"].sum()), len(ours), kept, kept / len(ours) if len(ours) else None, *counts]
        )
    heads = ("site", "labelled cases", "unlabelled cases", "kept", "share kept", *(f"refused: {r}" for r in reasons))
    caption = (
        "Refused for: failed, no prediction; skipped, beyond the limit of the call; labelled_id and labelled_scan, a "
        "labelled case has this id or shows this scan; duplicate_scan, another unlabelled case shows this scan; gate, "
        "a sign of quality is outside its limit; site_cap, its site has enough surer ones."
    )
    return Table("Pseudo-labels by site", caption, heads, cells, digits=0, digits_of={"share kept": 2})


def _gates(run: RunData, rows: pd.DataFrame) -> Iterator[Table | Figure]:
    settings = run.record.get("pseudo_labels", {}).get("gates", {})
    limits = {limit.sign: limit for limit in limits_of(GatesConfig.model_validate(settings))}
    judged = rows[(rows["source"] == PSEUDO) & (rows["accepted"] | rows["reason"].isin(_GATED))]
    known = [sign for sign in SIGNS if judged[sign].notna().any()]
    cells: list[list[Cell]] = []
    for sign in known:
        for verdict, group in (_KEPT, judged["accepted"]), (_REFUSED, ~judged["accepted"]):
            found = spread(judged.loc[group, sign].to_numpy(float))
            quantiles = (found.p5, found.q1, found.median, found.q3)
            cells.append([SIGNS[sign], _told(limits.get(sign)), verdict, found.n, *quantiles])
    quantile_heads = ("5th percentile", "lower quartile", "median", "upper quartile")
    heads = ("sign of quality", "gate", "cases that were", "cases", *quantile_heads)
    caption = "Signs need no reference. Cases that failed or that a leak guard refused are not counted."
    yield Table("Signs of quality, of kept and of refused cases", caption, heads, cells, keys=3)
    for sign in known:
        if judged[sign].notna().sum() >= _FEWEST:
            groups = {_KEPT: judged.loc[judged["accepted"], sign], _REFUSED: judged.loc[~judged["accepted"], sign]}
            yield _histogram(sign, {name: values.dropna() for name, values in groups.items()}, limits.get(sign))


def _told(limit: Limit | None) -> str:
    return "none" if limit is None else str(limit).replace(f"{limit.sign} ", "")


def _histogram(sign: str, groups: Mapping[str, pd.Series], limit: Limit | None) -> Figure:
    values = [group.to_numpy(float) for group in groups.values()]
    edges = np.histogram_bin_edges(np.concatenate(values), bins=_BINS)
    palette = looks(list(groups))

    def paint(axes: Axes) -> None:
        bars, bottom = {}, np.zeros(len(edges) - 1)
        for look, found in zip(palette.values(), values, strict=True):
            heights, _ = np.histogram(found, bins=edges)
            bars[look] = axes.bar(edges[:-1], heights, np.diff(edges), bottom, align="edge", color=look.colour)
            bottom = bottom + heights
        for end in (limit.at_least, limit.at_most) if limit else ():
            if end is not None:
                axes.axvline(end, color=INK, ls="--", lw=1.2)
        axes.set_xlabel(SIGNS[sign])
        axes.set_ylabel("cases")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, bars, palette)

    gate = "The dashed line is the gate." if limit else "No gate was set on it."
    caption = f"How many cases have which value, kept and refused ones on top of each other. {gate}"
    alt = "; ".join(f"{name}: {len(group)} cases" for name, group in groups.items())
    return draw(f"Distribution: {SIGNS[sign]}", caption, alt, paint, 2.4)


def _pictures(run: RunData, rows: pd.DataFrame) -> Iterator[Figure]:
    """The least sure cases that were kept, and the surest that gates refused: where a gate may be wrong."""
    for verdict, chosen in (_KEPT, rows["accepted"]), (_REFUSED, rows["reason"].isin(_GATED)):
        group = rows[chosen & (rows["source"] == PSEUDO)]
        ranked = list(best_first(group[[*SIGNS]]))
        ends = {"surest": ranked[:_SHOWN], "least sure": ranked[_SHOWN:][-_SHOWN:]}
        for end, case_ids in ends.items():
            for case_id in case_ids:
                detail = f": {group.at[case_id, 'detail']}" if verdict == _REFUSED else ""
                figure = picture(run, case_id, f"Among the {end} of those {verdict}{detail}")
                if figure:
                    yield figure
