"""Seven full-size members on one GPU: each step from nnUNetPredictor to ours, predicted beside measured.

Run from the repository root: `python -m benchmarks.gpu_predictor`, in less than ten minutes on an H200. It needs torch
for CUDA, Triton, numpy, scipy, PyYAML, fsspec and tqdm, and these wheels at the versions of
constraints.txt: dynamic_network_architectures, pydantic, pydantic_core, annotated-types, typing-inspection, isal,
nibabel. nnUNetPredictor needs nnunetv2, batchgenerators, batchgeneratorsv2 and acvl_utils too, and what they import
(blosc2, numexpr, ndindex); without them its rows stay empty. Wheels that the index lacks are made by
`pip wheel --no-deps`; where nothing can be fetched all are installed by
`pip install --no-index --no-deps --target /tmp/site .whl/*.whl` and PYTHONPATH=/tmp/site.

`--tiny` runs all of it on a CPU with tiny networks, in a minute, and records nothing: graphs, profile and speed mean
nothing there. Weights are random, so labels are near ties; logits are what is compared.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import benchmarks._bare  # noqa: F401 - before what follows
from benchmarks._record import record
from goat_ray.labels import MODALITIES, LabelScheme
from goat_ray.members import forms
from goat_ray.members.blending import Tiling, blend, tile
from goat_ray.members.cards import MemberCard, Source
from goat_ray.members.ensemble import Ensemble, Member
from goat_ray.members.gpu_form import GpuForm, with_fused_norms
from goat_ray.members.graphs import Graphed, GraphPool
from goat_ray.members.mamba import Mamba
from goat_ray.members.networks import build_network, initialize_weights
from goat_ray.members.plans import Architecture, Preprocessing, Triple
from goat_ray.members.predictor import Predictor, PredictorSettings
from goat_ray.members.preprocess import Preprocessed
from tests.members import nnunet_reference as nnunet

BUDGET_S = 480.0
RESERVED_S = 120.0  # for the profile and the whole case
REPEATS = 3
BATCH = 4
HEADS = 4
# How far from float32 a step in float16 may be: this often nnUNetPredictor's distance or, if that is smaller since its
# sums are no fp16 sums, that of the same network under autocast.
BAR = 1.5
HALVES_OF_OTHERS = ("nnUNetPredictor", "autocast, one window")
TARGETS = {"times_nnunet": 2.5, "gpu_s_per_case": 0.30, "share_of_peak": 0.30}

# Written before anything ran on a device, from floating-point operations, bytes and other people's measurements:
# seconds per case, summed over the seven members.
PREDICTED = {
    "nnUNetPredictor": (0.36, 0.65),
    "autocast, one window": (0.36, 0.65),
    "batches of 4": (0.32, 0.60),
    "no idle biases": (0.30, 0.57),
    "channels last, stock norms": (0.40, 0.85),
    "fused norms": (0.21, 0.34),
    "CUDA graphs": (0.21, 0.31),
    "bfloat16": (0.21, 0.31),
    "as shipped, no autotuning": (0.21, 0.40),
    "whole case": (0.25, 0.45),
}
PREDICTED_MAMBA_MS = {"eager": 0.3, "graph": 0.1}  # of a batch, whatever its size: launches
PREDICTED_COMPILED = (1.2, 1.6)  # times as fast as the same under autocast


@dataclass(frozen=True)
class Kind:
    """Members of one architecture and patch."""

    name: str
    codes: tuple[str, ...]
    architecture: Architecture
    patch: Triple


def kinds(tiny: bool) -> list[Kind]:
    """What nnU-Net's planner gives BraTS at 1 mm, or the same in small."""
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    small, large = (128, 128, 128), (160, 192, 160)
    stages = len(features)
    residual_blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)
    if tiny:
        features, residual_blocks, stages, small, large = (4, 8, 8), (1, 2, 1), 3, (16, 16, 16), (24, 24, 24)
    plain = Architecture(
        family="umamba_bot",
        features=features,
        kernels=((3, 3, 3),) * stages,
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        encoder_blocks=(2,) * stages,
        decoder_blocks=(2,) * (stages - 1),
    )
    residual = replace(
        plain, family="residual_encoder", encoder_blocks=residual_blocks, decoder_blocks=(1,) * (stages - 1)
    )
    return [
        Kind("ResEnc M", ("M1", "M2"), residual, small),
        Kind("ResEnc L and XL", ("L1", "L2", "XL1", "XL2"), residual, large),
        Kind("U-Mamba-Bot", ("U1",), plain, small),
    ]


