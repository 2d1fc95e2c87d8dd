"""What happens to one case: read, predict, finish, commit. Plain callables on rows; Ray only schedules them."""

import json
import logging
import os
import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from goat_ray.cases import Case, FailedCase
from goat_ray.commits import (
    Commit,
    Output,
    Timings,
    label_key,
    probabilities_key,
    thumbnail_key,
    write_commit,
    write_failure,
    write_timings,
)
from goat_ray.config import Blending, Decode, PostprocessConfig, Precision
from goat_ray.errors import CaseError, Category, EnsembleError, StorageError
from goat_ray.filesystems import use_s3
from goat_ray.imaging.geometry import network_spacing_mm
from goat_ray.imaging.nifti import Grid, encode_labels
from goat_ray.imaging.reading import load_case
from goat_ray.imaging.thumbnails import grey_volume
from goat_ray.labels import MODALITIES, LabelMap
from goat_ray.members.plans import Preprocessing
from goat_ray.members.preprocess import Preprocessed, preprocess
from goat_ray.metrics.scoring import Evaluation, evaluate_labels, label_histogram
from goat_ray.metrics.shapes import predicted_shapes
from goat_ray.metrics.specs import Policy
from goat_ray.pipeline.facts import grid_columns, predicted_rows, region_rows
from goat_ray.pipeline.files import Place, box_of, probabilities_file, thumbnail_file
from goat_ray.pipeline.logs import of_case
from goat_ray.pipeline.rows import Row, decode_failure, run_stage
from goat_ray.pipeline.sums import NO_SUM, decode_sum, encode_sum
from goat_ray.pipeline.telemetry import work_of
from goat_ray.pipeline.watchdog import Surroundings
from goat_ray.postprocess import postprocess
from goat_ray.storage import RunStore

_LOGGER = logging.getLogger(__name__)

_NO_IMAGE = np.zeros((0, 0, 0, 0), np.float32)
_NO_LABELS = np.zeros((0, 0, 0), np.uint8)
_NO_PROBABILITIES = np.zeros((0, 0, 0, 0), np.uint8)
_FILES = {"label_file": label_key, "probabilities_file": probabilities_key, "thumbnail_file": thumbnail_key}
NOTHING_TO_COMMIT = {**dict.fromkeys(_FILES, b""), "tables": ""}
"""Payload columns of a row on its way to the commit that holds nothing."""


@dataclass(frozen=True, slots=True)
class Read:
    """Reference row to preprocessed volumes, one column for each preprocessing, and to a grey one for `Finish`."""

    preprocessings: tuple[Preprocessing, ...]
    thumbnails: bool
    surroundings: Surroundings

    def __call__(self, row: Row) -> Row:
        """Run the stage on one row."""
        images = {_image_column(index): _NO_IMAGE for index in range(len(self.preprocessings))}
        return run_stage("read", self._work, {**images, "grey": _NO_LABELS}, row, self.surroundings)

    def _work(self, case: Case, _row: Row, context: dict[str, Any]) -> Row:
        loaded = load_case(case)
        spacing_mm = network_spacing_mm(loaded.grid)
        context |= {
            "box": [loaded.box.start, loaded.box.stop],
            "full_shape": loaded.full_shape,
            "grid": loaded.grid.to_dict(),
            "inputs": {modality: file.to_dict() for modality, file in loaded.inputs.items()},
            "crop_spacing_mm": spacing_mm,
            "scan_sha256": loaded.scan_sha256,
        }
        t1c = loaded.crop[MODALITIES.index("t1c")]
        grey = grey_volume(t1c, spacing_mm) if self.thumbnails else _NO_LABELS
        images = {
            _image_column(index): preprocess(loaded.crop, loaded.mask, spacing_mm, preprocessing).image
            for index, preprocessing in enumerate(self.preprocessings)
        }
        return {**images, "grey": grey}


