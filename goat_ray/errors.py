"""The error family: what can go wrong, in words a user can act on."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Category(StrEnum):
    """The closed list of reasons a case can fail for; the `category` column of the failure table."""

    MISSING_MODALITY = "missing_modality"
    UNREADABLE_FILE = "unreadable_file"
    GEOMETRY_MISMATCH = "geometry_mismatch"
    UNSUPPORTED_GEOMETRY = "unsupported_geometry"
    INVALID_VALUES = "invalid_values"
    EMPTY_IMAGE = "empty_image"
    INVALID_LABELS = "invalid_labels"
    INVALID_ID = "invalid_id"
    DUPLICATE_CASE = "duplicate_case"
    TOO_LARGE = "too_large"
    MISSING_REFERENCE = "missing_reference"
    MISSING_PREDICTION = "missing_prediction"
    UNKNOWN_COHORT = "unknown_cohort"
    MODEL_FAILED = "model_failed"
    NON_FINITE_OUTPUT = "non_finite_output"
    OUT_OF_MEMORY = "out_of_memory"
    WRITE_FAILED = "write_failed"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"


class GoatRayError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(GoatRayError):
    """The command line or the configuration asks for something that cannot be done."""


class StorageError(GoatRayError):
    """A file, folder or object store could not be read or written."""


class MissingFile(StorageError):  # noqa: N818 - names what is found, as FileNotFound would
    """The file, folder or object is not there."""


class EnsembleError(GoatRayError):
    """An ensemble, a member or its weights cannot be used as they are."""


class DeviceLostError(GoatRayError):
    """The accelerator failed in a way that only a new process recovers from."""


class CaseError(GoatRayError):
    """A fault of one case: it becomes a failure row and never stops the cohort.

    Args:
        category: reason, from the closed list.
        message: what was found, where, and what was expected.
        hint: what the user can do about it.
    """

    def __init__(self, category: Category, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.category = category
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["CaseError"], tuple[Category, str, str]]:
        return type(self), (self.category, self.message, self.hint)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed case, as it is stored under `errors/` and in the failure table."""

    category: Category
    message: str
    hint: str
    stage: str
    attempts: int = 1

    @classmethod
    def of(cls, error: CaseError, stage: str, attempts: int = 1) -> "Failure":
        """The failure that `error` amounts to when it ends a case in `stage`."""
        return cls(error.category, error.message, error.hint, stage, attempts)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Failure":
        """Inverse of `to_dict`."""
        return cls(**{**values, "category": Category(values["category"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
