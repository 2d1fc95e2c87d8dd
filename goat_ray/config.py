"""The run configuration: one frozen tree, read from YAML and flags, with a fingerprint of what changes results."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from goat_ray.errors import ConfigError

METHOD_VERSION = 7
"""Raised whenever the code changes what a run with the same settings produces."""

_MOST_PROBLEMS, _LONGEST_PROBLEM = 10, 500
_LARGEST_YAML, _MOST_NODES, _DEEPEST, _LONGEST_NUMBER = 2**18, 50_000, 50, 40
_STRING_TAG, _INT_TAG, _FLOAT_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float"))

Decode = Literal["majority", "argmax", "regions"]
Blending = Literal["exact", "nnunet"]
Precision = Literal["float32", "bfloat16", "float16"]
Mode = Literal["resident", "shard"]
"""Every member in every worker, or divided between pools of workers."""


DEFAULT_SPEC = "brats2023-gli"
NO_SPEC = "none"


class Settings(BaseModel):
    """Base of every configuration model: immutable, no unknown keys."""

    # Defaults are validated so that 100 is 100.0 wherever it comes from: run ids are made of the text of numbers.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)


class PostprocessConfig(Settings):
    """Parameters of the postprocessing rules; the defaults are the winning method's."""

    method: Literal["adaptive", "fixed", "minimum", "none"] = Field(
        "adaptive", description="ratio-adaptive rule, fixed sizes, the smallest tumours only, or leave labels alone"
    )
    et_ratio: float = Field(0.0005, ge=0, description="ET threshold as a share of the mean WT component")
    et_max: float = Field(100, ge=0, description="upper bound of the ET threshold")
    wt_ratio: float = Field(0.005, ge=0, description="WT threshold as a share of the mean WT component")
    wt_min: float = Field(10, ge=0, description="lower bound of the WT threshold; with `minimum`, the threshold")
    wt_max: float = Field(250, ge=0, description="upper bound of the WT threshold")
    min_average: float = Field(10, ge=0, description="smallest component that enters the mean")
    fixed_wt: float = Field(250, ge=0, description="smallest WT component that `fixed` keeps")
    fixed_tc: float = Field(150, ge=0, description="smallest TC component that `fixed` keeps")
    fixed_et: float = Field(100, ge=0, description="smallest ET component that `fixed` keeps")
    nested: bool = Field(False, description="with `fixed`: drop ET outside surviving TC, and TC outside surviving WT")
    unit: Literal["vox", "mm3"] = Field("vox", description="unit of every size above")


class S3Config(Settings):
    """How S3 is reached; what is unset comes from the usual environment variables and AWS files. Keys never go here."""

    endpoint_url: str | None = Field(None, description="address of a store other than AWS")
    region: str | None = Field(None, description="region of the buckets")
    profile: str | None = Field(None, description="profile in the AWS configuration files")
    anonymous: bool = Field(False, description="sign nothing: for public buckets")


class JobConfig(Settings):
    """What every job over cases needs to know; none of it changes a result."""

    out: str = Field(description="run folder or s3:// prefix")
    sites: str | None = Field(None, description="CSV or parquet with case_id, site and cohort")
    limit: int | None = Field(None, ge=1, description="only the first N cases in id order")
    workers: int | None = Field(None, ge=1, description="cases in work at a time; from the cluster's size when unset")
    address: str | None = Field(None, description="Ray cluster to use; an embedded Ray when unset")
    s3: S3Config = S3Config()

    attempts: int = Field(3, ge=1, description="how many workers a case may be lost with before it is given up")
    case_timeout_s: float | None = Field(
        None, gt=0, description="longest time a stage may take over a case; 900 on a GPU and 21600 on CPUs when unset"
    )
    grace_s: float = Field(30, ge=0, description="how long what is in work may go on after SIGINT or SIGTERM")
    max_failure_rate: float = Field(0.8, gt=0, le=1, description="stop when more of the cases tried have failed")