@dataclass(frozen=True, slots=True)
class Shard:
    """Which members a predict worker holds, and whether cases come to it first or last; a whole ensemble is both."""

    held: tuple[str, ...] | None = None
    first: bool = True
    last: bool = True


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """What a predict worker is started with."""

    ensemble: str
    members: tuple[str, ...] | None
    ensemble_sha256: str
    preprocessings: tuple[Preprocessing, ...]
    blending: Blending
    decode: Decode
    mirroring: bool
    precision: Precision
    compiled: bool
    windows_per_batch: int
    save_probabilities: bool
    device: str
    threads: int
    surroundings: Surroundings
    shard: Shard = Shard()


class Predict:
    """Preprocessed volumes to a label crop, or to the running sum that the next shard goes on with.

    Holds its members, so one lives as long as its worker.
    """

    def __init__(self, settings: PredictSettings) -> None:
        # Idle OpenMP threads must sleep: spinning ones starve the other processes of the node.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from goat_ray.members.ensemble import load_ensemble
        from goat_ray.members.predictor import Predictor, PredictorSettings

        use_s3(settings.surroundings.s3)
        ensemble = load_ensemble(settings.ensemble, settings.members)
        if ensemble.sha256 != settings.ensemble_sha256:
            raise EnsembleError(f"{settings.ensemble} is not the ensemble this run was started with")
        self._settings = settings
        self._predictor = Predictor(
            ensemble,
            PredictorSettings(
                blending=settings.blending,
                decode=settings.decode,
                mirroring=settings.mirroring,
                precision=settings.precision,
                compiled=settings.compiled,
                windows_per_batch=settings.windows_per_batch,
                device=settings.device,
                threads=settings.threads,
                keep_probabilities=settings.save_probabilities,
            ),
            settings.shard.held,
        )

    def __call__(self, row: Row) -> Row:
        """Run the stage on one row."""
        if self._settings.shard.last:
            empty: Row = {"labels": _NO_LABELS, "probabilities": _NO_PROBABILITIES}
            passed = ["grey"]
        else:
            empty = NO_SUM
            passed = ["grey", *map(_image_column, range(len(self._settings.preprocessings)))]
        done = run_stage("predict", self._work, empty, row, self._settings.surroundings)
        return {**done, **{column: row[column] for column in passed}}

    def _work(self, _case: Case, row: Row, context: dict[str, Any]) -> Row:
        box = box_of(context)
        volumes = {
            preprocessing: Preprocessed(row[_image_column(index)], box.shape, tuple(context["crop_spacing_mm"]))
            for index, preprocessing in enumerate(self._settings.preprocessings)
        }
        shard = self._settings.shard
        before = None if shard.first else decode_sum(row)
        if not shard.last:
            return encode_sum(self._predictor.add(volumes, before))
        prediction = self._predictor.predict(volumes, before)
        context["confidence"] = prediction.confidence
        context["agreement"] = prediction.agreement
        context["members"] = list(prediction.member_seconds)
        context["environment"] = {"device": self._settings.device, "python": platform.python_version()}
        context["device_peak_bytes"] = self._predictor.device_peak_bytes
        for code, seconds in prediction.member_seconds.items():
            context["timings_s"][f"member {code}"] = round(seconds, 4)
        return {"labels": prediction.labels, "probabilities": prediction.quantised_regions()}