class Clock:
    """Seconds left; says what it has to leave out."""

    def __init__(self, budget_s: float) -> None:
        self._end = time.perf_counter() + budget_s

    def has(self, needed_s: float, what: str) -> bool:
        """Whether that many seconds are left."""
        left = self._end - time.perf_counter()
        if left < needed_s:
            print(f"left out, {left:.0f} s are left: {what}", flush=True)
        return left >= needed_s


class Bench:
    """One device, one synthetic case to time and another to check, and the results so far."""

    def __init__(self, tiny: bool, budget_s: float) -> None:
        self.tiny, self.clock = tiny, Clock(budget_s)
        self.device = torch.device("cpu" if tiny else "cuda:0")
        self.kinds = kinds(tiny)
        shape = (20, 26, 20) if tiny else (140, 170, 140)
        self.timed_case, self.checked_case = synthetic_case(shape, 1), synthetic_case(shape, 2)
        self.crops: dict[int, Tensor] = {}  # what nnU-Net cuts into windows itself
        self.results: dict[str, Any] = {"crop_shape": shape, "windows_per_batch": BATCH, "steps": {}}

    def tiling(self, kind: Kind, image: np.ndarray) -> Tiling:
        """The windows of a kind over a case."""
        tiling = tile(image, range(4), kind.patch, "exact", self.device)
        self.crops[id(tiling)] = torch.from_numpy(image)
        return tiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with tiny networks; records nothing")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds after which no stage begins")
    arguments = parser.parse_args()
    if arguments.tiny:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        raise SystemExit("no GPU; --tiny tries the script on a CPU")
    bench = Bench(arguments.tiny, arguments.budget)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for stage in (ceilings, ladder, profile, whole_case, mamba_block, compiled):
        try:
            stage(bench)
        except Exception:  # noqa: BLE001 - time on a device is scarce: the other stages' numbers are wanted all the same
            traceback.print_exc()
            bench.results.setdefault("failed", []).append(stage.__name__)
        save(bench)
    missed = [*bench.results.get("failed", []), *verdict(bench)]
    save(bench)
    if not arguments.tiny:
        record("gpu_predictor", bench.results, ("numpy", "torch", "triton"))
    raise SystemExit(1 if missed else 0)


def save(bench: Bench) -> None:
    """What there is so far, for whoever ends this script early."""
    if folder := os.environ.get("OUT"):
        (Path(folder) / "gpu_predictor.json").write_text(json.dumps(bench.results, indent=2) + "\n", encoding="utf-8")


