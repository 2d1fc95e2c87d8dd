import itertools
import logging
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from goat_ray.errors import CaseError, Category, DeviceLostError
from goat_ray.members import forms, predictor
from goat_ray.members.merge import canonical_probabilities
from goat_ray.members.networks import build_network
from goat_ray.members.predictor import Predictor, PredictorSettings
from goat_ray.members.preprocess import Preprocessed
from goat_ray.members.recovery import HOST, Ladder, Rung
from tests.members.test_predictor import ARCHITECTURE, ONE_MM, PATCH, SIGMOID, SOFTMAX, SPEC, ensemble, member

GPU = torch.device("cuda:0")
# To torch the host by another name: a device that has a host to retreat to, on any machine.
PRETENDED = torch.device("cpu:0")
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"


class Windowed(nn.Module):
    """Elementwise, so that no bit depends on the size of a batch; out of memory above `most` windows."""

    def __init__(self, most=64):
        super().__init__()
        self.most, self.batches = most, []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError(FULL)
        return x * torch.linspace(-4, 4, x[0, 0].numel()).reshape(x.shape[2:])


@pytest.fixture
def volumes():
    image = np.random.default_rng(7).normal(size=(4, 37, 30, 33)).astype(np.float32)
    return {SPEC: Preprocessed(image, image.shape[1:], ONE_MM)}


@pytest.fixture
def predictor_of(monkeypatch):
    """A predictor of members with the given networks, named A, B, …"""

    def made(*networks, patches=(PATCH,) * 3, **settings):
        codes = dict(zip("ABC", networks, strict=False))
        monkeypatch.setattr(forms, "load_network", lambda one: codes[one.code])
        members = [member(code, Path("none"), patch=patch) for code, patch in zip(codes, patches, strict=False)]
        defaults = {"decode": "argmax", "keep_probabilities": True, "windows_per_batch": 1}
        return Predictor(ensemble(*members), PredictorSettings(**{**defaults, **settings}))

    return made


def assert_equal(prediction, expected):
    np.testing.assert_array_equal(prediction.labels, expected.labels)
    np.testing.assert_array_equal(prediction.probabilities, expected.probabilities)
    assert prediction.confidence == expected.confidence
    assert prediction.agreement == expected.agreement


def down_from(rung):
    while rung is not None:
        yield rung.windows_per_batch, rung.canvas
        rung = rung.below()


def test_batches_are_halved_before_the_canvas_leaves_the_device():
    assert list(down_from(Rung(5, GPU))) == [(5, GPU), (2, GPU), (1, GPU), (1, HOST)]


def test_a_canvas_on_the_host_has_nowhere_to_go():
    assert list(down_from(Rung(2, HOST))) == [(2, HOST), (1, HOST)]


def test_each_step_down_is_logged_and_the_last_one_remembered(caplog):
    ladder, tried = Ladder("member A", Rung(4, GPU)), []

    def work(rung):
        tried.append(rung)
        if rung.canvas == GPU:
            raise torch.OutOfMemoryError(FULL)
        return "done"

    with caplog.at_level(logging.WARNING, "goat_ray.members"):
        assert ladder.run(work) == "done"
        assert ladder.run(work) == "done"
    assert tried == [Rung(4, GPU), Rung(2, GPU), Rung(1, GPU), Rung(1, HOST), Rung(1, HOST)]
    assert [record.getMessage() for record in caplog.records] == [
        "member A ran out of memory; trying batches of 2 and the canvas on cuda:0",
        "member A ran out of memory; trying batches of 1 and the canvas on cuda:0",
        "member A ran out of memory; trying batches of 1 and the canvas on cpu",
    ]


def test_what_can_be_done_without_is_given_up_before_each_step_down():
    events = []

    def work(rung):
        events.append(rung.windows_per_batch)
        if rung.windows_per_batch > 1:
            raise torch.OutOfMemoryError(FULL)

    Ladder("member A", Rung(4, GPU), lambda: events.append("room")).run(work)
    assert events == [4, "room", 2, "room", 1]


