"""What nnU-Net v2's `plans.json` says about one member, in the old (< 2.4) and the new format."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, prod
from reprlib import repr as shortened
from typing import Any, Literal, TypeAlias

from goat_ray.errors import EnsembleError

Triple: TypeAlias = tuple[int, int, int]
Family: TypeAlias = Literal["plain_conv", "residual_encoder", "umamba_bot", "umamba_bot_upstream"]

# Matched as text and never imported: plans come from strangers. Some nnU-Net versions keep
# ResidualEncoderUNet in `residual_unet`, which is why only the class name itself counts.
_PACKAGE = "dynamic_network_architectures."
_BLOCKS_KEY: dict[str, tuple[Family, str]] = {
    "PlainConvUNet": ("plain_conv", "n_conv_per_stage"),
    "ResidualEncoderUNet": ("residual_encoder", "n_blocks_per_stage"),
}
_FIXED_KWARGS: dict[str, tuple[Any, ...]] = {
    "conv_op": ("torch.nn.modules.conv.Conv3d", "torch.nn.Conv3d"),
    "norm_op": ("torch.nn.modules.instancenorm.InstanceNorm3d", "torch.nn.InstanceNorm3d"),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True},),
    "dropout_op": (None,),
    "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
    "nonlin_kwargs": ({"inplace": True}, {"inplace": True, "negative_slope": 0.01}),
}
_STAGE_KWARGS = {"n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder"}
_FIXED_PREPROCESSING: dict[str, Any] = {
    "preprocessor_name": "DefaultPreprocessor",
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
}
_MOST_STAGES, _MOST_FEATURES, _MOST_BLOCKS, _LARGEST_KERNEL, _LARGEST_STRIDE = 16, 4096, 256, 15, 16
_LARGEST_PATCH = 1024
_LONGEST_TEXT = 500
_NORMALIZATIONS = ("ZScoreNormalization",)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network, stage by stage from full resolution (index 0) to the bottleneck.

    `kernels` and `strides` are in the axis order of the patch; `decoder_blocks` runs from the deepest
    level up. Blocks are convolutions in a plain encoder or decoder and residual blocks elsewhere.
    """

    family: Family
    features: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    conv_bias: bool = True
    norm: Literal["instance"] = "instance"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a case becomes a network's input; members with equal values share one volume.

    `spacing_mm` follows the axes after `transpose`, which permutes (z, y, x); `normalization` and
    `use_mask` have one entry per channel of the member.
    """

    spacing_mm: tuple[float, float, float]
    normalization: tuple[str, ...]
    use_mask: tuple[bool, ...]
    transpose: Triple


@dataclass(frozen=True, slots=True)
class Plans:
    """One configuration of a plans file; `patch_size` follows the axes after the transpose."""

    architecture: Architecture
    patch_size: Triple
    preprocessing: Preprocessing
    configuration: str
    name: str


def parse_plans(plans: Mapping[str, Any], configuration: str = "3d_fullres") -> Plans:
    """Reads one configuration of an nnU-Net plans file.

    The network's family is the one the plans name; custom trainers may have trained another one, which
    only the checkpoint tells (see `networks.with_family`).

    Raises:
        EnsembleError: the configuration is missing, malformed or needs something unsupported.
    """
    name = str(plans.get("plans_name", "(without a name)"))[:_LONGEST_TEXT]
    where = f"plans {name!r}, configuration {configuration!r}"
    try:
        return _parse(plans, configuration)
    except EnsembleError as error:
        raise EnsembleError(f"{where}: {str(error)[:_LONGEST_TEXT]}") from None
    except KeyError as error:
        raise EnsembleError(f"{where}: the entry {error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EnsembleError(f"{where}: not what nnU-Net writes ({str(error)[:_LONGEST_TEXT]})") from error


def architecture_fault(architecture: Architecture) -> str | None:
    """Why this describes no network of a sensible size, or None when it does."""
    stages = len(architecture.features)
    if not 2 <= stages <= _MOST_STAGES:
        return f"it has {stages} stages; expected 2 to {_MOST_STAGES}"
    limits: dict[str, tuple[int, int]] = {
        "features": (stages, _MOST_FEATURES),
        "kernels": (stages, _LARGEST_KERNEL),
        "strides": (stages, _LARGEST_STRIDE),
        "encoder_blocks": (stages, _MOST_BLOCKS),
        "decoder_blocks": (stages - 1, _MOST_BLOCKS),
    }
    for name, (length, largest) in limits.items():
        values = getattr(architecture, name)
        flat = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
        if len(values) != length or not all(1 <= one <= largest for one in flat):
            return f"{name} is {shortened(values)}; expected {length} entries from 1 to {largest}"
    if any(size % 2 == 0 for kernel in architecture.kernels for size in kernel):
        return f"kernels is {shortened(architecture.kernels)}; expected odd sizes"
    blocks = sum(architecture.encoder_blocks) + sum(architecture.decoder_blocks)
    return f"it has {blocks} blocks; expected {_MOST_BLOCKS} at most" if blocks > _MOST_BLOCKS else None


def patch_fault(patch: Triple, architecture: Architecture) -> str | None:
    """Why no network of this architecture takes windows of this size, or None when one does."""
    if not all(1 <= size <= _LARGEST_PATCH for size in patch):
        return f"the patch is {shortened(patch)}; expected sides from 1 to {_LARGEST_PATCH}"
    step = tuple(prod(stride[axis] for stride in architecture.strides) for axis in range(3))
    if any(size % divisor for size, divisor in zip(patch, step, strict=True)):
        return f"the patch {_shown(patch)} is no multiple of the strides {_shown(step)}"
    return None


def _parse(plans: Mapping[str, Any], configuration: str) -> Plans:
    values = _resolved(plans["configurations"], configuration)
    if len(values["patch_size"]) != 3:
        raise EnsembleError(f"the patch {_shown(values['patch_size'])} is 2-D; only 3-D networks are supported")
    if values.get("previous_stage"):
        raise EnsembleError(f"a cascade on top of {values['previous_stage']!r}; only a network of its own is supported")
    architecture = _architecture(values)
    patch_size = _triple(values["patch_size"])
    if fault := patch_fault(patch_size, architecture):
        raise EnsembleError(fault)
    preprocessing = _preprocessing(values, plans.get("transpose_forward", (0, 1, 2)))
    return Plans(architecture, patch_size, preprocessing, configuration, str(plans["plans_name"]))


def _resolved(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration with everything it inherits, its own entries winning."""
    return {key: value for layer in reversed([*_lineage(configurations, name)]) for key, value in layer.items()}