def ceilings(bench: Bench) -> None:
    """What this device does at best: a copy, counting what is read and written, and dense matrix products."""
    size, length = (256, 2**20) if bench.tiny else (8192, 2**30)
    source = torch.randint(0, 255, (length,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bandwidth = 2 * length / seconds(lambda: target.copy_(source), bench.device, 5) / 1e12
    found: dict[str, Any] = {"copy_tb_s": round(bandwidth, 3)}
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
        rate = 2 * size**3 / seconds(partial(torch.matmul, a, b), bench.device, 5) / 1e12
        found[f"{str(dtype).removeprefix('torch.')}_tflop_s"] = round(rate, 3)
    if not bench.tiny:
        found |= {"device": torch.cuda.get_device_name(0), "cudnn": torch.backends.cudnn.version()}
        found["cuda"] = torch.version.cuda
    bench.results["ceilings"] = found
    print(f"ceilings: {found}", flush=True)


def ladder(bench: Bench) -> None:
    """Every step on every kind of member: seconds for one case, and distance from float32."""
    for kind in bench.kinds:
        if not bench.clock.has(RESERVED_S + 60, f"ladder of {kind.name}"):
            return
        bench.results.setdefault("tflop_per_window", {})[kind.name] = tflop_per_window(kind)
        climb(bench, kind)
    print(f"\n{'seven members, s per case':32} predicted   measured", flush=True)
    for name, step in bench.results["steps"].items():
        if len(step) == len(bench.kinds):
            low, high = PREDICTED[name]
            total = sum(len(kind.codes) * step[kind.name]["s"] for kind in bench.kinds)
            print(f"{name:32} {low:.2f}–{high:.2f}   {total:.3f}", flush=True)


def climb(bench: Bench, kind: Kind) -> None:
    """The ladder for one kind; a step that fails is told and the next one tried."""
    network = random_network(kind, seed=0).to(bench.device)
    timed, checked = bench.tiling(kind, bench.timed_case), bench.tiling(kind, bench.checked_case)
    with torch.inference_mode():
        truth = blend(checked, network, heads=HEADS, windows_per_batch=1).cpu()
    bar = float("inf")
    print(f"\n{kind.name}: {len(timed.windows)} windows of {kind.patch}", flush=True)
    for name, autotuned, make in steps(bench, kind):
        if not bench.clock.has(RESERVED_S + 20, f"{name} of {kind.name}"):
            return
        try:
            with cudnn(autotuned), torch.inference_mode():
                row = measured(make(network), timed, checked, truth, bench.device)
        except Exception as error:  # noqa: BLE001 - as above
            print(f"  {name:32} failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)
            continue
        finally:
            release(bench.device)
        if name in HALVES_OF_OTHERS:
            bar = min(bar, BAR * row["relative_error"])
        row |= {"bar": bar, "within_bar": name == "bfloat16" or row["relative_error"] <= bar}
        bench.results["steps"].setdefault(name, {})[kind.name] = row
        print(f"  {name:32} {row['s']:.4f} s  {told(row)}", flush=True)


def measured(run: "Run", timed: Tiling, checked: Tiling, truth: Tensor, device: torch.device) -> dict[str, Any]:
    return {**compared(run(checked), truth), "s": seconds(lambda: run(timed), device, REPEATS)}


def told(row: dict[str, Any]) -> str:
    error, agree = row["relative_error"], row["argmax_agreement"]
    return f"error {error:.1e}, max {row['max_abs']:.1e}, labels {agree:.5f}{'' if row['within_bar'] else '  TOO FAR'}"


Run = Callable[[Tiling], Tensor]
Step = tuple[str, bool, Callable[[nn.Module], Run]]


def steps(bench: Bench, kind: Kind) -> Iterator[Step]:
    """Name, whether cuDNN looks for the fastest algorithm, and how to get from a network to logits of a tiling."""
    half, device = torch.float16, bench.device
    yield "nnUNetPredictor", True, partial(nnunet_run, bench, kind)
    yield "autocast, one window", True, lambda network: under_autocast(network, device, 1)
    yield "batches of 4", True, lambda network: under_autocast(network, device)
    yield "no idle biases", True, lambda network: under_autocast(without_biases(network), device)
    yield "channels last, stock norms", True, lambda network: blended(stock_form(network, half))
    yield "fused norms", True, lambda network: blended(our_form(network, half))
    if not bench.tiny:
        yield "CUDA graphs", True, lambda network: graphed(network, half)
        yield "as shipped, no autotuning", False, lambda network: graphed(network, half)
        yield "bfloat16", True, lambda network: graphed(network, torch.bfloat16)


def blended(forward: Callable[[Tensor], Tensor], batch: int = BATCH) -> Run:
    return lambda tiling: blend(tiling, forward, heads=HEADS, windows_per_batch=batch)


def under_autocast(network: nn.Module, device: torch.device, batch: int = BATCH) -> Run:
    """Around all windows of a case, as in nnU-Net, so that weights are converted once for it."""

    def run(tiling: Tiling) -> Tensor:
        with torch.autocast(device.type, torch.float16):
            return blended(network, batch)(tiling)

    return run


def without_biases(network: nn.Module) -> nn.Module:
    """A copy without the biases that the norm behind takes away."""
    changed = copy.deepcopy(network)
    for layer in changed.modules():
        if hasattr(layer, "conv") and hasattr(layer, "norm"):
            layer.conv.bias = None
    return changed


def stock_form(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Half-precision weights with channels last, and torch's own norms."""
    changed = without_biases(network)
    for layer in changed.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d | nn.InstanceNorm3d):
            layer.to(dtype)
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return GpuForm(changed, dtype)


def our_form(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    return GpuForm(with_fused_norms(copy.deepcopy(network), dtype), dtype)


def graphed(network: nn.Module, dtype: torch.dtype) -> Run:
    """Our form from graphs; what the last replay left is spoiled, so that no run passes with another's logits."""
    pool = GraphPool()
    run = blended(GpuForm(Graphed(with_fused_norms(copy.deepcopy(network), dtype), pool), dtype))

    def spoiled(tiling: Tiling) -> Tensor:
        run(tiling)
        if not pool._recordings:
            raise RuntimeError("nothing was recorded; see the warning")
        for recording in pool._recordings.values():
            recording.logits.fill_(torch.nan)
        return run(tiling)

    first = iter([spoiled])
    return lambda tiling: next(first, run)(tiling)


def nnunet_run(bench: Bench, kind: Kind, network: nn.Module) -> Run:
    """nnU-Net's own loop; it uploads the crop and downloads its logits each time, as it always does."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    theirs = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=not bench.tiny, device=bench.device, allow_tqdm=False
    )
    manager = PlansManager(nnunet.plans(kind.patch))
    configuration = manager.get_configuration("3d_fullres")
    weights = [network.state_dict()]
    theirs.manual_initialization(network, manager, configuration, weights, nnunet.dataset(), "nnUNetTrainer", None)

    def run(tiling: Tiling) -> Tensor:
        logits: Tensor = theirs.predict_logits_from_preprocessed_data(bench.crops[id(tiling)])
        return logits

    return run


def compared(logits: Tensor, truth: Tensor) -> dict[str, Any]:
    """Distance of logits (heads, z, y, x) from those of float32."""
    found = logits.float().cpu()
    if not torch.isfinite(found).all():
        raise RuntimeError("logits are not finite")
    distance = torch.linalg.vector_norm(found - truth) / torch.linalg.vector_norm(truth)
    agreement = (found.argmax(0) == truth.argmax(0)).float().mean()
    return {
        "relative_error": float(distance),
        "max_abs": float((found - truth).abs().max()),
        "argmax_agreement": float(agreement),
    }


def profile(bench: Bench) -> None:
    """Time on the device by what it is spent on, before and after, for each kind."""
    if bench.tiny or not bench.clock.has(60, "profile"):
        return
    for kind in bench.kinds:
        network, tiling = random_network(kind, seed=0).to(bench.device), bench.tiling(kind, bench.timed_case)
        forms = {"autocast, one window": under_autocast(network, bench.device, 1)}
        forms["as shipped"] = graphed(network, torch.float16)
        for name, run in forms.items():
            with torch.inference_mode(), cudnn(autotuned=False):
                run(tiling)
                shares = device_seconds(partial(run, tiling))
            bench.results.setdefault("profile", {}).setdefault(kind.name, {})[name] = shares
            print(f"profile of {kind.name}, {name}: {shares}", flush=True)
        del network, forms, run
        release(bench.device)


_CLASSES = {
    "norm": ("batch_norm", "bn_fw", "instance_norm", "_moments", "_merge", "_apply", "welford", "native_norm"),
    "copy and convert": ("nchwtonhwc", "nhwctonchw", "transpose", "memcpy", "memset", "copy", "catarray"),
    "convolution": ("conv", "xmma", "gemm", "wgrad", "dgrad", "cutlass", "cudnn", "implicit", "sm90", "sm80"),
    "pointwise": ("elementwise", "leaky", "pool", "reduce"),
}


def device_seconds(function: Callable[[], object]) -> dict[str, float]:
    """Seconds of kernels by class, told by their names, and their sum."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CUDA]) as done:
        function()
        torch.cuda.synchronize()
    spent = dict.fromkeys([*_CLASSES, "other"], 0.0)
    for event in done.key_averages():
        name = event.key.lower()
        owner = next((kind for kind, words in _CLASSES.items() if any(word in name for word in words)), "other")
        spent[owner] += event.self_device_time_total / 1e6
    return {name: round(value, 5) for name, value in {**spent, "sum": sum(spent.values())}.items()}


def whole_case(bench: Bench) -> None:
    """All seven members resident in our own predictor: a preprocessed crop in, labels out."""
    if not bench.clock.has(60, "whole case"):
        return
    by_code = {code: kind for kind in bench.kinds for code in kind.codes}
    members = tuple(member(code, kind) for code, kind in by_code.items())
    networks = {code: random_network(kind, seed) for seed, (code, kind) in enumerate(by_code.items())}
    forms.load_network = lambda one: networks.pop(one.code)
    precision = "bfloat16" if bench.tiny else "float16"
    settings = PredictorSettings(device=str(bench.device), precision=precision, windows_per_batch=BATCH)
    ours = Predictor(Ensemble("benchmark", members, "0" * 64), settings)
    image = bench.timed_case
    volumes = {members[0].preprocessing: Preprocessed(image, image.shape[1:], (1.0, 1.0, 1.0))}
    wall_s = seconds(lambda: ours.predict(volumes), bench.device, REPEATS)
    row: dict[str, Any] = {"wall_s": wall_s, "member_s": ours.predict(volumes).member_seconds}
    if not bench.tiny:
        row["gpu"] = device_seconds(lambda: ours.predict(volumes))
        row["device_peak_gb"] = round((ours.device_peak_bytes or 0) / 1e9, 2)
    bench.results["whole_case"] = row
    low, high = PREDICTED["whole case"]
    print(f"\nwhole case, seven members resident: predicted {low}–{high} s, measured {wall_s:.3f} s; {row}", flush=True)


def mamba_block(bench: Bench) -> None:
    """U-Mamba's block alone: its scan is a loop over tokens, a launch or two for each."""
    channels = 8 if bench.tiny else 320
    torch.manual_seed(0)
    mamba = Mamba(channels, scan_backend="torch").eval().to(bench.device)
    for tokens, batch in ((64, 1), (64, BATCH), (150, 1), (150, BATCH)):
        features = torch.randn(batch, tokens, channels, device=bench.device)
        runs = {"eager": mamba} if bench.tiny else {"eager": mamba, "graph": Graphed(mamba, GraphPool())}
        with torch.inference_mode():
            spent = {name: 1e3 * seconds(partial(run, features), bench.device, REPEATS) for name, run in runs.items()}
        bench.results.setdefault("mamba_block_ms", {})[f"{tokens} tokens, batch of {batch}"] = spent
        print(
            f"Mamba block, {tokens} tokens × {batch}: predicted {PREDICTED_MAMBA_MS} ms, measured {spent}", flush=True
        )


def compiled(bench: Bench) -> None:
    """What `torch.compile` makes of the first kind, beside the same network under autocast."""
    if not bench.clock.has(20 if bench.tiny else 150, "compiled"):
        return
    kind = bench.kinds[0]
    network = random_network(kind, seed=0).to(bench.device)
    timed, checked = bench.tiling(kind, bench.timed_case), bench.tiling(kind, bench.checked_case)
    with torch.inference_mode(), cudnn(autotuned=True):
        truth = blend(checked, network, heads=HEADS, windows_per_batch=1).cpu()
        plain = measured(under_autocast(network, bench.device), timed, checked, truth, bench.device)
        started = time.perf_counter()
        fast = torch.compile(without_biases(network), dynamic=False)
        row = measured(under_autocast(fast, bench.device), timed, checked, truth, bench.device)
    row |= {"seconds_to_compile_and_measure": time.perf_counter() - started, "times_autocast": plain["s"] / row["s"]}
    bench.results["compiled"] = {kind.name: row}
    low, high = PREDICTED_COMPILED
    print(f"compiled {kind.name}: predicted {low}–{high} times as fast as autocast, measured {row}", flush=True)


def verdict(bench: Bench) -> list[str]:
    """The numbers that the targets are about, and which are missed."""
    steps_done, ours = bench.results["steps"], "fused norms" if bench.tiny else "as shipped, no autotuning"
    totals = {
        name: sum(len(kind.codes) * step[kind.name]["s"] for kind in bench.kinds)
        for name, step in steps_done.items()
        if len(step) == len(bench.kinds)
    }
    found: dict[str, float | None] = dict.fromkeys(TARGETS)
    if ours in totals:
        found["gpu_s_per_case"] = bench.results.get("whole_case", {}).get("gpu", {"sum": totals[ours]})["sum"]
        tflop = sum(
            len(kind.codes)
            * bench.results["tflop_per_window"][kind.name]
            * len(bench.tiling(kind, bench.timed_case).windows)
            for kind in bench.kinds
        )
        if peak := bench.results.get("ceilings", {}).get("float16_tflop_s"):
            found["share_of_peak"] = tflop / totals[ours] / peak
        bench.results["achieved_tflop_s"] = tflop / totals[ours]
        if "nnUNetPredictor" in totals:
            found["times_nnunet"] = totals["nnUNetPredictor"] / totals[ours]
    bench.results |= {"totals": totals, "found": found, "targets": TARGETS, "predicted": PREDICTED}
    too_far = [
        f"{name} of {kind}: error above the bar"
        for name, step in steps_done.items()
        for kind, row in step.items()
        if not row["within_bar"]
    ]
    slow = (
        []
        if bench.tiny
        else [f"{name}: {found[name]}, wanted {TARGETS[name]}" for name in TARGETS if missed(found, name)]
    )
    print(f"\nfound {found}, wanted {TARGETS}; missed: {[*too_far, *slow] or 'nothing'}", flush=True)
    return [*too_far, *slow]


def missed(found: dict[str, float | None], name: str) -> bool:
    value = found[name]
    if value is None:
        return True
    return value > TARGETS[name] if name == "gpu_s_per_case" else value < TARGETS[name]


def member(code: str, kind: Kind) -> Member:
    """A member of an ensemble whose weights lie in no file."""
    spec = Preprocessing((1.0, 1.0, 1.0), ("ZScoreNormalization",) * 4, (True,) * 4, (0, 1, 2))
    source = Source(
        dataset="none",
        training_cases=1,
        plans="none",
        fold="all",
        epoch=1,
        checkpoint="none",
        checkpoint_sha256="0" * 64,
    )
    card = MemberCard(
        code=code,
        trainer="nnUNetTrainer",
        configuration="3d_fullres",
        architecture=kind.architecture,
        preprocessing=spec,
        patch_size=kind.patch,
        channels=MODALITIES,
        labels=LabelScheme("labels", ("background", "NETC", "SNFH", "ET")),
        mirroring_axes=(),
        parameters=1,
        source=source,
    )
    return Member(code, card, Path("none"), "0" * 64, "0" * 64)


def random_network(kind: Kind, seed: int) -> nn.Module:
    """nnU-Net's start values, and biases and affine parameters that a mistake with them would show by."""
    torch.manual_seed(seed)
    network = build_network(
        kind.architecture, 4, HEADS
    ).eval()  # autocast keeps converted weights only if they require gradients
    initialize_weights(network)
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d | nn.InstanceNorm3d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)
        if isinstance(layer, nn.InstanceNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return network


def synthetic_case(shape: Triple, seed: int) -> np.ndarray:
    """Four noisy channels (4, z, y, x) inside an ellipsoid, zero around it."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    image: np.ndarray = np.where(inside, random.standard_normal((4, *shape), dtype=np.float32), np.float32(0))
    return image


def tflop_per_window(kind: Kind) -> float:
    with torch.device("meta"):
        network = build_network(kind.architecture, 4, HEADS).eval()
        window = torch.empty(1, 4, *kind.patch)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(window)
    return float(counter.get_total_flops() / 1e12)


def seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall time of a call, the device idle before and after it; one call to warm up."""
    function()
    spent = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        function()
        synchronize(device)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def cudnn(autotuned: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms, as nnU-Net has it, or takes a deterministic one, as our predictor has it."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = autotuned, not autotuned
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before


if __name__ == "__main__":
    main()