def test_a_case_too_large_for_every_rung_does_not_slow_the_next():
    def full(_):
        raise torch.OutOfMemoryError(FULL)

    ladder = Ladder("member A", Rung(2, GPU))
    with pytest.raises(CaseError) as caught:
        ladder.run(full)
    assert caught.value.category == Category.OUT_OF_MEMORY
    tried = "batches of 2 and the canvas on cuda:0, then batches of 1 and the canvas on cuda:0, then batches of 1 and"
    told = f"member A ran out of memory with {tried} the canvas on cpu: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert caught.value.message == told
    assert ladder.run(lambda rung: rung) == Rung(2, GPU)


def test_what_a_failed_try_held_is_free_before_the_next():
    held = []

    def work(rung):
        if held:
            return held[0]() is None
        logits = torch.zeros(8)
        held.append(weakref.ref(logits))
        raise torch.OutOfMemoryError(FULL)

    assert Ladder("member A", Rung(2, HOST)).run(work)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(FULL),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_a_failed_allocation_is_tried_again_whoever_reports_it(error):
    errors = [error]

    def work(rung):
        if errors:
            raise errors.pop()
        return rung

    assert Ladder("member A", Rung(2, HOST)).run(work) == Rung(1, HOST)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: the launch timed out and was terminated",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "Triton Error [CUDA]: an illegal memory access was encountered",
    ],
)
def test_an_error_that_outlives_the_case_loses_the_device(predictor_of, volumes, text):
    class Fatal(nn.Module):
        def forward(self, x):
            raise RuntimeError(f"{text}\nFor debugging consider CUDA_LAUNCH_BLOCKING=1")

    with pytest.raises(DeviceLostError) as caught:
        predictor_of(Windowed(), Fatal()).predict(volumes)
    assert str(caught.value) == f"member B lost the device: {text}"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="torch before 2.8 has no type for it")
def test_an_accelerator_error_loses_the_device_unless_memory_ran_out():
    def work(text):
        raise torch.AcceleratorError(text)

    with pytest.raises(DeviceLostError, match="member A lost the device: anything"):
        Ladder("member A", Rung(1, HOST)).run(lambda _: work("anything"))
    with pytest.raises(CaseError, match="member A ran out of memory"):
        Ladder("member A", Rung(1, HOST)).run(lambda _: work("CUDA error: out of memory"))