def _lineage(configurations: Mapping[str, Any], name: str | None) -> Iterator[Mapping[str, Any]]:
    seen: set[str] = set()
    while name is not None:
        if name in seen:
            raise EnsembleError(f"the configuration {name!r} inherits from itself")
        if name not in configurations:
            raise EnsembleError(f"no configuration {name!r}; there are {', '.join(configurations)}")
        seen.add(name)
        yield configurations[name]
        name = configurations[name].get("inherits_from")


def _architecture(values: Mapping[str, Any]) -> Architecture:
    described = values.get("architecture") or _modernised(values)
    class_name, kwargs = str(described["network_class_name"]), described["arch_kwargs"]
    package, _, short_name = class_name.rpartition(".")
    if short_name not in _BLOCKS_KEY or not f"{package}.".startswith(_PACKAGE):
        raise EnsembleError(f"the network {class_name!r}; supported are {' and '.join(_BLOCKS_KEY)}")
    family, blocks_key = _BLOCKS_KEY[short_name]
    _refuse_variants(kwargs, {blocks_key, *_STAGE_KWARGS, *_FIXED_KWARGS, "conv_bias", "dropout_op_kwargs"})
    stages = int(kwargs["n_stages"])
    if not 2 <= stages <= _MOST_STAGES:
        raise EnsembleError(f"n_stages is {stages}; expected 2 to {_MOST_STAGES}")
    architecture = Architecture(
        family=family,
        features=_counts(kwargs, "features_per_stage", stages),
        kernels=_triples(kwargs, "kernel_sizes", stages),
        strides=_triples(kwargs, "strides", stages),
        encoder_blocks=_counts(kwargs, blocks_key, stages),
        decoder_blocks=_counts(kwargs, "n_conv_per_stage_decoder", stages - 1),
        conv_bias=bool(kwargs.get("conv_bias", False)),
    )
    if fault := architecture_fault(architecture):
        raise EnsembleError(fault)
    return architecture


