"""The tables that users write, as CSV or parquet: manifests of cases, and sites."""

import csv
import difflib
import io
from collections.abc import Sequence
from reprlib import repr as shortened
from typing import Any

from goat_ray import storage
from goat_ray.errors import ConfigError, MissingFile

_LONGEST_LIST = 500


def read_sheet(uri: str, required: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str | None]]:
    """Rows of a `.csv` or `.parquet` table as text, empty cells as None.

    Raises:
        ConfigError: the table is not there, not readable, or its columns are not the ones asked for.
    """
    try:
        data = storage.read_bytes(uri)
    except MissingFile as error:
        raise ConfigError(str(error)) from None
    try:
        columns, rows = _parse_parquet(data) if uri.endswith(".parquet") else _parse_csv(data)
    except (ValueError, OSError, csv.Error, NotImplementedError) as error:
        raise ConfigError(f"{uri} is not a readable table: {error}") from None
    if len({*columns}) < len(columns):
        raise ConfigError(f"{uri} has two columns of one name.")
    missing = [column for column in required if column not in columns]
    if missing:
        there = ", ".join(map(str, columns))[:_LONGEST_LIST]
        raise ConfigError(f"{uri} has no column {', '.join(missing)}; it has {there or 'none'}.")
    for column in columns:
        if column not in (*required, *optional):
            near = difflib.get_close_matches(str(column), [*required, *optional], n=1)
            raise ConfigError(
                f"{uri} has an unknown column {shortened(column)}{f'; is {near[0]} meant?' if near else '.'}"
            )
    return rows


def _parse_csv(data: bytes) -> tuple[Sequence[str], list[dict[str, str | None]]]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    rows = []
    for row in reader:
        if None in (*row, *row.values()):
            raise ValueError(f"line {reader.line_num} does not have {len(reader.fieldnames or ())} cells")
        rows.append({column: cell or None for column, cell in row.items()})
    return reader.fieldnames or (), rows


def _parse_parquet(data: bytes) -> tuple[Sequence[str], list[dict[str, str | None]]]:
    import pyarrow.parquet  # slow to import, and needed for few cohorts

    try:
        schema = pyarrow.parquet.read_schema(pyarrow.BufferReader(data))
        texts = [column.name for column in schema if _is_text(column)]
        # Left as dictionaries: a small file can repeat a long text so often that no memory holds all copies.
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), read_dictionary=texts)
        if file.metadata.num_rows > len(data):
            raise ValueError(f"it promises {file.metadata.num_rows} rows in {len(data)} bytes")
        table = file.read()
        table.validate(full=True)
        cells = [_cells(column) for column in table.columns]
    except pyarrow.ArrowException as error:
        raise ValueError(error) from error
    names = table.column_names
    return names, [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _is_text(column: Any) -> bool:  # noqa: ANN401 - pyarrow is untyped
    """Whether a column holds text; otherwise it must hold plain numbers."""
    import pyarrow.types as kinds

    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    is_text: bool = kinds.is_string(kind) or kinds.is_large_string(kind)
    is_number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or kinds.is_null(kind)
    if not (is_text or is_number):
        raise ValueError(f"column {column.name} holds {kind}, not text")
    return is_text


def _cells(column: Any) -> list[str | None]:  # noqa: ANN401 - pyarrow is untyped
    cells: list[str | None] = []
    for chunk in column.chunks:
        encoded = chunk.dictionary_encode()
        distinct = [_text(cell) for cell in encoded.dictionary.to_pylist()]
        cells += [None if index is None else distinct[index] for index in encoded.indices.to_pylist()]
    return cells


def _text(cell: Any) -> str | None:  # noqa: ANN401 - whatever a parquet column holds
    return None if cell is None or cell != cell or cell == "" else str(cell)
