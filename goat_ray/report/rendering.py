"""From sections to HTML: one template, everything in it escaped but the drawings that `figures` makes."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from goat_ray import __version__
from goat_ray.report.blocks import Cell, Section, Table
from goat_ray.report.statistics import Estimate

_HALF, _NUMBER, _INTERVAL = 66, 8, 24  # letters that fit half of the page, of a number and of one with an interval
_SHORT = 44  # letters of a text that is kept on one line
_SHORT_ON_A_PHONE = 20


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["wide"] = _is_wide
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    html = environment.get_template("report.html").render(
        title=title, sections=sections, made=made, version=__version__
    )
    return html.replace(" %", "\u00a0%")  # numbers keep their sign on their line


def _is_wide(table: Table) -> bool:
    """Whether a table needs the page's whole width; narrow ones stand two beside each other."""
    if not table.rows:
        return False
    return sum(max(map(_letters, column)) for column in zip(*table.rows, strict=True)) > _HALF


def _letters(cell: Cell) -> int:
    return len(cell) if isinstance(cell, str) else _INTERVAL if isinstance(cell, Estimate) else _NUMBER


def _cell(cell: Cell, digits: int) -> dict[str, Any]:
    """What the template needs of a cell: text, style, the number to sort by, and a note on what it rests on."""
    if isinstance(cell, Estimate):
        style = "number few" if cell.is_uncertain else "number"
        return {"text": _estimate(cell, digits), "sort": cell.value, "style": style, "note": f"{cell.n} patients"}
    if isinstance(cell, str):
        return {"text": cell, "sort": None, "style": _style(cell), "note": ""}
    if cell is None or math.isnan(cell):
        return {"text": "–", "sort": None, "style": "number", "note": ""}
    text = f"{cell:,}" if isinstance(cell, int) else _number(cell, digits)
    return {"text": text, "sort": cell, "style": "number", "note": ""}


def _style(text: str) -> str:
    return "text" if len(text) > _SHORT else "name long" if len(text) > _SHORT_ON_A_PHONE else "name"


def _estimate(estimate: Estimate, digits: int) -> str:
    if estimate.value is None:
        return "–"
    text = _number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return f"{text} (n = {estimate.n})"
    return f"{text} ({_number(estimate.low, digits)} to {_number(estimate.high, digits)})"


def _number(value: float, digits: int) -> str:
    """With a true minus, as wide as a digit; −0.000 is 0.000."""
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if any(digit in text for digit in "123456789") else text.removeprefix("-")
