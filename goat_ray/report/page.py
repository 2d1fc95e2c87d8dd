"""From a cohort to one self-contained HTML file and its machine-readable twin."""

import io
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from goat_ray.errors import ConfigError
from goat_ray.report.blocks import Section, numbers
from goat_ray.report.data import Cohort, load_cohort
from goat_ray.report.flags import find_flags
from goat_ray.report.reasons import all_failures
from goat_ray.report.rendering import render
from goat_ray.report.sections import between, checks, failures, lesions, method, performance, pseudolabels, reproduction
from goat_ray.report.sections import cohort as cohort_sections
from goat_ray.storage import RunStore, absolute

SECTIONS: Sequence[Callable[[Cohort], Section | None]] = (
    cohort_sections.provenance,
    cohort_sections.sites,
    pseudolabels.pseudo_labels,
    performance.performance,
    between.pooling,
    between.equal_size,
    lesions.detection,
    lesions.volumes,
    method.postprocessing,
    method.trust,
    checks.checks,
    failures.worst,
    failures.failures,
    method.runtimes,
    reproduction.reproduction,
    reproduction.words,
)
"""What a report consists of: what was evaluated, how well and where, whether to believe it, how to repeat it."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(runs: Sequence[str], out: str) -> list[str]:
    """Write the report of one or several runs; beside it every number of it, all failures and all flags.

    Args:
        runs: run folders; runs over different cases are put together.
        out: the HTML file, local or on S3.

    Returns:
        The files written: `.numbers.csv`, `.numbers.parquet`, `.failures.csv` (see `reasons`), `.flags.csv` (see
        `flags`) and, last, the page.

    Raises:
        ConfigError: a run without tables, a case in two runs, or a name that is no `.html`.
        StorageError: the report cannot be written.
    """
    check_name(out)
    cohort = load_cohort(runs)
    sections = [section for make in SECTIONS if (section := make(cohort))]
    title = "Report on " + ", ".join(run.place for run in cohort.runs)
    lists = {"failures": all_failures(cohort), "flags": find_flags(cohort).marks}
    return write_page(title, sections, out, lists)


def check_name(out: str) -> None:
    """Refuse a page that would not be called one, before any work; raises `ConfigError`."""
    if not out.endswith(".html"):
        raise ConfigError(f"--out {out}: a file that ends in .html was expected")


def write_page(
    title: str, sections: Sequence[Section], out: str, lists: Mapping[str, pd.DataFrame] | None = None
) -> list[str]:
    """Write a page of sections, and its numbers and any lists beside it; returns the files written, the page last."""
    folder, _, name = absolute(out).rpartition("/")
    store, stem = RunStore(folder), name.removesuffix(".html")
    table = numbers(sections)
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    files = {
        f"{stem}.numbers.csv": csv_of(table),
        f"{stem}.numbers.parquet": parquet.getvalue(),
        **{f"{stem}.{what}.csv": csv_of(rows) for what, rows in (lists or {}).items()},
        name: render(title, sections).encode(),
    }
    for key, data in files.items():
        store.write(key, data)
    return [f"{folder}/{key}" for key in files]


def csv_of(table: pd.DataFrame) -> bytes:
    """A table as CSV in which no text is a formula to a spreadsheet.

    Text that begins like one gets a `'` before it (owasp.org/www-community/attacks/CSV_Injection).
    """
    texts = table.select_dtypes(exclude="number").columns
    safe = table.assign(**{name: table[name].map(_no_formula) for name in texts})
    text: str = safe.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
