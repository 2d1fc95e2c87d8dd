"""From a cohort to one self-contained HTML file and its machine-readable twin."""

import io
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from goat_ray import __version__
from goat_ray.errors import ConfigError
from goat_ray.report.blocks import Cell, Section, Table, numbers
from goat_ray.report.data import Cohort, load_cohort
from goat_ray.report.sections import cohort as cohort_sections
from goat_ray.report.sections import failures, lesions, method, performance, reproduction
from goat_ray.report.statistics import Estimate
from goat_ray.storage import RunStore, absolute

_SECTIONS: Sequence[Callable[[Cohort], Section]] = (
    cohort_sections.provenance,
    cohort_sections.sites,
    performance.performance,
    performance.pooling,
    lesions.detection,
    lesions.volumes,
    method.postprocessing,
    method.trust,
    failures.worst,
    failures.failures,
    method.runtimes,
    reproduction.reproduction,
)

_SHORT = 44  # letters of a text that is kept on one line


def write_report(runs: Sequence[str], out: str) -> list[str]:
    """Write the report of one or several runs, and every number of it as CSV and parquet beside it.

    Args:
        runs: run folders; runs over different cases are put together.
        out: the HTML file, local or on S3.

    Returns:
        The files written.

    Raises:
        ConfigError: a run without tables, a case in two runs, or a name that is no `.html`.
        StorageError: the report cannot be written.
    """
    check_name(out)
    cohort = load_cohort(runs)
    sections = [make(cohort) for make in _SECTIONS]
    title = "Report on " + ", ".join(run.name for run in cohort.runs)
    return write_page(title, sections, out)


def check_name(out: str) -> None:
    """Refuse a page that would not be called one, before any work; raises `ConfigError`."""
    if not out.endswith(".html"):
        raise ConfigError(f"--out {out}: a file that ends in .html was expected")


def write_page(title: str, sections: Sequence[Section], out: str) -> list[str]:
    """Write a page of sections, and its numbers beside it; returns the files written."""
    folder, _, name = absolute(out).rpartition("/")
    store, stem = RunStore(folder), name.removesuffix(".html")
    table = numbers(sections)
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    files = {
        f"{stem}.numbers.csv": table.to_csv(index=False).encode(),
        f"{stem}.numbers.parquet": parquet.getvalue(),
        name: render(title, sections).encode(),
    }
    for key, data in files.items():
        store.write(key, data)
    return [f"{folder}/{key}" for key in files]


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML; every text is escaped, figures come from `figures`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.tests["table"] = lambda block: isinstance(block, Table)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template("report.html").render(
        title=title, sections=sections, made=made, version=__version__
    )


def _cell(cell: Cell, digits: int) -> dict[str, Any]:
    """What the template needs of a cell: text, style, the number to sort by, and a note on what it rests on."""
    if isinstance(cell, Estimate):
        style = "number few" if cell.is_uncertain else "number"
        return {"text": _estimate(cell, digits), "sort": cell.value, "style": style, "note": f"{cell.n} patients"}
    if isinstance(cell, str):
        return {"text": cell, "sort": None, "style": "name" if len(cell) <= _SHORT else "text", "note": ""}
    if cell is None or math.isnan(cell):
        return {"text": "–", "sort": None, "style": "number", "note": ""}
    text = f"{cell:,}" if isinstance(cell, int) else f"{cell:,.{digits}f}"
    return {"text": text, "sort": cell, "style": "number", "note": ""}


def _estimate(estimate: Estimate, digits: int) -> str:
    if estimate.value is None:
        return "–"
    text = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return f"{text} (n = {estimate.n})"
    return f"{text} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
