"""The networks of the ensemble, built from plans; their parameter names are nnU-Net's and U-Mamba's."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_residual_decoder import UNetResDecoder
from dynamic_network_architectures.initialization.weight_init import (
    InitWeights_He,
    init_last_bn_before_add_to_0,
)
from torch import Tensor, nn
from torch.nn import functional as F

from goat_ray.errors import EnsembleError
from goat_ray.members.mamba import Mamba, ScanBackend, full_precision
from goat_ray.members.plans import Architecture, Family, Triple

_NORM: dict[str, Any] = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
_ACTIVATION: dict[str, Any] = {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}

# Every pattern must occur; the first family that fits wins.
_KEY_PATTERNS: dict[Family, tuple[str, ...]] = {
    "umamba_bot_upstream": (
        "mamba_layer.mamba.A_log",
        "encoder.stages.0.0.conv1.",
        "decoder.upsample_layers.",
    ),
    "umamba_bot": ("ln.weight", "mamba.A_log", "encoder.stages.0.blocks.", "decoder.stages.0.blocks."),
    "residual_encoder": ("encoder.stages.0.blocks.", "decoder.stages.0.convs.", "decoder.transpconvs."),
    "plain_conv": ("encoder.stages.0.0.convs.", "decoder.stages.0.convs.", "decoder.transpconvs."),
}


def build_network(
    architecture: Architecture, in_channels: int, heads: int, *, scan_backend: ScanBackend = "auto"
) -> nn.Module:
    """The network of an architecture; it maps (n, c, z, y, x) to full-resolution logits (n, heads, z, y, x).

    Deep-supervision heads exist as parameters and are not evaluated. Build it under
    `torch.device("meta")` when weights are assigned afterwards.
    """
    match architecture.family:
        case "umamba_bot":
            return UMambaBot(architecture, in_channels, heads, scan_backend)
        case "umamba_bot_upstream":
            return UMambaBotUpstream(architecture, in_channels, heads, scan_backend)
        case "plain_conv":
            network_class, blocks = PlainConvUNet, "n_conv_per_stage"
        case "residual_encoder":
            network_class, blocks = ResidualEncoderUNet, "n_blocks_per_stage"
    network: nn.Module = network_class(
        **_encoder_arguments(architecture, in_channels),
        **{blocks: architecture.encoder_blocks},
        n_conv_per_stage_decoder=architecture.decoder_blocks,
        num_classes=heads,
    )
    return network


def initialize_weights(network: nn.Module) -> None:
    """nnU-Net's start values: He for the convolutions, each residual block starting as its skip.

    Linear and one-dimensional layers, that is all of Mamba, keep the values they were made with.
    """
    network.apply(InitWeights_He(1e-2))
    network.apply(init_last_bn_before_add_to_0)


def parameter_count(network: nn.Module) -> int:
    """Number of parameters, each counted once however many names it has."""
    return sum(parameter.numel() for parameter in network.parameters())


def with_family(architecture: Architecture, state_keys: Iterable[str]) -> Architecture:
    """The architecture a checkpoint was really trained with, told by its parameter names.

    U-Mamba's trainers build their network from plans that name a plain one, so the plans do not say it.
    The upstream flavour keeps only one block per stage in the deeper half, which is applied here.

    Raises:
        EnsembleError: the names fit no supported network, or another one than the plans name.
    """
    keys = tuple(state_keys)
    if any(key.endswith("running_mean") for key in keys):
        raise EnsembleError("the checkpoint has batch normalisation; only instance normalisation is supported")
    family = next((family for family, patterns in _KEY_PATTERNS.items() if _fits(keys, patterns)), None)
    if family is None:
        raise EnsembleError(
            f"the checkpoint's {len(keys)} parameters ({', '.join(keys[:3])}, …) fit none of the supported "
            f"networks {', '.join(_KEY_PATTERNS)}"
        )
    if family == "umamba_bot":
        return replace(architecture, family=family)
    if family == "umamba_bot_upstream":
        return _upstream(architecture)
    if family != architecture.family:
        raise EnsembleError(f"the checkpoint is a {family} network, its plans name {architecture.family}")
    return architecture


def _fits(keys: Sequence[str], patterns: Iterable[str]) -> bool:
    return all(any(f".{pattern}" in f".{key}" for key in keys) for pattern in patterns)


def _upstream(architecture: Architecture) -> Architecture:
    stages = len(architecture.features)
    return replace(
        architecture,
        family="umamba_bot_upstream",
        encoder_blocks=_shallow(architecture.encoder_blocks, math.ceil(stages / 2)),
        decoder_blocks=_shallow(architecture.decoder_blocks, math.ceil(stages / 2)),
    )


def _shallow(blocks: tuple[int, ...], kept: int) -> tuple[int, ...]:
    return blocks[:kept] + (1,) * len(blocks[kept:])


def _encoder_arguments(architecture: Architecture, in_channels: int) -> dict[str, Any]:
    return {
        "input_channels": in_channels,
        "n_stages": len(architecture.features),
        "features_per_stage": architecture.features,
        "conv_op": nn.Conv3d,
        "kernel_sizes": architecture.kernels,
        "strides": architecture.strides,
        "conv_bias": architecture.conv_bias,
        **_NORM,
        **_ACTIVATION,
    }


def _mix_bottleneck(features: Tensor, norm: nn.LayerNorm, mamba: Mamba) -> Tensor:
    """Layer norm and Mamba over the voxels of (n, c, z, y, x), x fastest, in float32."""
    with full_precision(features.device.type):
        tokens = features.flatten(2).transpose(1, 2).float()
        normed = F.layer_norm(tokens, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
        mixed: Tensor = mamba(normed)
    # In the layout of the features: the tokens' own would have every layer behind it convert.
    return torch.empty_like(features).copy_(mixed.transpose(1, 2).reshape(features.shape))


class UMambaBot(nn.Module):
    """U-Mamba-Bot as first published (January 2024) and as the BraTS-GoAT 2025 winners trained it.

    A residual encoder and a residual decoder with transposed convolutions; Mamba replaces the bottleneck.
    """

    def __init__(self, architecture: Architecture, in_channels: int, heads: int, scan_backend: ScanBackend) -> None:
        super().__init__()
        self.encoder = ResidualEncoder(
            **_encoder_arguments(architecture, in_channels),
            n_blocks_per_stage=architecture.encoder_blocks,
            return_skips=True,
        )
        self.ln = nn.LayerNorm(architecture.features[-1])
        self.mamba = Mamba(architecture.features[-1], scan_backend=scan_backend)
        self.decoder = UNetResDecoder(self.encoder, heads, architecture.decoder_blocks, deep_supervision=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, z, y, x) to logits (n, heads, z, y, x)."""
        *skips, bottleneck = self.encoder(x)
        logits: Tensor = self.decoder([*skips, _mix_bottleneck(bottleneck, self.ln, self.mamba)])
        return logits


