"""What a pseudo-label run has stored of its cases, and what can be decided from it without predicting again."""

from dataclasses import dataclass

import pandas as pd

from goat_ray.errors import ConfigError, MissingFile
from goat_ray.pseudolabel.config import GatesConfig
from goat_ray.pseudolabel.gates import limits_of
from goat_ray.pseudolabel.selection import eligible, select
from goat_ray.pseudolabel.sweep import sweep
from goat_ray.quality import signs
from goat_ray.storage import RunStore, absolute, join
from goat_ray.tables import read_table

LABELLED_FOLDER = "labelled"
"""Where the run folder that the labelled cases were inspected in lies in that of the pseudo-labels."""
SWEEP_KEY = "tables/sweep.csv"


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Tables of a run and what follows from them.

    Attributes:
        labelled: table `cases` of the inspection.
        predicted: table `cases` of the prediction.
        signs: of the predicted cases.
    """

    labelled: pd.DataFrame
    predicted: pd.DataFrame
    signs: pd.DataFrame

    def decide(self, gates: GatesConfig) -> pd.DataFrame:
        """The decision on every predicted case, see `selection.select`."""
        ok = self.labelled[self.labelled["status"] == "ok"]
        return select(self.predicted, self.signs, gates, dict(zip(ok["scan_sha256"], ok["case_id"], strict=True)))


def read_stored(store: RunStore) -> Stored:
    """What the tables of a run hold; raises `MissingFile` where it has none yet."""
    inspected = RunStore(join(store.root, LABELLED_FOLDER))
    cases, regions = (read_table(store, name).to_pandas() for name in ("cases", "regions"))
    return Stored(read_table(inspected, "cases").to_pandas(), cases, signs(cases, regions))


def sweep_run(root: str, gates: GatesConfig) -> pd.DataFrame:
    """How many cases each gate would keep, see `sweep.sweep`; all of it is written to the run as CSV.

    Raises:
        ConfigError: the run has no tables yet.
    """
    store = RunStore(absolute(root))
    try:
        stored = read_stored(store)
    except MissingFile as error:
        raise ConfigError(f"{root} has no tables yet; run without --dry-run first ({error})") from None
    decisions = stored.decide(gates)
    judged = eligible(decisions)
    sites = stored.predicted.set_index("case_id")["site"].reindex(judged).fillna("no site")
    table = sweep(stored.signs.loc[judged], sites, decisions.loc[judged, "accepted"], limits_of(gates))
    store.write(SWEEP_KEY, table.to_csv(index=False).encode())
    return table
