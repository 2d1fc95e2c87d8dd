"""Tables on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from goat_ray import console
from goat_ray.pipeline.job import RunSummary
from goat_ray.report.summary import MEANS, MeanScores


def test_a_terminal_table_shows_text_that_looks_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=screen, force_terminal=True, width=80))
    console.show_table("Failed cases", ("case",), [("a[/b][bold]x",)])
    assert "a[/b][bold]x" in screen.getvalue()


def test_a_log_gets_one_line_per_row_whatever_is_in_a_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(file=io.StringIO()))
    console.show_table("Failed cases", ("case", "found"), [("a[/b]", "two\nlines\tand a tab")])
    assert capsys.readouterr().out == "case\tfound\na[/b]\ttwo lines and a tab\n"


def scores_of(spec: str, n: int, n_penalised: int = 0) -> list[MeanScores]:
    means = dict.fromkeys(MEANS, None) | {"lw_dice": 0.5}
    return [MeanScores(spec, region, True, n, n_penalised, 1, 0, 0, means) for region in ("WT", "ET")]


@pytest.mark.parametrize(
    ("ok", "failed", "unscored", "scores", "note"),
    [
        (3, 0, 0, scores_of("a", 3), "Every case is in the means."),
        (3, 0, 0, scores_of("a", 2), "1 case(s) have no reference and are not in the means."),
        (3, 2, 1, scores_of("a", 2), "3 case(s) could not be scored and are not in the means; table cases says why."),
        (
            3,
            2,
            0,
            [*scores_of("a", 2, 1), *scores_of("b", 3, 1)],
            "2 case(s) without prediction are in the means, penalised as the organisers do.",
        ),
    ],
)
def test_the_means_say_which_cases_are_in_them(
    capsys: pytest.CaptureFixture[str], ok: int, failed: int, unscored: int, scores: list[MeanScores], note: str
) -> None:
    summary = RunSummary("id", "out", ok + failed, ok, failed, 0, 0, (), (), 1.0, tuple(scores), unscored)
    console.show_scores(summary)
    assert capsys.readouterr().out.splitlines()[-1] == note
