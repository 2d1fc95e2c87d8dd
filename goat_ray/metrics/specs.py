"""Evaluation policies as data: what each named spec counts as a lesion, a hit and a penalty.

The parameters are those of the organisers' own programs: BraTS-2023-Metrics @ 43c9052, BraTS-2024-Metrics @ 9e8879a
(what BraTS-GoAT 2025 dispatched to, by tumour cohort) and BraTS_evaluation 0.0.10.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from goat_ray.config import Settings, read_yaml, validated
from goat_ray.errors import CaseError, Category, ConfigError

Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Penalty = Distance | Literal["diagonal"]

BY_COHORT = "goat2025"
"""The spec that scores every case with `goat2025-<cohort>`, as the organisers did."""


class RegionPolicy(Settings):
    """How one region is scored."""

    labels: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        min_length=1, description="label integers the region is made of"
    )
    dilation_vox: int = Field(3, ge=0, le=16, description="pieces closer than this much dilation are one lesion")
    min_volume_mm3: Distance = Field(50, description="reference lesions of this volume and less are not scored")
    min_pred_vox: int | None = Field(
        None, ge=0, description="merge predicted pieces too, and drop lesions of this size and less; neither if unset"
    )
    join: tuple[str, ...] = Field((), description="lesions that touch one lesion of these regions are one lesion")
    official: bool = Field(True, description="whether the organisers score this region")


class Spec(Settings):
    """One evaluation policy; a YAML file with these keys is one too, and `base` names the one it starts from."""

    name: str
    matching: Literal["lesionwise", "one-to-one"] = Field(
        "lesionwise",
        description="tolerant many-to-many matching with penalties, or one-to-one and means over matched pairs",
    )
    hd95_penalty: Penalty = Field(
        374.0, description="HD95 of a missed or false lesion; diagonal: of the image, in voxels"
    )
    missing_penalty: Distance = Field(374.0, description="HD95 of a case without prediction")
    max_label: int = Field(4, ge=1, le=255, description="a case with a larger label in either map is refused")
    legacy_on_ids: bool = Field(
        False, description="the official whole-volume HD95, sensitivity and specificity were computed on lesion ids"
    )
    official_nsd: bool = Field(False, description="whether the organisers report NSD at 0.5 and 1.0 mm")
    warning: str | None = Field(None, description="what a reader of the numbers must know")
    regions: dict[str, RegionPolicy] = Field(min_length=1, description="what is scored, by name")

    @model_validator(mode="after")
    def _check_regions(self) -> Self:
        for name, region in self.regions.items():
            if strange := [other for other in region.join if other not in self.regions]:
                raise ValueError(f"region {name} joins {', '.join(strange)}, which the spec does not have")
            if max(region.labels) > self.max_label:
                raise ValueError(f"region {name} has label {max(region.labels)}, above max_label {self.max_label}")
        return self

    @property
    def official_regions(self) -> tuple[str, ...]:
        """The regions that the organisers score, in their order."""
        return tuple(name for name, policy in self.regions.items() if policy.official)

    @property
    def sha256(self) -> str:
        """Hash of every parameter."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def penalty_mm(self, shape: tuple[int, ...]) -> float:
        """HD95 of a missed or false lesion in an image of `shape`."""
        return float(sum(side**2 for side in shape)) ** 0.5 if self.hd95_penalty == "diagonal" else self.hd95_penalty