class PoolConfig(Settings):
    """Predict workers that hold some of the members; cases pass the pools in order."""

    members: tuple[str, ...] = Field(min_length=1, description="codes, in the ensemble's order")
    workers: int | None = Field(None, ge=1, description="how many; in proportion to the work when unset")
    accelerator_type: str | None = Field(None, description="GPU type, as Ray calls it, e.g. A10G")
    python: str | None = Field(None, description="interpreter on the workers, where another environment is needed")


class RunConfig(JobConfig):
    """Everything `goat-ray predict` needs to know; flags override the YAML file."""

    cohort: str = Field(description="folder, s3:// prefix, nnU-Net raw folder or CSV/parquet manifest")
    ensemble: str = Field(description="ensemble.yaml written by `goat-ray ensemble import`")
    references: str | None = Field(None, description="expert label maps; those beside the images when unset")
    spec: str = Field(DEFAULT_SPEC, description="how cases with a reference are scored: a name, a YAML file, or none")
    members: tuple[str, ...] | None = Field(None, description="subset of member codes; all when unset")
    suffixes: dict[str, str] | None = Field(None, description="older file suffix to modality, e.g. t1ce: t1c")
    channels: tuple[str, ...] | None = Field(None, description="modality of _0000, _0001, … for nnU-Net raw input")

    decode: Decode = Field("majority", description="how merged probabilities become labels")
    blending: Blending = Field("exact", description="fp32 blending, or nnU-Net's own fp16 arithmetic")
    mirroring: bool = Field(False, description="average over each member's mirrored inputs (8x the work)")
    precision: Precision = Field(
        "float32", description="of the networks; bfloat16, or float16 on a GPU, is faster and changes some labels"
    )
    compiled: bool = Field(
        False, description="compile the networks on CPUs: a little faster, once half a minute for each has passed"
    )
    postprocess: PostprocessConfig = PostprocessConfig()

    thumbnails: bool = Field(True, description="draw a small picture of each case")
    save_probabilities: bool = Field(False, description="also write the merged probabilities of ET, TC and WT")

    device: Literal["cpu", "cuda"] | None = Field(None, description="cuda or cpu; a GPU where there is one when unset")
    threads: int | None = Field(None, ge=1, description="CPU threads of one predict actor")
    placement: Mode | None = Field(
        None, description="every member in every worker, or divided between pools; as memory allows when unset"
    )
    pools: tuple[PoolConfig, ...] = Field((), description="which members go together; as memory allows when unset")
    windows_per_batch: int = Field(4, ge=1, le=64, description="windows per forward pass, at most")

    def fingerprint(self, ensemble_sha256: str, specs: Mapping[str, str]) -> dict[str, Any]:
        """What can change a result: compared on reuse of a run folder, hashed into the run id.

        Which files a case has is part of it: a run is never half with them, and two drivers of one run never
        differ in what they commit.

        Args:
            ensemble_sha256: hash of the members.
            specs: hash of each spec that a case may be scored with, by name.
        """
        return {
            "method_version": METHOD_VERSION,
            "ensemble_sha256": ensemble_sha256,
            "decode": self.decode,
            "blending": self.blending,
            "mirroring": self.mirroring,
            "precision": self.precision,
            "compiled": self.compiled,
            "suffixes": self.suffixes,
            "channels": self.channels,
            "postprocess": self.postprocess.model_dump(),
            "spec": dict(specs),
            "thumbnails": self.thumbnails,
            "save_probabilities": self.save_probabilities,
        }


class EvaluateConfig(JobConfig):
    """Everything `goat-ray evaluate` needs to know; flags override the YAML file."""

    labels: str = Field(description="label maps: folder, s3:// prefix, run folder or manifest")
    references: str = Field(description="expert label maps, in the same forms")
    spec: str = Field(description="name of a spec, or a YAML file with one")
    missing: Literal["penalise", "exclude"] = Field(
        "penalise", description="score a case without prediction as the organisers do, or leave it out of the means"
    )
    official: bool = Field(False, description="also the whole-volume numbers that 2025's organisers got wrong")
    exports: bool = Field(False, description="also write the organisers' own file formats; includes `official`")

    def fingerprint(self, specs: Mapping[str, str]) -> dict[str, Any]:
        """What can change a table; see `RunConfig.fingerprint`."""
        return {
            "method_version": METHOD_VERSION,
            "spec": dict(specs),
            "missing": self.missing,
            "official": self.official or self.exports,
        }


