"""What the command line shows: tables and colours on a terminal, plain lines anywhere else."""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from goat_ray.pipeline.logs import PACKAGE, CaseFormatter, CurrentStderr

if TYPE_CHECKING:
    import pandas as pd

    from goat_ray.cases import FailedCase
    from goat_ray.members.ensemble import Ensemble
    from goat_ray.pipeline.events import Events
    from goat_ray.pipeline.job import RunSummary
    from goat_ray.pipeline.progress import Reporter
    from goat_ray.pipeline.pseudolabel import PseudoLabelSummary
    from goat_ray.report.summary import MeanScores
    from goat_ray.running import Summary
    from goat_ray.status import RunStatus

_LESIONWISE = {"Dice": "lw_dice", "NSD 0.5 mm": "lw_nsd_0_5", "NSD 1 mm": "lw_nsd_1_0", "HD95 mm": "lw_hd95_mm"}
_ONE_TO_ONE = {"F1": "match_f1", "Dice": "sq_dice", "NSD": "sq_nsd", "HD95 mm": "sq_hd95_mm"}
_MOST_FAILURES, _MOST_SITES = 40, 6

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_events: list["Events"] = []  # one where a program listens on stdout, otherwise none
S = TypeVar("S", bound="Summary")


def set_up_logging(verbose: bool) -> None:
    """Send the package's own log to stderr, one plain line per record."""
    logger = logging.getLogger(PACKAGE)
    logger.handlers[:] = [CurrentStderr(CaseFormatter("%H:%M:%S"))]
    logger.setLevel(logging.INFO if verbose or not err.is_terminal else logging.WARNING)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """A table: drawn on a terminal, tab-separated lines otherwise."""
    if not out.is_terminal:
        lines = ("\t".join(" ".join(str(cell).split()) for cell in cells) for cells in (columns, *rows))
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for cells in rows:
        table.add_row(*(Text(str(cell)) for cell in cells))
    out.print(table)


def show_error(message: str) -> None:
    """One error for a person to act on."""
    err.print("error:", style="bold red", end=" ")
    err.print(message, soft_wrap=True, markup=False)


def speak_json(wanted: bool) -> bool:
    """From now on, tell a program what goes on: events on stdout, and people nothing but the log on stderr."""
    _events.clear()
    if wanted:
        from goat_ray.pipeline.events import Events

        _events.append(Events(sys.stdout))
    return wanted


@contextmanager
def reporter() -> Iterator["Reporter"]:
    """Events for a program; for people a progress bar where stderr is a terminal, log lines otherwise."""
    from goat_ray.pipeline.progress import BarReporter, LogReporter, Several

    if _events:
        with redirect_stdout(sys.stderr):  # what any library prints is no event
            yield Several(LogReporter(), *_events)
    elif err.is_terminal:
        with BarReporter(err) as bar:
            yield bar
    else:
        yield LogReporter()


def show_end(summary: S, show: Callable[[S], None], exit_code: int) -> None:
    """The end of a command that worked on cases: `show` shows it to people, the last event tells a program."""
    for warning in summary.warnings:
        err.print(f"warning: {warning}", soft_wrap=True, markup=False)
    if not _events:
        show(summary)
    for events in _events:
        events.end(summary.stopped, summary.facts, exit_code)


def tell_failure(message: str, exit_code: int) -> None:
    """Tell a program, if one listens, that a command ended without a summary."""
    for events in _events:
        events.error(message, exit_code)


def show_summary(summary: "RunSummary") -> None:
    """A run that has ended: counts, failures with what to do about them, mean scores, where the results are."""
    show_failed(summary.failures, f"{summary.out}/tables/failures.parquet")
    show_scores(summary)
    again = f" ({summary.already_done} from earlier)" if summary.already_done else ""
    counts = (summary.discovered, f"{summary.ok}{again}", summary.failed, summary.skipped, f"{summary.elapsed_s:.1f}")
    columns = ("discovered", "ok", "failed", "skipped", "seconds")
    show_table(f"Run {summary.run_id}", columns, [counts], right=columns)
    out.print(f"results: {summary.out}   tables: {summary.out}/tables", soft_wrap=True, markup=False)


def show_pseudo_labels(summary: "PseudoLabelSummary") -> None:
    """The end of a making of pseudo-labels: both runs, what was kept and refused, and how to go on."""
    for run in summary.runs:
        show_summary(run)
    if not summary.dataset:
        return
    rows = [(source, "in the dataset", count) for source, count in sorted(summary.kept.items())]
    rows += [("pseudo", f"refused: {reason}", count) for reason, count in sorted(summary.refused.items())]
    show_table("Dataset", ("source", "what became of them", "cases"), rows, right=("cases",))
    changed = f"{summary.changed} file(s) written or deleted" if summary.changed else "nothing had changed"
    out.print(
        f"dataset: {summary.dataset} ({changed}); provenance.parquet tells of every case. Before training, copy its "
        "splits_final.json to nnU-Net's preprocessed folder, as its README.md says",
        soft_wrap=True,
        markup=False,
    )