@dataclass(frozen=True, slots=True)
class Finish:
    """Label crop to the files of the case, scores where there is a reference, and everything the commit records."""

    decode: Decode
    postprocess: PostprocessConfig
    policy: Policy | None
    surroundings: Surroundings

    def __call__(self, row: Row) -> Row:
        """Run the stage on one row."""
        return run_stage("finish", self._work, NOTHING_TO_COMMIT, row, self.surroundings)

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        place = Place.of(context)
        grid, crop = place.grid, row["labels"]
        result = postprocess(crop, self.postprocess, grid.voxel_volume_mm3)
        labels = place.uncropped(result.labels)
        file = encode_labels(labels, grid)
        shapes = predicted_shapes(labels, grid)
        evaluation = self._evaluate(case, labels, grid, context)
        case_row = {
            **grid_columns(grid),
            "members": context["members"],
            "decode": self.decode,
            "postprocess": result.method,
            "threshold_unit": self.postprocess.unit,
            **asdict(result.thresholds),
            "n_removed_components": len(result.removed),
            "mean_entropy": context["confidence"]["entropy"],
            "mean_margin": context["confidence"]["margin"],
            "pred_label_voxels": label_histogram(labels),
            "label_key": label_key(case.case_id),
            "label_sha256": Output.of(file).sha256,
            "scan_sha256": context["scan_sha256"],
            **evaluation.case,
        }
        tables = {
            "cases": [case_row],
            "regions": region_rows(crop, shapes, grid, context["confidence"], context["agreement"], evaluation.regions),
            "lesions": [*predicted_rows(shapes), *evaluation.lesions],
            "components": [asdict(component) for component in result.removed],
        }
        started = time.perf_counter()
        thumbnail = thumbnail_file(row["grey"], result.labels, evaluation.reference_labels, place)
        context["timings_s"]["thumbnail"] = round(time.perf_counter() - started, 4)
        probabilities = probabilities_file(row["probabilities"], place)
        files = {"label_file": file, "probabilities_file": probabilities, "thumbnail_file": thumbnail}
        return {**files, "tables": json.dumps(tables)}

    def _evaluate(self, case: Case, labels: LabelMap, grid: Grid, context: dict[str, Any]) -> Evaluation:
        """Scores against the case's reference. A reference that cannot be used is told, and the label is kept."""
        if self.policy is None or case.reference is None:
            return Evaluation({}, [], [])
        started = time.perf_counter()
        context["inputs"]["reference"] = {"name": case.file_names["reference"]}
        try:
            evaluation = evaluate_labels(case, labels, grid, self.policy)
        except CaseError as error:
            return Evaluation.impossible(error)
        context["inputs"] |= evaluation.inputs
        context["timings_s"]["evaluate"] = round(time.perf_counter() - started, 4)
        return evaluation


@dataclass(frozen=True, slots=True)
class CommitCase:
    """The last stage: durable outputs, then the commit or error object; what leaves is a status row."""

    surroundings: Surroundings
    run_id: str

    def __call__(self, row: Row) -> Row:
        """Run the stage on one row."""
        done = run_stage("commit", self._work, {}, row, self.surroundings)
        written_bytes = 0 if done["error"] or done["fatal"] else sum(len(row[column]) for column in _FILES)
        if done["error"] and not done["fatal"]:
            failed = {**done, "failure": done["error"], "error": ""}
            done = run_stage("commit", self._record_failure, {}, failed, self.surroundings)
        context = json.loads(done["context"])
        if not (done["error"] or done["fatal"]):
            self._record_time(row["case_id"], context)
        told = {column: done[column] for column in ("case_id", "error", "fatal")}
        return {**told, "work": work_of(context, written_bytes)}

    @property
    def _store(self) -> RunStore:
        return RunStore(self.surroundings.root)

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        outputs = {key(case.case_id): bytes(row[column]) for column, key in _FILES.items() if row[column]}
        commit = Commit(
            run_id=self.run_id,
            case_id=case.case_id,
            site=case.site,
            cohort=case.cohort,
            outputs={key: Output.of(content) for key, content in outputs.items()},
            inputs=context["inputs"],
            tables=json.loads(row["tables"]),
            environment=context.get("environment", {}),
        )
        try:
            write_commit(self._store, commit, outputs)
        except StorageError as error:
            hint = "check the permissions and the free space of --out, then run the same command again"
            raise CaseError(Category.WRITE_FAILED, str(error), hint) from error
        return {}

    def _record_time(self, case_id: str, context: dict[str, Any]) -> None:
        """Only after the commit, so that the commit's own time is known; by then a store's refusal harms no case."""
        timings = Timings(context["timings_s"], context["cpu_s"], context.get("device_peak_bytes"))
        try:
            write_timings(self._store, case_id, timings)
        except StorageError as error:
            with of_case(case_id, "commit"):
                _LOGGER.warning("what it took is not recorded: %s", error)

    def _record_failure(self, case: Case, row: Row, _context: dict[str, Any]) -> Row:
        failure = decode_failure(row["failure"])
        write_failure(self._store, FailedCase(case.case_id, failure, case.site, case.cohort))
        return {"error": row["failure"]}


def _image_column(index: int) -> str:
    return f"image_{index}"