def run_id_of(fingerprint: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a fingerprint; equal settings give equal ids on every machine."""
    canonical = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the keys whose values differ between two fingerprints."""
    names: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            names += differing_keys(mine, other, f"{prefix}{key}.")
        elif mine != other:
            names.append(f"{prefix}{key}")
    return names


def load_config(model: type[ModelT], path: str | None, overrides: Mapping[str, Any]) -> ModelT:
    """The configuration of `path` (YAML, optional) with every override that is not None on top.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not what `model` takes.
    """
    values = read_yaml(path) if path else {}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            values[key] = {**values[key], **value}
        elif value is not None:
            values[key] = value
    return validated(model, values, path or "command line")


def validated(model: type[ModelT], values: object, source: str) -> ModelT:
    """`values` as an instance of `model`; problems are told in the user's terms.

    Raises:
        ConfigError: naming each bad key of `source`, what is wrong and the nearest valid key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [dict(problem) for problem in error.errors(include_url=False)]
        told = [_explain(model, problem)[:_LONGEST_PROBLEM] for problem in problems[:_MOST_PROBLEMS]]
        more = [f"and {len(problems) - len(told)} more"] if len(problems) > len(told) else []
        raise ConfigError(f"{source}: {'; '.join([*told, *more])}") from error


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        told = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {told.lower()}" if key else told
    near = difflib.get_close_matches(str(problem["loc"][-1]), _keys(model, problem["loc"][:-1]), n=1)
    return f"{key}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")


def _keys(model: type[BaseModel], parents: tuple[Any, ...]) -> list[str]:
    """The keys that `model` has below `parents`, through models and mappings of models."""
    kind: Any = model
    for parent in parents:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif _is_model(kind) and str(parent) in kind.model_fields:
            kind = kind.model_fields[str(parent)].annotation
    return list(kind.model_fields) if _is_model(kind) else []


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        with Path(path).open("rb") as file:
            values = parse_yaml(file.read(_LARGEST_YAML + 1))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags and dates, and with nothing that is deep or large once its aliases are followed."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - as in the base
        """See PyYAML; an alias counts as many nodes as what it stands for."""
        event, before = self.peek_event(), self._nodes  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, "!", _STRING_TAG):
            raise ComposerError(None, None, "tags are not supported", event.start_mark)
        getattr(event, "value", "").encode()  # raises ValueError for a lone surrogate, which is no text
        known = isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors
        self._nodes += self._sizes.get(event.anchor, _MOST_NODES) if known else 1
        self._depth += 1
        if self._depth > _DEEPEST or self._nodes > _MOST_NODES:
            raise ComposerError(None, None, "it is nested too deeply or too large", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[event.anchor] = self._nodes - before
        return node

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """An int or a float."""
        if len(node.value) > _LONGEST_NUMBER:
            raise ConstructorError(None, None, "a number has too many digits", node.start_mark)
        return self.construct_yaml_int(node) if node.tag == _INT_TAG else self.construct_yaml_float(node)


for _tag in (_INT_TAG, _FLOAT_TAG):
    _PlainLoader.add_constructor(_tag, _PlainLoader.construct_number)


def parse_yaml(data: bytes) -> Any:  # noqa: ANN401 - whatever the document holds
    """What a small YAML document holds, made of plain values only.

    Raises:
        yaml.YAMLError: it is no such document.
        ValueError: a number in it is none.
    """
    if len(data) > _LARGEST_YAML:
        raise yaml.YAMLError(f"it has more than {_LARGEST_YAML} bytes")
    return yaml.load(data, _PlainLoader)  # noqa: S506 - a safe loader
