"""Inspection of labelled cases: what must hold before their label maps are trusted, as a run of its own."""

from goat_ray.cases import Discovery, FailedCase, discover
from goat_ray.config import METHOD_VERSION
from goat_ray.discovery import DATASET_JSON, read_dataset_json
from goat_ray.errors import CaseError, Category, ConfigError, EnsembleError, Failure
from goat_ray.labels import MODALITIES, Label, label_scheme
from goat_ray.pipeline.checks import Inspect
from goat_ray.pipeline.engine import surroundings_of
from goat_ray.pipeline.job import Job
from goat_ray.pipeline.provenance import about_run
from goat_ray.pseudolabel.config import PseudoLabelConfig
from goat_ray.pseudolabel.stored import LABELLED_FOLDER
from goat_ray.runs import open_run
from goat_ray.storage import RunStore, absolute, exists, join


def find_labelled(config: PseudoLabelConfig) -> Discovery:
    """The labelled cases; those without a reference are failures.

    Raises:
        ConfigError: the source is not there, holds no case, or says that its labels are others than ours.
    """
    _check_scheme(config.labelled)
    found = discover(config.labelled, suffixes=config.suffixes, channels=config.channels, sites=config.sites)
    error = CaseError(Category.MISSING_REFERENCE, "it has no reference.", "Add its reference, or leave the case out.")
    failure = Failure.of(error, "discover")
    bare = tuple(
        FailedCase(case.case_id, failure, case.site, case.cohort) for case in found.cases if case.reference is None
    )
    failures = sorted((*found.failures, *bare), key=lambda failed: failed.case_id)
    cases = tuple(case for case in found.cases if case.reference)
    if not cases:
        raise ConfigError(f"{config.labelled} holds no case with a reference")
    return Discovery(cases, tuple(failures), (), found.stats)


def bare_ids(labelled: Discovery) -> frozenset[str]:
    """Cases that lack nothing but a reference: unlabelled ones, if the cohort has them too."""
    return frozenset(
        failed.case_id for failed in labelled.failures if failed.failure.category == Category.MISSING_REFERENCE
    )


def prepare(config: PseudoLabelConfig, labelled: Discovery, *, overwrite: bool = False) -> Job:
    """The job of inspecting every labelled case; writes its `run.json`.

    Raises:
        ConfigError: its run folder is another's.
        StorageError: it is out of reach.
    """
    store = RunStore(absolute(join(config.out, LABELLED_FOLDER)))
    about = about_run("inspect", config.model_dump(mode="json"), labelled)
    run_id = open_run(store, {"method_version": METHOD_VERSION, "kind": "inspect"}, about, overwrite)
    watched = (*MODALITIES, "reference")
    everything = config.model_copy(update={"limit": None})
    return Job(labelled, store, run_id, watched, everything, what="labelled cases")


def stage_of(job: Job) -> Inspect:
    """The stage that inspects a case."""
    return Inspect(surroundings_of(job))


def _check_scheme(source: str) -> None:
    """Refuse an nnU-Net dataset whose integers mean something else than ours."""
    if source.endswith((".csv", ".parquet")) or not exists(join(absolute(source), DATASET_JSON)):
        return
    document = read_dataset_json(absolute(source))
    try:
        channels = label_scheme(document).channels
    except EnsembleError as error:
        raise ConfigError(f"{source}/{DATASET_JSON}: {error}") from None
    ours = tuple(label.name if label else "background" for label in Label)
    if channels != ours:
        raise ConfigError(
            f"{source}/{DATASET_JSON}: its labels are {', '.join(channels)}; "
            f"expected {', '.join(ours)} as 0 to 3; convert its label maps first"
        )