def _modernised(values: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture entry nnU-Net >= 2.4 would have written for an old configuration."""
    class_name = values["UNet_class_name"]
    blocks = values["n_conv_per_stage_encoder"]
    base, largest = int(values["UNet_base_num_features"]), int(values["unet_max_num_features"])
    return {
        "network_class_name": f"{_PACKAGE}architectures.unet.{class_name}",
        "arch_kwargs": {
            "n_stages": len(blocks),
            "features_per_stage": [min(base * 2**stage, largest) for stage in range(len(blocks))],
            "kernel_sizes": values["conv_kernel_sizes"],
            "strides": values["pool_op_kernel_sizes"],
            _BLOCKS_KEY.get(class_name, ("", "blocks"))[1]: blocks,
            "n_conv_per_stage_decoder": values["n_conv_per_stage_decoder"],
            "conv_bias": True,
            **{key: allowed[0] for key, allowed in _FIXED_KWARGS.items()},
        },
    }


def _refuse_variants(kwargs: Mapping[str, Any], known: set[str]) -> None:
    for key, allowed in _FIXED_KWARGS.items():
        if kwargs.get(key) not in allowed:
            raise EnsembleError(f"{key} is {kwargs.get(key)!r}; only {allowed[0]!r} is supported")
    for key in sorted(kwargs.keys() - known):
        if kwargs[key] not in (None, False):
            raise EnsembleError(f"the network option {key} = {kwargs[key]!r} is not supported")


def _preprocessing(values: Mapping[str, Any], transpose: Any) -> Preprocessing:  # noqa: ANN401 - JSON
    for key, expected in _FIXED_PREPROCESSING.items():
        if values.get(key, expected) != expected:
            raise EnsembleError(f"{key} is {values[key]!r}; only {expected!r} is supported")
    normalization = tuple(values["normalization_schemes"])
    unsupported = sorted(set(normalization) - set(_NORMALIZATIONS))
    if unsupported:
        raise EnsembleError(f"the normalisation {', '.join(unsupported)}; supported is {', '.join(_NORMALIZATIONS)}")
    use_mask = tuple(bool(flag) for flag in values["use_mask_for_norm"])
    if len(use_mask) != len(normalization):
        raise EnsembleError(f"{len(normalization)} normalisations but {len(use_mask)} mask flags")
    z, y, x = (float(step) for step in values["spacing"])
    if not all(0 < step < inf for step in (z, y, x)):
        raise EnsembleError(f"the spacing {(z, y, x)} mm is not positive")
    first, second, third = (int(axis) for axis in transpose)
    if {first, second, third} != {0, 1, 2}:
        raise EnsembleError(f"transpose_forward is {transpose}, no permutation of three axes")
    return Preprocessing((z, y, x), normalization, use_mask, (first, second, third))


def _counts(kwargs: Mapping[str, Any], key: str, length: int) -> tuple[int, ...]:
    value = kwargs[key]
    counts = (int(value),) * length if isinstance(value, int) else tuple(int(count) for count in value)
    _check(key, counts, length, smallest=min(counts, default=0))
    return counts


def _triples(kwargs: Mapping[str, Any], key: str, length: int) -> tuple[Triple, ...]:
    value = kwargs[key]
    per_stage = (value,) * length if isinstance(value, int) else value
    triples = tuple(_triple((size,) * 3 if isinstance(size, int) else size) for size in per_stage)
    _check(key, triples, length, smallest=min((min(triple) for triple in triples), default=0))
    return triples


def _check(key: str, values: tuple[Any, ...], length: int, smallest: int) -> None:
    if len(values) != length or smallest < 1:
        raise EnsembleError(f"{key} is {list(values)}; expected {length} entries, none below 1")


def _triple(value: Any) -> Triple:  # noqa: ANN401 - JSON
    z, y, x = (int(size) for size in value)
    return z, y, x


def _shown(sizes: Any) -> str:  # noqa: ANN401 - JSON
    return "×".join(map(str, sizes))