class UMambaBotUpstream(nn.Module):
    """U-Mamba-Bot as its public repository has it since March 2024.

    Its own residual blocks, a stem of a whole stage, and nearest-neighbour upsampling.
    """

    def __init__(self, architecture: Architecture, in_channels: int, heads: int, scan_backend: ScanBackend) -> None:
        super().__init__()
        self.encoder = _UpstreamEncoder(architecture, in_channels)
        self.mamba_layer = _MambaLayer(architecture.features[-1], scan_backend)
        self.decoder = _UpstreamDecoder(architecture, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, z, y, x) to logits (n, heads, z, y, x)."""
        *skips, bottleneck = self.encoder(x)
        logits: Tensor = self.decoder(skips, self.mamba_layer(bottleneck))
        return logits


class _MambaLayer(nn.Module):
    def __init__(self, channels: int, scan_backend: ScanBackend) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, scan_backend=scan_backend)

    def forward(self, features: Tensor) -> Tensor:
        return _mix_bottleneck(features, self.norm, self.mamba)


class _UpstreamEncoder(nn.Module):
    def __init__(self, architecture: Architecture, in_channels: int) -> None:
        super().__init__()
        features, blocks = architecture.features, architecture.encoder_blocks
        kernels, bias = architecture.kernels, architecture.conv_bias
        self.stem = _stage(in_channels, features[0], kernels[0], (1, 1, 1), blocks[0], bias)
        inputs = (features[0], *features[:-1])
        layers = zip(inputs, features, kernels, architecture.strides, blocks, strict=True)
        self.stages = nn.Sequential(*(_stage(*layer, bias) for layer in layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class _UpstreamDecoder(nn.Module):
    def __init__(self, architecture: Architecture, heads: int) -> None:
        super().__init__()
        below, here = architecture.features[:0:-1], architecture.features[-2::-1]
        kernels, strides = architecture.kernels[-2::-1], architecture.strides[:0:-1]
        bias = architecture.conv_bias
        self.stages = nn.ModuleList(
            _stage(2 * channels, channels, kernel, (1, 1, 1), blocks, bias)
            for channels, kernel, blocks in zip(here, kernels, architecture.decoder_blocks, strict=True)
        )
        self.upsample_layers = nn.ModuleList(_Upsample(*level) for level in zip(below, here, strides, strict=True))
        self.seg_layers = nn.ModuleList(nn.Conv3d(channels, heads, 1) for channels in here)

    def forward(self, skips: Sequence[Tensor], x: Tensor) -> Tensor:
        for upsample, stage, skip in zip(self.upsample_layers, self.stages, reversed(skips), strict=True):
            x = stage(torch.cat((upsample(x), skip), dim=1))
        logits: Tensor = self.seg_layers[-1](x)
        return logits


class _Upsample(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: Triple) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 1)
        self.stride = tuple(float(step) for step in stride)

    def forward(self, x: Tensor) -> Tensor:
        # The 1×1×1 convolution commutes with copying voxels; before it there are fewer of them.
        return F.interpolate(self.conv(x), scale_factor=list(self.stride), mode="nearest")


class UpstreamBlock(nn.Module):
    """A residual block whose skip is always a strided 1×1×1 convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv1 = nn.Conv3d(inputs, outputs, kernel, stride, padding)
        self.norm1 = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)
        self.conv2 = nn.Conv3d(outputs, outputs, kernel, padding=padding)
        self.norm2 = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)
        self.conv3 = nn.Conv3d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, z, y, x) to (n, outputs, …), smaller by the stride."""
        y = F.leaky_relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.leaky_relu(y + self.conv3(x), inplace=True)


def _stage(inputs: int, outputs: int, kernel: Triple, stride: Triple, blocks: int, conv_bias: bool) -> nn.Sequential:
    """One projecting block and `blocks - 1` basic ones."""
    basic = (
        BasicBlockD(nn.Conv3d, outputs, outputs, kernel, 1, conv_bias, **_NORM, **_ACTIVATION)
        for _ in range(blocks - 1)
    )
    return nn.Sequential(UpstreamBlock(inputs, outputs, kernel, stride), *basic)