def show_sweep(table: "pd.DataFrame", place: str) -> None:
    """How many cases sets of gates, and gates as set or published, would keep; every other is in the file."""
    from goat_ray.pseudolabel.sweep import ALL_SITES

    shown = table[table["is_main"]]
    sites = [site for site in dict.fromkeys(shown["site"]) if site != ALL_SITES][:_MOST_SITES]
    columns = ("gate", ALL_SITES, *sites)
    cells = shown.set_index(["gate", "site"])
    rows = [
        (gate, *(f"{cells.loc[(gate, site), 'kept']}/{cells.loc[(gate, site), 'cases']}" for site in columns[1:]))
        for gate in dict.fromkeys(shown["gate"])
    ]
    show_table("Cases that would be kept", columns, rows, right=columns[1:])
    out.print(f"every gate at many limits, and every site: {place}", soft_wrap=True, markup=False)


def show_failed(
    failures: Sequence["FailedCase"], all_in: str, title: str = "Failed cases", first_column: str = "case"
) -> None:
    """What failed, why, and what to do about it; of very many only the first of each category.

    Args:
        failures: by case id.
        all_in: where the others are then.
        title: of the table, on a terminal.
        first_column: what its cases are.
    """
    shown, by_category = failures, Counter(case.failure.category for case in failures)
    if not failures:
        return
    if len(failures) > _MOST_FAILURES:
        of_each = max(1, _MOST_FAILURES // len(by_category))
        shown = tuple(
            case
            for category in by_category
            for case in [case for case in failures if case.failure.category == category][:of_each]
        )
        show_table("Failures", ("category", "cases"), by_category.most_common(), right=("cases",))
    rows = [(case.case_id, case.failure.category, case.failure.message, case.failure.hint) for case in shown]
    show_table(title, (first_column, "category", "what was found", "what to do"), rows)
    if len(shown) < len(failures):
        out.print(f"and {len(failures) - len(shown)} more in {all_in}", soft_wrap=True, markup=False)


def show_status(status: "RunStatus") -> None:
    """How far a run is."""
    columns = ("run", "state", "expected", "ok", "failed", "remaining", "cases/h", "left", "last commit")
    per_hour = f"{status.cases_per_hour:.0f}" if status.cases_per_hour else ""
    left = f"{timedelta(seconds=round(status.left_s))}" if status.left_s else ""
    last = f"{timedelta(seconds=round(status.idle_s))} ago" if status.idle_s is not None else "none"
    counts = (status.expected, status.ok, status.failed, status.remaining)
    cells = (f"{status.kind} {status.run_id}", status.state, *counts, per_hour, left, last)
    show_table("Status", columns, [cells], right=columns[2:7])
    if status.categories:
        show_table("Failures", ("category", "cases"), list(status.categories.items()), right=("cases",))


def show_scores(summary: "RunSummary") -> None:
    """Mean scores by spec and region, and which cases are in them."""
    if not summary.scores:
        return
    one_to_one = [score for score in summary.scores if score.means["sq_dice"] is not None]
    lesionwise = [score for score in summary.scores if score not in one_to_one]
    for title, columns, scores in (
        ("Lesion-wise scores, mean over cases", _LESIONWISE, lesionwise),
        ("One-to-one scores, mean over cases", _ONE_TO_ONE, one_to_one),
    ):
        if scores:
            rows = [_score_cells(score, tuple(columns.values())) for score in scores]
            header = ("spec", "region", "cases", "TP", "FP", "FN", *columns)
            show_table(title, header, rows, right=header[2:])
    out.print(_means_note(summary), soft_wrap=True, markup=False)


def _score_cells(score: "MeanScores", means: Sequence[str]) -> tuple[object, ...]:
    region = score.region if score.official else f"{score.region}*"
    values = (score.means[name] for name in means)
    cells = ("" if value is None else f"{value:.4f}" for value in values)
    return (score.spec, region, score.n, score.tp, score.fp, score.fn, *cells)


def _means_note(summary: "RunSummary") -> str:
    """Who is in the means, and who is not."""
    by_spec = {score.spec: score for score in summary.scores}.values()  # a case is in every region of one spec
    penalised = sum(score.n_penalised for score in by_spec)
    left_out = summary.failed + summary.unscored - penalised
    without_reference = summary.ok - summary.unscored - sum(score.n - score.n_penalised for score in by_spec)
    notes = []
    if any(not score.official for score in summary.scores):
        notes.append("* not scored by the organisers.")
    if penalised:
        notes.append(f"{penalised} case(s) without prediction are in the means, penalised as the organisers do.")
    if left_out:
        notes.append(f"{left_out} case(s) could not be scored and are not in the means; table cases says why.")
    if without_reference:
        notes.append(f"{without_reference} case(s) have no reference and are not in the means.")
    return " ".join(notes) or "Every case is in the means."


def show_members(ensemble: "Ensemble") -> None:
    """What each member of an ensemble is and costs."""
    from goat_ray.members.inspection import describe

    columns = ("member", "network", "parameters", "patch", "windows", "channels", "labels", "GB fp16/32", "sha256")
    members = [describe(member) for member in ensemble.members]
    rows = [
        (
            member.code,
            f"{member.network}\n{member.trainer}" if out.is_terminal else member.network,
            f"{member.parameters:,}",
            "×".join(map(str, member.patch_size)),
            member.windows,
            " ".join(member.channels),
            " ".join(member.labels),
            f"{member.vram_fp16_gb:.2f}/{member.vram_fp32_gb:.2f}",
            member.sha256,
        )
        for member in members
    ]
    show_table(f"Ensemble {ensemble.name}", columns, rows, right=("parameters", "windows", "GB fp16/32"))
    for member in members:
        if member.problem:
            err.print(f"warning: {member.code} cannot be run: {member.problem}", soft_wrap=True, markup=False)