_GOAT = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)}
_PED = {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NETC": (2,), "CC": (3,), "ED": (4,)}
_PED_WARNING = (
    "goat2025-ped reads labels as the organisers' program does: 1 ET, 2 NETC, 3 CC, 4 ED. In maps with BraTS-GoAT's "
    "labels (1 NETC, 2 SNFH, 3 ET) its ET is NETC, its TC is WT and its NETC is SNFH"
)
_EXTRA = ("NETC", "SNFH")  # scored in every spec with BraTS-GoAT labels, by the spec's own rule


def _lesionwise(
    name: str,
    labels: Mapping[str, tuple[int, ...]],
    scored: str,
    dilation_vox: int,
    min_volume_mm3: float,
    min_pred_vox: int | None,
    hd95_penalty: Penalty,
    missing_penalty: float,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    **facts: Any,  # noqa: ANN401 - other fields of Spec
) -> Spec:
    official = scored.split()
    extra = [region for region in _EXTRA if labels is _GOAT and region not in official]
    regions = {
        region: RegionPolicy(
            **{
                "labels": labels[region],
                "dilation_vox": dilation_vox,
                "min_volume_mm3": min_volume_mm3,
                "min_pred_vox": min_pred_vox,
                "official": region in official,
                **(changes or {}).get(region, {}),
            }
        )
        for region in [*official, *extra]
    }
    return Spec(name=name, regions=regions, hd95_penalty=hd95_penalty, missing_penalty=missing_penalty, **facts)


_ON_IDS: dict[str, Any] = {"legacy_on_ids": True, "official_nsd": True}
_GLI_CHANGES: dict[str, dict[str, Any]] = {
    "NETC": {"dilation_vox": 5, "join": ("ET", "RC")},
    # A misspelt name in the organisers' program leaves SNFH at 3; 5 was meant.
    "SNFH": {"join": ("ET", "RC", "NETC")},
    "ET": {"min_volume_mm3": 10, "min_pred_vox": 10, "join": ("NETC", "RC")},
    "RC": {"dilation_vox": 5, "join": ("ET", "NETC")},
}
_ET_BY_NETC = {"ET": {"join": ("NETC",)}}
_ONE_TO_ONE: dict[str, Any] = {"matching": "one-to-one", "max_label": 3}

# Columns: name, labels, scored regions, dilation, reference lesions dropped up to (mm³), predicted ones dropped up to
# (voxels; None: as they are), HD95 penalty of a lesion and of a missing case, exceptions by region.
_SPECS = (
    _lesionwise("brats2023-gli", _GOAT, "WT TC ET", 3, 50, None, 374, 374),
    _lesionwise("brats2023-men", _GOAT, "WT TC ET", 1, 50, None, 374, 374),
    _lesionwise("brats2023-met", _GOAT, "WT TC ET", 1, 2, None, 374, 374),
    _lesionwise("brats2023-ssa", _GOAT, "WT TC ET", 3, 50, None, 374, 374),
    _lesionwise("brats2023-ped", _GOAT, "WT TC ET", 3, 50, None, 374, 374),
    _lesionwise("goat2025-gli", _GOAT, "WT TC NETC SNFH ET RC", 3, 20, 20, 337, 374, _GLI_CHANGES, **_ON_IDS),
    _lesionwise("goat2025-men", _GOAT, "WT TC ET", 1, 50, None, 374, 374, official_nsd=True),
    _lesionwise("goat2025-met", _GOAT, "WT TC ET RC", 1, 2, 2, "diagonal", 374, _ET_BY_NETC, **_ON_IDS),
    _lesionwise("goat2025-ped", _PED, "WT TC ET NETC CC ED", 5, 10, 10, 374, 374, warning=_PED_WARNING, **_ON_IDS),
    _lesionwise("goat2025-ssa", _GOAT, "WT TC ET", 3, 50, 50, 374, 374, _ET_BY_NETC, **_ON_IDS),
    _lesionwise("brats2026-goat", _GOAT, "WT TC ET", 0, 0, None, 373, 373, **_ONE_TO_ONE),
)
SPECS: dict[str, Spec] = {spec.name: spec for spec in _SPECS}
"""Every built-in spec by name; `BY_COHORT` picks one of them for each case."""

COHORT_SPECS = {name.removeprefix("goat2025-").upper(): spec for name, spec in SPECS.items() if "goat2025-" in name}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a user asked for: one spec for all cases, or one by each case's cohort."""

    name: str
    by_cohort: Mapping[str, Spec]
    spec: Spec | None = None

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The specs that a case may be scored with."""
        return (self.spec,) if self.spec else tuple(self.by_cohort.values())

    def spec_of(self, cohort: str | None) -> Spec:
        """The spec of a case.

        Raises:
            CaseError: `unknown_cohort` when the spec goes by cohort and the case's is none it knows.
        """
        if self.spec:
            return self.spec
        spec = self.by_cohort.get((cohort or "").upper())
        if spec is None:
            raise CaseError(
                Category.UNKNOWN_COHORT,
                f"its cohort is {cohort or 'not known'}, but {self.name} scores {', '.join(self.by_cohort)}.",
                "Name each case's cohort in the column `cohort` of --sites, or choose one spec for all cases.",
            )
        return spec

    def warnings(self, cohorts: Iterable[str | None]) -> tuple[str, ...]:
        """What a reader of the numbers must know about the specs that cases of these cohorts are scored with."""
        used = [self.spec or self.by_cohort.get((cohort or "").upper()) for cohort in set(cohorts)]
        return tuple(sorted({spec.warning for spec in used if spec and spec.warning}))

    def fingerprint(self) -> dict[str, str]:
        """Name and hash of every spec a case may be scored with."""
        return {spec.name: spec.sha256 for spec in self.specs}


def find_policy(name: str) -> Policy:
    """The policy of a built-in name, or of a YAML file.

    Raises:
        ConfigError: neither; the nearest name is told.
    """
    if name == BY_COHORT:
        return Policy(name, COHORT_SPECS)
    if name in SPECS:
        return Policy(name, {}, SPECS[name])
    if name.endswith((".yaml", ".yml")):
        spec = _read_spec(name)
        return Policy(spec.name, {}, spec)
    known = [BY_COHORT, *SPECS]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.3)
    raise ConfigError(
        f"spec {name!r} is not known{f'; is {near[0]} meant?' if near else '.'} "
        f"There are {', '.join(known)}, and YAML files of your own."
    )


def _read_spec(path: str) -> Spec:
    values = read_yaml(path)
    if values.get("name") in [None, BY_COHORT, *SPECS]:
        raise ConfigError(f"{path}: give the spec a name of its own, not that of a built-in one")
    base, changed = values.pop("base", None), values.pop("regions", {})
    if not isinstance(changed, Mapping) or not all(isinstance(change, Mapping) for change in changed.values()):
        raise ConfigError(f"{path}: regions must be a mapping of region names to their settings")
    if base is None:
        return validated(Spec, {**values, "regions": changed}, path)
    if base not in list(SPECS):
        raise ConfigError(f"{path}: base {shortened(base)} is none of {', '.join(SPECS)}")
    inherited = SPECS[base].model_dump()
    regions = {**inherited["regions"], **{r: {**inherited["regions"].get(r, {}), **c} for r, c in changed.items()}}
    return validated(Spec, {**inherited, "warning": None, **values, "regions": regions}, path)
