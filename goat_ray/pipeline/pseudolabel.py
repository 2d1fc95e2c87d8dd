"""The job that makes a training set: labelled cases inspected, others predicted and gated, both written for nnU-Net."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from goat_ray.cases import Case
from goat_ray.commits import label_key
from goat_ray.errors import ConfigError, GoatRayError, StorageError
from goat_ray.filesystems import use_s3
from goat_ray.labels import MODALITIES
from goat_ray.ledger import Done
from goat_ray.patients import patients_of
from goat_ray.pipeline import inspection, predict
from goat_ray.pipeline.engine import check_engine
from goat_ray.pipeline.job import NOTHING_AGAIN, Again, Engine, Job, RunSummary, carry_out
from goat_ray.pipeline.progress import Reporter, Silent
from goat_ray.pseudolabel.config import PseudoLabelConfig
from goat_ray.pseudolabel.dataset import Dataset, Entry, check_in_place, write_dataset
from goat_ray.pseudolabel.files import Source
from goat_ray.pseudolabel.gates import limits_of
from goat_ray.pseudolabel.provenance import HUMAN, PSEUDO, Teachers, encode_provenance, provenance_rows, unseen_rows
from goat_ray.pseudolabel.selection import Reason
from goat_ray.pseudolabel.splits import Member, check_patients, held_together, make_folds
from goat_ray.pseudolabel.stored import read_stored
from goat_ray.runs import update_run
from goat_ray.storage import RunStore, join
from goat_ray.tables import table_key

KIND = "pseudo-label"
_DICE_GATES = ("dice_wt", "dice_tc", "dice_et")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PseudoLabelling:
    """A making of pseudo-labels that passed every check and is ready to start."""

    config: PseudoLabelConfig
    inspection: Job
    prediction: predict.Prediction


@dataclass(frozen=True, slots=True)
class PseudoLabelSummary:
    """What became of it.

    Attributes:
        inspection: of the labelled cases.
        prediction: of the unlabelled ones; None where the inspection was stopped.
        dataset: the dataset's folder; empty where a run was stopped before it.
        kept: cases of the dataset, by source.
        refused: unlabelled cases that are not in it, by reason.
        changed: files of the dataset that this call wrote or deleted.
    """

    inspection: RunSummary
    prediction: RunSummary | None = None
    dataset: str = ""
    kept: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    changed: int = 0

    @property
    def runs(self) -> tuple[RunSummary, ...]:
        """The runs that were done."""
        return (self.inspection, self.prediction) if self.prediction else (self.inspection,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of both runs."""
        return tuple(warning for run in self.runs for warning in run.warnings)

    @property
    def facts(self) -> dict[str, Any]:
        """Both runs counted together, and what became of the dataset, in plain values."""
        last = self.runs[-1]
        counts = {name: sum(run.counts[name] for run in self.runs) for name in last.counts}
        made = {"dataset": self.dataset or None, "kept": dict(self.kept), "refused": dict(self.refused)}
        return {"run_id": last.run_id, "out": last.out, **counts, **made}

    @property
    def failed(self) -> int:
        """Failed cases of both runs."""
        return sum(run.failed for run in self.runs)

    @property
    def stopped(self) -> str:
        """Why it ended before its end, if it did."""
        return self.runs[-1].stopped


def pseudo_label_cohort(
    config: PseudoLabelConfig,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
    again: Again = NOTHING_AGAIN,
) -> PseudoLabelSummary:
    """Predict unlabelled cases and write those that pass the gates, with the labelled ones, as an nnU-Net dataset.

    Args:
        config: what to do; see `PseudoLabelConfig`.
        reporter: told of every case as it ends.
        overwrite: discard the runs that are in the folder.
        again: what of an earlier call's work is looked at again.

    Raises:
        ConfigError: nothing can be made as configured; raised before any work.
        EnsembleError: a teacher cannot be used; raised before any work.
        GoatRayError: a run itself broke. What was committed stays; the same call goes on from there.
    """
    work = prepare(config, overwrite=overwrite)
    engines = (
        check_engine(work.inspection, inspection.stage_of(work.inspection)),
        predict.engine_of(work.prediction),
    )
    return carry_out_both(work, engines, reporter or Silent(), again)


def prepare(config: PseudoLabelConfig, *, overwrite: bool = False) -> PseudoLabelling:
    """Every check that needs no image data; writes both `run.json`.

    Raises:
        ConfigError: see `pseudo_label_cohort`.
        EnsembleError: see `pseudo_label_cohort`.
    """
    use_s3(config.s3)
    try:
        labelled = inspection.find_labelled(config)
        bare = inspection.bare_ids(labelled)
        prediction = predict.prepare(config, overwrite=overwrite, kind=KIND, labelled=labelled.without(bare))
        cohort = prediction.job.discovery
        job = inspection.prepare(config, labelled.without(bare & cohort.case_ids), overwrite=overwrite)
    except StorageError as error:
        raise ConfigError(str(error)) from error
    check_patients(patients_of([case.case_id for case in job.discovery.cases], config.patient_pattern), config.folds)
    _check_gates(config, prediction)
    if config.form == "in-place":
        check_in_place(uri for case in job.discovery.cases for uri in case.files.values())
        for case in cohort.cases:
            check_in_place((*case.images.values(), join(prediction.job.store.root, label_key(case.case_id))))
    return PseudoLabelling(config, job, prediction)


