"""What a report is made of: the tables, the record and the thumbnails of one run, or of several put together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from goat_ray.commits import thumbnail_key
from goat_ray.errors import ConfigError, MissingFile, StorageError
from goat_ray.runs import read_run
from goat_ray.storage import RunStore, absolute
from goat_ray.tables import SCHEMAS, read_table

Frame: TypeAlias = pd.DataFrame
NO_SITE = "no site"
REGION_ORDER = ("WT", "TC", "ET", "NETC", "SNFH", "RC", "CC", "ED")
"""From the whole to its parts, as readers look for them."""


@dataclass(frozen=True, slots=True)
class RunData:
    """One run folder, read.

    Attributes:
        store: the folder.
        record: its `run.json`.
        tables: each table by name, with a column `run`; sites that are not known are `NO_SITE`.
    """

    store: RunStore
    record: dict[str, Any]
    tables: dict[str, Frame]

    @property
    def name(self) -> str:
        """The last part of the folder's path, by which the run is called."""
        return self.store.root.rstrip("/").rpartition("/")[2]

    @property
    def place(self) -> str:
        """The last two parts of the folder's path, where the last alone may be the same for two runs."""
        return "/".join(self.store.root.rstrip("/").split("/")[-2:])

    def thumbnail(self, case_id: str) -> bytes | None:
        """PNG of a case, if the run has drawn one."""
        try:
            return self.store.read(thumbnail_key(case_id))
        except StorageError:
            return None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The cases of one or several runs as one cohort; every case is in one of them only."""

    runs: tuple[RunData, ...]
    tables: dict[str, Frame]

    @property
    def sites(self) -> list[str]:
        """Names of the sites, sorted."""
        return sorted(self.tables["cases"]["site"].unique())

    @property
    def sites_by_size(self) -> list[str]:
        """Names of the sites, those with most expected cases first."""
        counts = self.tables["cases"]["site"].value_counts()
        return sorted(self.sites, key=lambda site: -int(counts[site]))

    @property
    def done(self) -> Frame:
        """Rows of `cases` that ended well."""
        cases = self.tables["cases"]
        return cases[cases["status"] == "ok"]

    @property
    def unscored(self) -> Frame:
        """Done cases that were to be scored and could not be; `evaluation` says why."""
        return self.done[self.done["evaluation"].notna() & (self.done["evaluation"] != "ok")]

    @property
    def scored(self) -> Frame:
        """Rows of `regions` that have a score by their spec."""
        regions = self.tables["regions"]
        return regions[regions["spec"].notna()]

    def run_of(self, name: str) -> RunData:
        """The run with this folder."""
        return next(run for run in self.runs if run.store.root == name)


def by_site(rows: Frame, sites: Iterable[str], every: str) -> Iterator[tuple[str, Frame]]:
    """Rows of each site, then all of them under the name `every`."""
    yield from ((site, rows[rows["site"] == site]) for site in sites)
    yield every, rows


def region_place(region: str) -> tuple[int, str]:
    """What regions are sorted by: `REGION_ORDER`, then the others by name."""
    return (REGION_ORDER.index(region) if region in REGION_ORDER else len(REGION_ORDER)), region


def in_order(regions: Iterable[str]) -> list[str]:
    """The distinct regions, as readers look for them."""
    return sorted(set(regions), key=region_place)


def load_run(root: str) -> RunData:
    """Read a finished run's tables.

    Raises:
        ConfigError: it is no run folder, or has no tables yet.
    """
    try:
        store = RunStore(absolute(root))
        record = read_run(store)
        tables = {name: read_table(store, name).to_pandas() for name in SCHEMAS}
    except MissingFile as error:
        raise ConfigError(f"{root} has no tables yet; let the run come to its end ({error})") from None
    except (StorageError, OSError, ValueError) as error:
        raise ConfigError(f"{root}: its tables cannot be read: {error}") from error
    for table in tables.values():
        table["site"] = table["site"].astype(object).where(table["site"].notna(), NO_SITE)
        table["run"] = store.root
    return RunData(store, record, tables)


def load_cohort(roots: Sequence[str]) -> Cohort:
    """Read several runs as one cohort.

    Raises:
        ConfigError: as `load_run`, or a case is in more than one run.
    """
    runs = tuple(load_run(root) for root in roots)
    tables = {name: pd.concat([run.tables[name] for run in runs], ignore_index=True) for name in SCHEMAS}
    cases = tables["cases"]["case_id"]
    twice = sorted(cases[cases.duplicated()])
    if twice:
        raise ConfigError(
            f"{len(twice)} case(s) are in more than one of the runs, {twice[0]} among them; "
            "a report puts runs over different cases together, `goat-ray compare` sets two runs side by side"
        )
    return Cohort(runs, tables)