@pytest.mark.parametrize(
    "text",
    [
        "The size of tensor a (3) must match the size of tensor b (4)",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if the input is not contiguous",
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`",
    ],
)
def test_an_ordinary_error_fails_the_case_at_once(text):
    errors = [RuntimeError(text)]
    with pytest.raises(CaseError, match="member A failed: ") as caught:
        Ladder("member A", Rung(4, GPU)).run(lambda _: (_ for _ in ()).throw(errors.pop()))
    assert caught.value.category == Category.MODEL_FAILED


@pytest.mark.parametrize("blending", ["exact", "nnunet"])
@pytest.mark.parametrize("most", [1, 2])
def test_smaller_batches_change_nothing_and_are_remembered(predictor_of, volumes, most, blending):
    expected = predictor_of(Windowed(), windows_per_batch=4, blending=blending).predict(volumes)
    network = Windowed(most)
    limited = predictor_of(network, windows_per_batch=4, blending=blending)
    assert_equal(limited.predict(volumes), expected)
    assert max(network.batches) > most
    network.batches.clear()
    assert_equal(limited.predict(volumes), expected)
    assert max(network.batches) == most


def test_a_real_network_in_smaller_batches_gives_the_same_labels(predictor_of, volumes, monkeypatch):
    """Not the same bits: the fastest kernel for a single window rounds differently."""
    torch.manual_seed(5)
    network = build_network(ARCHITECTURE, 4, 4).eval()
    expected = predictor_of(network, windows_per_batch=4).predict(volumes)
    real = network.forward

    def forward(x):
        if len(x) > 1:
            raise torch.OutOfMemoryError(FULL)
        return real(x)

    monkeypatch.setattr(network, "forward", forward)
    prediction = predictor_of(network, windows_per_batch=4).predict(volumes)
    np.testing.assert_array_equal(prediction.labels, expected.labels)
    np.testing.assert_allclose(prediction.probabilities, expected.probabilities, rtol=0, atol=1e-5)
    assert len(np.unique(expected.labels)) > 1


def test_a_member_without_memory_for_one_window_is_named(predictor_of, volumes):
    with pytest.raises(
        CaseError, match=r"member B ran out of memory with batches of 2 .*, then batches of 1 "
    ) as caught:
        predictor_of(Windowed(), Windowed(most=0), windows_per_batch=2).predict(volumes)
    assert caught.value.category == Category.OUT_OF_MEMORY


def full_once(real):
    """A call that runs out of memory the first time."""
    calls = itertools.count()

    def call(*args, **kwargs):
        if next(calls) == 0:
            raise torch.OutOfMemoryError(FULL)
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("blending", ["exact", "nnunet"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (predictor, "tile"),
        (torch.Tensor, "new_zeros"),
        (predictor, "_check_finite"),
        (predictor, "canonical_probabilities"),
        (predictor, "decode"),
        (torch.Tensor, "div_"),
    ],
)
def test_a_canvas_that_moved_to_the_host_gives_the_same_bits(
    predictor_of, volumes, monkeypatch, caplog, owner, name, blending
):
    expected = predictor_of(Windowed(), device="cpu:0", blending=blending).predict(volumes)
    moved = predictor_of(Windowed(), device="cpu:0", blending=blending)
    monkeypatch.setattr(owner, name, full_once(getattr(owner, name)))
    assert_equal(moved.predict(volumes), expected)
    assert [record.args[1] for record in caplog.records] == [Rung(1, HOST)]


def test_members_on_the_device_and_on_the_host_are_summed_in_their_order(predictor_of, volumes, monkeypatch):
    patches = (PATCH, (20, 30, 24), PATCH)
    expected = predictor_of(*(Windowed() for _ in patches), patches=patches, device="cpu:0").predict(volumes)
    canvases, real = [], predictor.tile

    def tile(image, channels, patch, recipe, device):
        canvases.append((patch, device))
        if patch == patches[1] and device == PRETENDED:
            raise torch.OutOfMemoryError(FULL)
        return real(image, channels, patch, recipe, device)

    monkeypatch.setattr(predictor, "tile", tile)
    mixed = predictor_of(*(Windowed() for _ in patches), patches=patches, device="cpu:0")
    assert_equal(mixed.predict(volumes), expected)
    assert canvases == [*zip(patches[:2], [PRETENDED] * 2, strict=True), (patches[1], HOST), (patches[2], PRETENDED)]
    canvases.clear()
    assert_equal(mixed.predict(volumes), expected)
    assert canvases == list(zip(patches, [PRETENDED, HOST, PRETENDED], strict=True))


def test_the_decoder_moves_to_the_host_before_it_gives_up(predictor_of, volumes, monkeypatch):
    expected = predictor_of(Windowed(), device="cpu:0").predict(volumes)
    real = predictor.confidence
    monkeypatch.setattr(predictor, "confidence", full_once(real))
    assert_equal(predictor_of(Windowed(), device="cpu:0").predict(volumes), expected)
    monkeypatch.setattr(predictor, "confidence", full_once(real))
    with pytest.raises(CaseError, match="the decoder ran out of memory"):
        predictor_of(Windowed(), device="cpu").predict(volumes)


@pytest.mark.parametrize("scheme", [SOFTMAX, SIGMOID])
def test_pieces_of_a_canvas_are_put_together_in_place(monkeypatch, scheme):
    logits = torch.randn(len(scheme.channels), 9, 8, 7)[:, 1:, :, 2:]
    monkeypatch.setattr(predictor, "_PIECE_VOXELS", 48)
    done = predictor._by_pieces(logits, scheme, HOST)
    torch.testing.assert_close(done, canonical_probabilities(logits, scheme), rtol=0, atol=1e-6)