def carry_out_both(
    work: PseudoLabelling, engines: tuple[Engine, Engine], reporter: Reporter, again: Again
) -> PseudoLabelSummary:
    """Inspect, predict, select and write; a run that is stopped is the last."""
    inspected = carry_out(work.inspection, engines[0], reporter, again)
    if inspected.stopped:
        return PseudoLabelSummary(inspected)
    predicted = carry_out(work.prediction.job, engines[1], reporter, again)
    if predicted.stopped:
        return PseudoLabelSummary(inspected, predicted)
    return _export(work, inspected, predicted)


def _check_gates(config: PseudoLabelConfig, prediction: predict.Prediction) -> None:
    gated = [limit.sign for limit in limits_of(config.gates) if limit.sign in _DICE_GATES]
    if gated and len(prediction.ensemble.members) < 2:
        raise ConfigError(f"gates: {gated[0]} compares members with each other, and only one predicts")


def _export(work: PseudoLabelling, inspected: RunSummary, predicted: RunSummary) -> PseudoLabelSummary:
    config, store = work.config, work.prediction.job.store
    stored = read_stored(store)
    decisions = stored.decide(config.gates)
    teachers = Teachers(predicted.run_id, {m.code: m.sha256 for m in work.prediction.ensemble.members})
    rows = [*provenance_rows(stored, decisions, teachers), *_unseen(work, {*stored.predicted["case_id"]})]
    folds = _place(rows, config)
    provenance = encode_provenance(rows)
    store.write(table_key("provenance"), provenance)
    kept = Counter(row["source"] for row in rows if row["accepted"])
    refused = Counter(row["reason"] for row in rows if row["source"] == PSEUDO and not row["accepted"])
    about = {
        "run_id": predicted.run_id,
        "teachers": dict(teachers.members),
        "gates": config.gates.model_dump(exclude_none=True),
        "postprocess": config.postprocess.model_dump(),
        "cases": dict(sorted(kept.items())),
    }
    done = {HUMAN: inspected.ledger.commits, PSEUDO: predicted.ledger.commits}
    dataset = Dataset(config.dataset, _entries(work, rows, done), folds, provenance, about)
    target = RunStore(join(store.root, config.dataset))
    changed = write_dataset(target, dataset, config.form)
    update_run(store, {"pseudo_labels": {**about, "refused": dict(sorted(refused.items())), "form": config.form}})
    return PseudoLabelSummary(inspected, predicted, target.root, kept, refused, changed)


def _unseen(work: PseudoLabelling, seen: Collection[str]) -> Iterator[Row]:
    """Rows of the cohort's cases that were not predicted; a case that is its own labelled one has a row already."""
    own = {case.images["t1c"] for case in work.inspection.discovery.cases}
    left_out = [case for case in work.prediction.left_out if case.images["t1c"] not in own]
    yield from unseen_rows(left_out, Reason.LABELLED_ID, "a labelled case has this id")
    beyond = [case for case in work.prediction.job.discovery.cases if case.case_id not in seen]
    yield from unseen_rows(beyond, Reason.SKIPPED, "beyond --limit")


def _place(rows: list[Row], config: PseudoLabelConfig) -> list[dict[str, list[str]]]:
    """Give every row its patient and its fold; returns the folds."""
    for row, patient in zip(rows, patients_of([row["case_id"] for row in rows], config.patient_pattern), strict=True):
        row["patient"] = patient
    kept = [row for row in rows if row["accepted"]]
    groups = held_together([row["patient"] for row in kept], [row["scan_sha256"] for row in kept])
    members = {
        source: [
            Member(row["case_id"], group, f"{row['site']}\0{row['cohort']}")
            for row, group in zip(kept, groups, strict=True)
            if row["source"] == source
        ]
        for source in (HUMAN, PSEUDO)
    }
    try:
        folds = make_folds(members[HUMAN], members[PSEUDO], config.folds)
    except ConfigError as error:
        raise GoatRayError(f"of the labelled cases that could be used, {error}") from error
    place = {case_id: number for number, fold in enumerate(folds) for case_id in fold["val"]}
    for row in kept:
        row["val_fold"] = place.get(row["case_id"])
    return folds


def _entries(work: PseudoLabelling, rows: list[Row], done: Mapping[str, Mapping[str, Done]]) -> list[Entry]:
    """The accepted cases, with the hashes that their files were checked by; `done` by source and case."""
    cases = {
        source: {case.case_id: case for case in job.discovery.cases}
        for source, job in ((HUMAN, work.inspection), (PSEUDO, work.prediction.job))
    }
    accepted = sorted((row for row in rows if row["accepted"]), key=lambda row: row["case_id"])
    return [_entry(work, cases[row["source"]][row["case_id"]], done[row["source"]][row["case_id"]]) for row in accepted]


def _entry(work: PseudoLabelling, case: Case, done: Done) -> Entry:
    """A case as the dataset has it; the label is the run's own, or the expert's where it has made none."""
    images = tuple(Source(case.images[modality], done.inputs[modality]["sha256"]) for modality in MODALITIES)
    key = label_key(case.case_id)
    if output := done.outputs.get(key):
        return Entry(case.case_id, images, Source(join(work.prediction.job.store.root, key), output.sha256))
    return Entry(case.case_id, images, Source(case.reference or "", done.inputs["reference"]["sha256"]))
