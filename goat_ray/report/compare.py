"""Two runs on the same cases: paired differences, winners, and what differs between their settings."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from goat_ray.config import differing_keys
from goat_ray.errors import ConfigError
from goat_ray.patients import patients_of
from goat_ray.report import figures
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort, RunData, load_run
from goat_ray.report.drawing import Look, looks
from goat_ray.report.measured import DISTANCES, Measured, measured
from goat_ray.report.page import check_name, write_page
from goat_ray.report.paired import Comparison, compare, holm
from goat_ray.report.sections.failures import PICTURE_KEY, picture
from goat_ray.report.sections.reproduction import words
from goat_ray.report.statistics import BySite

_EXTREMES = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """The scores of one region in both runs, on the cases that both have scored; columns end in `_a` and `_b`."""

    measured: Measured
    rows: pd.DataFrame

    def difference(self, column: str) -> pd.Series:
        """B minus A, by case."""
        return self.rows[f"{column}_b"] - self.rows[f"{column}_a"]


def write_comparison(run_a: str, run_b: str, out: str) -> list[str]:
    """Write the comparison of run B with run A as one HTML file, and its numbers beside it; returns the files.

    Raises:
        ConfigError: a run without tables, or no case and region that both have scored by the same spec.
        StorageError: the report cannot be written.
    """
    check_name(out)
    a, b = load_run(run_a), load_run(run_b)
    pairs = list(_pairs(a, b))
    if not pairs:
        raise ConfigError(f"{run_a} and {run_b} have no case in common that both have scored by the same spec")
    both = Cohort((a, b), a.tables)
    sections = [_what(a, b, pairs), _differences(pairs, looks(both.sites_by_size)), _extremes(a, b, pairs)]
    sections += [_settings(a, b), words(both)]
    return write_page(f"{b.place} compared with {a.place}", sections, out)


def _pairs(a: RunData, b: RunData) -> Iterator[Pair]:
    one, other = Cohort((a,), a.tables), Cohort((b,), b.tables)
    theirs = {(found.spec, found.region): found.rows for found in measured(other)}
    for found in measured(one):
        if (rows := theirs.get((found.spec, found.region))) is not None:
            joined = found.rows.merge(rows, on="case_id", suffixes=("_a", "_b"))
            if len(joined):
                yield Pair(found, joined.sort_values("case_id"))


def _what(a: RunData, b: RunData, pairs: list[Pair]) -> Section:
    rows: list[list[Cell]] = [
        [name, run.place, str(run.record.get("kind")), str(run.record.get("run_id")), len(run.tables["cases"])]
        for name, run in (("A", a), ("B", b))
    ]
    common = max(len(pair.rows) for pair in pairs)
    text = (
        f"{common} cases are scored in both runs; only they are compared. A difference is B minus A: above zero, B "
        "scores more. For distances (HD95) less is better, and wins count accordingly.",
    )
    caption = "Equal ids mean equal settings and weights. Cases: all that the run expected."
    table = Table("Runs", caption, ("name here", "run", "kind", "id", "cases"), rows, keys=4, digits=0)
    return Section("runs", "What is compared", text, (table,))


def _differences(pairs: list[Pair], palette: dict[str, Look]) -> Section:
    found = [(pair, column, result) for pair in pairs for column, result in _results(pair)]
    adjusted = holm([result.pooled.p_value for _, _, result in found])
    overall: list[list[Cell]] = [
        [*_names(pair, column), *_cells(result.pooled), p_value]
        for (pair, column, result), p_value in zip(found, adjusted, strict=True)
    ]
    by_site: list[list[Cell]] = [
        [*_names(pair, column), site, *_cells(one)]
        for pair, column, result in found
        for site, one in result.sites.items()
    ]
    heads = ("cases", "mean difference", "typical shift", "B wins", "ties", "A wins", "p")
    caption = (
        "Mean difference: with its 95 % interval in brackets, bootstrapped over patients within sites; below 10 "
        "patients there is none, only n, below 50 it is grey. Typical shift: median of all pairwise means of "
        "differences (Hodges–Lehmann), which few extreme cases do not move. Wins and ties count cases. p: chance of "
        "so clear a difference if both were equally good (Wilcoxon's signed-rank test, Pratt's zeros), from 10 "
        "patients on; p (Holm) allows for the number of regions and scores tested."
    )
    by_site_caption = "As above, within each site; p does not allow for the number of tests."
    digits_of = dict.fromkeys(("p", "p (Holm)"), 4)
    blocks = [
        Table("Differences", caption, ("region", "score", *heads, "p (Holm)"), overall, 3, 2, digits_of),
        Table("Differences by site", by_site_caption, ("region", "score", "site", *heads), by_site, 3, 3, digits_of),
    ]
    return Section(
        "differences", "Which is better, and where", (), [*blocks, *(_figure(pair, palette) for pair in pairs)]
    )


def _results(pair: Pair) -> Iterator[tuple[str, BySite[Comparison]]]:
    columns = [name for name in pair.measured.metrics if pair.difference(name).notna().any()]
    a, b = (pair.rows[[f"{name}_{run}" for name in columns]].to_numpy(float) for run in "ab")
    lower = [name in DISTANCES for name in columns]
    who = patients_of(pair.rows["case_id"]), pair.rows["site_a"].tolist()
    found = compare(b, a, *who, lower_is_better=lower)
    for place, name in enumerate(columns):
        yield name, BySite(found.pooled[place], {site: results[place] for site, results in found.sites.items()})


def _names(pair: Pair, column: str) -> list[Cell]:
    return [pair.measured.name, pair.measured.metrics[column]]


def _cells(one: Comparison) -> list[Cell]:
    return [one.n_cases, one.difference, one.shift, one.wins, one.ties, one.losses, one.p_value]


def _figure(pair: Pair, palette: dict[str, Look]) -> Figure:
    main, label = pair.measured.main, pair.measured.label
    rows = pair.rows.assign(difference=pair.difference(main)).dropna(subset=["difference"])
    groups = figures.points(rows[f"{main}_a"], rows["difference"], rows["site_a"])
    caption = "Each point is a case: above the line B scores more, below it A; far left A scored little."
    labels = (f"{label} in A", "B minus A")
    lines = {"equal": 0.0}
    return figures.scatter(f"Case by case: {pair.measured.name}", caption, groups, palette, labels, lines=lines)


def _extremes(a: RunData, b: RunData, pairs: list[Pair]) -> Section:
    blocks: list[Table | Figure] = []
    shown: dict[str, str] = {}
    for pair in pairs:
        main = pair.measured.main
        ordered = pair.rows.assign(difference=pair.difference(main)).dropna(subset=["difference"])
        ordered = ordered.sort_values(["difference", "case_id"])
        ends = pd.concat([ordered.head(_EXTREMES), ordered.tail(_EXTREMES)]).drop_duplicates("case_id")
        ends = ends[ends["difference"] != 0]
        rows: list[list[Cell]] = [
            [row["case_id"], row["site_a"], row[f"{main}_a"], row[f"{main}_b"], row["difference"]]
            for row in ends.to_dict("records")
        ]
        if rows:
            heads = ("case", "site", "A", "B", "B minus A")
            title = f"Largest losses and gains: {pair.measured.name}"
            caption = (
                f"Score: {pair.measured.label}, in both runs; the largest losses of B first, then its largest gains."
            )
            blocks.append(Table(title, caption, heads, rows, keys=2))
            shown |= {str(row[0]): f"{pair.measured.name}: {row[4]:+.3f}" for row in rows if row[0] not in shown}
    pictures = [
        figure
        for case_id, why in shown.items()
        for run, name in ((a, "A"), (b, "B"))
        if (figure := picture(run, case_id, f"{name}. {why}"))
    ]
    text = (PICTURE_KEY,) if pictures else () if blocks else ("No case differs.",)
    return Section("extremes", "Where they differ most", text, [*blocks, *pictures[: 4 * _EXTREMES]])


def _settings(a: RunData, b: RunData) -> Section:
    ours, theirs = a.record["fingerprint"], b.record["fingerprint"]
    rows: list[list[Cell]] = [[key, str(_at(ours, key)), str(_at(theirs, key))] for key in differing_keys(ours, theirs)]
    text = () if rows else ("Both runs were made with the same settings and weights.",)
    caption = "Settings and checksums that change results; – where a run does not have one."
    blocks = [Table("Settings that differ", caption, ("setting", "A", "B"), rows, keys=3)] if rows else []
    return Section("settings", "What differs between the runs", text, blocks)


def _at(fingerprint: dict[str, object], key: str) -> object:
    """The value at a dotted key; specs have dots in no name, but a value may be missing on one side."""
    value: object = fingerprint
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "–" if value is None else value
