"""The configuration of pseudo-labels: a prediction's, the labelled cases, the dataset and its gates."""

import re
from typing import Literal

from pydantic import Field, field_validator

from goat_ray.config import PostprocessConfig, RunConfig, Settings
from goat_ray.patients import PATIENT_PATTERN


class GatesConfig(Settings):
    """Which predictions become pseudo-labels; all of them unless a gate is set. Signs are those of `quality.signs`."""

    preset: Literal["none", "strict"] = Field("none", description="strict: the gates a 2026 BraTS-GoAT entry published")
    dice_wt_min: float | None = Field(None, ge=0, le=1, description="least mean Dice of pairs of members on WT")
    dice_tc_min: float | None = Field(None, ge=0, le=1, description="the same on TC")
    dice_et_min: float | None = Field(None, ge=0, le=1, description="the same on ET")
    confidence_min: float | None = Field(None, ge=0, le=1, description="least mean probability in the predicted WT")
    entropy_max: float | None = Field(None, ge=0, description="largest mean entropy in the predicted WT, nats")
    margin_min: float | None = Field(None, ge=0, le=1, description="least mean lead of the likeliest label there")
    wt_volume_ml_min: float | None = Field(None, ge=0, description="smallest predicted WT")
    wt_volume_ml_max: float | None = Field(None, gt=0, description="largest predicted WT")
    wt_components_max: int | None = Field(None, ge=1, description="most separate pieces of the predicted WT")
    site_cap: int | None = Field(None, ge=1, description="most pseudo-labels of a site; the surest stay")


class PseudoLabelConfig(RunConfig):
    """Everything `goat-ray pseudo-label` needs to know; flags override the YAML file."""

    labelled: str = Field(description="cases with expert label maps: the forms of `cohort`")
    dataset: str = Field(
        "Dataset603_BraTS", pattern=r"^Dataset\d{3}_[A-Za-z0-9_-]+$", description="name of the nnU-Net dataset"
    )
    form: Literal["copy", "in-place"] = Field(
        "copy", description="copy files into nnU-Net's layout, or name them where they are in dataset.json"
    )
    gates: GatesConfig = GatesConfig()
    folds: int = Field(5, ge=2, description="folds of the labelled cases")
    patient_pattern: str = Field(
        PATIENT_PATTERN, description="regular expression of case ids whose first group is the patient"
    )
    postprocess: PostprocessConfig = PostprocessConfig(method="minimum")

    @field_validator("patient_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        if re.compile(pattern).groups < 1:
            raise ValueError("a group in parentheses was expected, which is the patient")
        return pattern
