"""What a page is made of: sections of text, tables and figures; and every number of its tables as tidy rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pandas as pd

from goat_ray.report.statistics import Estimate

Cell: TypeAlias = str | int | float | Estimate | None

_KEYS = ("section", "table", "row", "column")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Attributes:
        title: what it shows.
        caption: how it is to be read.
        columns: heads; the first `keys` of them name a row.
        rows: cells by column.
        digits: decimals of numbers.
        keys: how many columns are names rather than numbers.
        digits_of: decimals of single columns that need others.
    """

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 3
    keys: int = 1
    digits_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: an SVG drawing or a PNG as a data URI, and the same in words."""

    title: str
    caption: str
    alt: str
    svg: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page with an anchor of its own."""

    anchor: str
    title: str
    text: Sequence[str] = ()
    blocks: Sequence[Table | Figure] = field(default_factory=tuple)


def numbers(sections: Sequence[Section]) -> pd.DataFrame:
    """Every number of the tables: where it stands, its value, its interval and the patients it rests on."""
    rows = [
        row
        for section in sections
        for table in section.blocks
        if isinstance(table, Table)
        for row in _numbers(section, table)
    ]
    columns = [*_KEYS, "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float, "low": float, "high": float, "n": "Int64"})


def _numbers(section: Section, table: Table) -> Iterator[tuple[object, ...]]:
    for cells in table.rows:
        row = " / ".join(str(cell) for cell in cells[: table.keys])
        for column, cell in zip(table.columns[table.keys :], cells[table.keys :], strict=True):
            if isinstance(cell, Estimate):
                yield section.title, table.title, row, column, cell.value, cell.low, cell.high, cell.n
            elif isinstance(cell, int | float):
                yield section.title, table.title, row, column, cell, None, None, None
