"""Tables on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from goat_ray import console


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
