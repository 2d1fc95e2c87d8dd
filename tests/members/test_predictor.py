import itertools
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from goat_ray.errors import CaseError, Category, EnsembleError
from goat_ray.labels import MODALITIES, LabelScheme
from goat_ray.members import forms, predictor
from goat_ray.members.agreement import agreement, bit_sets
from goat_ray.members.cards import MemberCard, Source
from goat_ray.members.ensemble import Ensemble, Member
from goat_ray.members.gpu_form import GpuForm
from goat_ray.members.graphs import Graphed, GraphPool
from goat_ray.members.plans import Architecture, Preprocessing
from goat_ray.members.predictor import Predictor, PredictorSettings
from goat_ray.members.preprocess import preprocess
from goat_ray.members.weights import canonical_weights, save_weights
from tests.members import nnunet_reference as nnunet

ARCHITECTURE = Architecture(
    *("plain_conv", (4, 8, 16), ((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 2)), (1, 1, 1), (1, 1))
)
SPEC = Preprocessing((1.0, 1.0, 1.0), ("ZScoreNormalization",) * 4, (True,) * 4, (0, 1, 2))
SOFTMAX = LabelScheme("labels", ("background", "NETC", "SNFH", "ET"))
SIGMOID = LabelScheme("regions", ("WT", "TC", "ET"))
PATCH = (24, 28, 20)
ONE_MM = (1.0, 1.0, 1.0)


def member(code, weights, *, scheme=SOFTMAX, channels=MODALITIES, patch=PATCH, spec=SPEC, weight=1.0, axes=()):
    """A member around any weights file."""
    source = Source(
        dataset="d", training_cases=4, plans="p", fold="all", epoch=1, checkpoint="c", checkpoint_sha256="0" * 64
    )
    card = MemberCard(
        code=code,
        trainer="nnUNetTrainer",
        configuration="3d_fullres",
        architecture=ARCHITECTURE,
        preprocessing=spec,
        patch_size=patch,
        channels=channels,
        labels=scheme,
        mirroring_axes=axes,
        parameters=1,
        source=source,
    )
    return Member(code, card, weights, "0" * 64, "0" * 64, weight)


def ensemble(*members):
    return Ensemble("test", members, "0" * 64)


def case(images, spacing_mm=ONE_MM, spec=SPEC):
    """What the pipeline hands over for images (c, z, y, x): the preprocessed brain box, and the box."""
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    crop, outside, box = crop_to_nonzero(images)
    volume = preprocess(crop, outside[0] == 0, spacing_mm, spec)
    return {spec: volume}, tuple(slice(*bounds) for bounds in box)


def predict(members, images, spacing_mm=ONE_MM, **settings):
    """The prediction for images (c, z, y, x), and the labels on the whole grid."""
    volumes, box = case(images, spacing_mm, members[0].preprocessing)
    chosen = PredictorSettings(**{"threads": 1, "windows_per_batch": 1, "keep_probabilities": True, **settings})
    prediction = Predictor(ensemble(*members), chosen).predict(volumes)
    labels = np.zeros(images.shape[1:], np.uint8)
    labels[box] = prediction.labels
    return prediction, labels, box


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Bits depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=["labels", "regions"])
def fitted(request, tmp_path_factory):
    """A fitted network, the labels it was trained on, and the same as a stored member's arguments."""
    labels = nnunet.LABELS if request.param == "labels" else nnunet.REGIONS
    network = nnunet.fitted(labels)
    path = tmp_path_factory.mktemp(request.param) / "weights.safetensors"
    save_weights(canonical_weights(network.state_dict(), network), path)
    return SimpleNamespace(
        network=network,
        labels=labels,
        weights=path,
        scheme=SOFTMAX if request.param == "labels" else SIGMOID,
        rule="argmax" if request.param == "labels" else "regions",
    )


@pytest.fixture(scope="session")
def softmax_weights(tmp_path_factory):
    network = nnunet.fitted()
    path = tmp_path_factory.mktemp("softmax") / "weights.safetensors"
    save_weights(canonical_weights(network.state_dict(), network), path)
    return path


def assert_parity(fitted, images, spacing_mm=ONE_MM, mirroring_axes=None, on_device=False, spec=SPEC, patch=PATCH):
    plans = nnunet.plans(patch, spacing=spec.spacing_mm, transpose=spec.transpose)
    expected, heads = nnunet.predicted(
        fitted.network,
        images,
        spacing_mm,
        plans,
        labels=fitted.labels,
        mirroring_axes=mirroring_axes,
        on_device=on_device,
    )
    ours = member("A", fitted.weights, scheme=fitted.scheme, spec=spec, axes=mirroring_axes or (), patch=patch)
    settings = {"decode": fitted.rule, "mirroring": mirroring_axes is not None}
    prediction, labels, box = predict([ours], images, spacing_mm, blending="nnunet", **settings)
    p = torch.from_numpy(prediction.probabilities)
    if fitted.scheme is SOFTMAX:
        np.testing.assert_allclose(p, heads[(slice(None), *box)], rtol=0, atol=1e-6)
    assert np.count_nonzero(expected) > 100
    assert np.count_nonzero(labels != expected) == 0
    exact, exact_labels, _ = predict([ours], images, spacing_mm, blending="exact", **settings)
    batched, _, _ = predict([ours], images, spacing_mm, windows_per_batch=4, blending="exact", **settings)
    np.testing.assert_array_equal(batched.labels, exact.labels)
    return expected, exact_labels


@pytest.mark.parametrize(
    ("mirroring_axes", "on_device"), [(None, False), (None, True), ((0, 1, 2), False), ((0, 2), True)]
)
def test_labels_are_those_of_nnunet(fitted, mirroring_axes, on_device, record_property):
    images, _ = nnunet.head_scan(11)
    expected, exact = assert_parity(fitted, images, mirroring_axes=mirroring_axes, on_device=on_device)
    differing = int(np.count_nonzero(exact != expected))
    record_property("voxels_that_differ_between_the_recipes", differing)
    assert differing < 0.005 * np.count_nonzero(expected)


def test_labels_are_those_of_nnunet_where_the_patch_is_larger_than_the_brain(fitted):
    images, _ = nnunet.head_scan(12, (30, 30, 30))
    assert_parity(fitted, images, patch=(36, 24, 44))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_labels_are_those_of_nnunet_after_resampling(fitted, transpose):
    images, _ = nnunet.head_scan(13)
    spec = Preprocessing(SPEC.spacing_mm, SPEC.normalization, SPEC.use_mask, transpose)
    assert_parity(fitted, images, spacing_mm=(0.9, 1.1, 1.0), spec=spec)


@pytest.mark.real_data
def test_labels_are_those_of_nnunet_on_a_real_case(fitted, data_root, record_property):
    folder = data_root / "cohort" / "BraTS-GLI-01481-000"
    volumes = [np.asarray(nibabel.load(folder / f"{folder.name}-{name}.nii.gz").dataobj).T for name in MODALITIES]
    images = np.stack(volumes)[:, 60:110, 80:150, 70:130].astype(np.float32)
    expected, exact = assert_parity(fitted, images, patch=(40, 48, 32))
    record_property("voxels_that_differ_between_the_recipes", int(np.count_nonzero(exact != expected)))


def test_a_member_reads_its_own_channel_order_and_heads(softmax_weights, tmp_path):
    """Permuting a network's inputs and heads in its weights, and saying so, changes nothing."""
    from goat_ray.members.weights import load_weights

    images, _ = nnunet.head_scan(14)
    order, heads = (2, 0, 3, 1), (3, 1, 0, 2)
    weights = load_weights(softmax_weights)
    first, *last = "encoder.stages.0.0.convs.0.conv.weight", "seg_layers.1.weight", "seg_layers.1.bias"
    weights[first] = weights[first][:, list(order)]
    for name in last:
        weights[f"decoder.{name}"] = weights[f"decoder.{name}"][list(heads)]
    save_weights(weights, tmp_path / "permuted.safetensors")
    permuted = member(
        "P",
        tmp_path / "permuted.safetensors",
        channels=tuple(MODALITIES[channel] for channel in order),
        scheme=LabelScheme("labels", tuple(SOFTMAX.channels[head] for head in heads)),
    )
    plain, _, _ = predict([member("A", softmax_weights)], images)
    other, _, _ = predict([permuted], images)
    np.testing.assert_allclose(other.probabilities, plain.probabilities, rtol=0, atol=1e-4)


def test_members_are_averaged_with_their_weights_in_order(softmax_weights):
    images, _ = nnunet.head_scan(15)
    patches = (PATCH, (32, 32, 32), (20, 20, 36))
    members = [member(f"M{i}", softmax_weights, patch=patch) for i, patch in enumerate(patches)]
    alone = [predict([one], images)[0].probabilities for one in members]
    merged, _, _ = predict(members, images)
    np.testing.assert_array_equal(merged.probabilities, alone[0] / 3 + alone[1] / 3 + alone[2] / 3)
    assert list(merged.member_seconds) == ["M0", "M1", "M2"]
    assert all(seconds > 0 for seconds in merged.member_seconds.values())
    weighted = [member("A", softmax_weights, weight=3.0), member("B", softmax_weights, patch=patches[1])]
    weighted_p = predict(weighted, images)[0].probabilities
    np.testing.assert_allclose(weighted_p, 0.75 * alone[0] + 0.25 * alone[1], atol=1e-6)


def test_members_agree_as_far_as_what_each_says_alone_does(softmax_weights):
    """Whatever their weights, and by the same rule as the merged result."""
    images, _ = nnunet.head_scan(15)
    members = [member("A", softmax_weights, weight=3.0), member("B", softmax_weights, patch=(20, 20, 36))]
    for rule in ("majority", "argmax", "regions"):
        merged, _, _ = predict(members, images, decode=rule)
        alone = [predict([one], images, decode=rule)[0] for one in members]
        assert merged.agreement == agreement(bit_sets(prediction.labels) for prediction in alone)
        assert 0.5 < merged.agreement["WT"]["member_dice_min"] < 1


def test_windows_are_laid_once_for_members_of_one_patch_size(softmax_weights, monkeypatch):
    images, _ = nnunet.head_scan(15)
    patches = []
    real = predictor.tile
    monkeypatch.setattr(predictor, "tile", lambda *args: patches.append(args[2]) or real(*args))
    predict([member(f"M{i}", softmax_weights, patch=patch) for i, patch in enumerate([PATCH, (32,) * 3] * 2)], images)
    assert patches == [PATCH, (32, 32, 32)]


def test_the_result_is_in_the_crop_and_says_how_sure_it_is(softmax_weights):
    images, truth = nnunet.head_scan(16)
    members = [member("A", softmax_weights)]
    prediction, labels, box = predict(members, images, decode="majority")
    assert prediction.labels.dtype == np.uint8
    assert prediction.labels.shape == truth[box].shape
    found, tumour = labels > 0, truth > 0
    assert (found & tumour).sum() > 0.95 * found.sum()
    assert found.sum() > 0.5 * tumour.sum()
    assert all(0.5 < prediction.confidence[region] <= 1 for region in ("ET", "TC", "WT"))
    assert 0 < prediction.confidence["entropy"] < np.log(4)
    volumes, _ = case(images)
    assert Predictor(ensemble(*members), PredictorSettings()).predict(volumes).probabilities is None


def test_only_a_gpu_has_memory_whose_peak_is_known(softmax_weights, monkeypatch):
    worker = Predictor(ensemble(member("A", softmax_weights)), PredictorSettings())
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: {torch.device("cuda:0"): 5}[device])
    assert worker.device_peak_bytes is None
    monkeypatch.setattr(worker, "_device", torch.device("cuda:0"))
    assert worker.device_peak_bytes == 5


@pytest.mark.parametrize("cut", [("A", "BC"), ("AB", "C"), ("A", "B", "C")])
def test_a_divided_ensemble_gives_the_same_bits(softmax_weights, cut):
    orders = itertools.permutations(MODALITIES)
    members = [
        member(code, softmax_weights, channels=next(orders), patch=patch, weight=weight)
        for code, patch, weight in (("A", PATCH, 1.0), ("B", (20, 20, 20), 0.3), ("C", (16, 28, 24), 2.5))
    ]
    images, _ = nnunet.head_scan(16)
    volumes, _ = case(images)
    settings = PredictorSettings(threads=1, windows_per_batch=1, keep_probabilities=True)
    whole = Predictor(ensemble(*members), settings).predict(volumes)
    *first, last = [Predictor(ensemble(*members), settings, held=tuple(codes)) for codes in cut]
    so_far = None
    for part in first:
        so_far = part.add(volumes, so_far)
        so_far.merged.setflags(write=False)  # as it comes out of an object store
    divided = last.predict(volumes, so_far)
    np.testing.assert_array_equal(divided.labels, whole.labels)
    assert divided.probabilities.tobytes() == whole.probabilities.tobytes()
    assert (divided.confidence, divided.agreement) == (whole.confidence, whole.agreement)
    assert list(divided.member_seconds) == ["A", "B", "C"]


def test_mirroring_flips_over_the_members_own_axes_only(monkeypatch, softmax_weights):
    class Counting(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return torch.zeros(len(x), 4, *x.shape[2:])

    images, _ = nnunet.head_scan(17)
    monkeypatch.setattr(forms, "load_network", lambda _: Counting())
    for axes, forwards in (((), 1), ((0,), 2), ((0, 2), 4), ((0, 1, 2), 8)):
        calls = []
        predict([member("A", softmax_weights, axes=axes, patch=(48,) * 3)], images, mirroring=True)
        assert len(calls) == forwards


class Broken(nn.Module):
    """Fails, or returns nonsense in three voxels, when it is called for the second time."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.calls = fault, itertools.count()

    def forward(self, x):
        logits = torch.zeros(len(x), 4, *x.shape[2:])
        if next(self.calls) != 1:
            return logits
        if isinstance(self.fault, Exception):
            raise self.fault
        logits[:, 2, 5:8, 10, 10] = self.fault
        return logits


@pytest.mark.parametrize(
    ("fault", "category", "told"),
    [
        (float("inf"), Category.NON_FINITE_OUTPUT, "in 3 of "),
        (float("nan"), Category.NON_FINITE_OUTPUT, "in 3 of "),
        (torch.OutOfMemoryError("CUDA out of memory"), Category.OUT_OF_MEMORY, "CUDA out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't"), Category.OUT_OF_MEMORY, "memory"),
        (MemoryError(), Category.OUT_OF_MEMORY, "MemoryError"),
        (RuntimeError("size mismatch\ntrace"), Category.MODEL_FAILED, "size mismatch"),
    ],
)
def test_one_broken_member_fails_the_case_and_is_named(monkeypatch, softmax_weights, fault, category, told):
    images, _ = nnunet.head_scan(18, (24, 44, 24))
    healthy, broken = forms.load_network(member("A", softmax_weights)), Broken(fault)
    monkeypatch.setattr(forms, "load_network", lambda one: healthy if one.code == "A" else broken)
    with pytest.raises(CaseError) as caught:
        predict([member("A", softmax_weights), member("FinetuneM", softmax_weights)], images)
    assert caught.value.category == category
    assert "member FinetuneM" in caught.value.message
    assert told in caught.value.message
    assert "trace" not in caught.value.message
    assert caught.value.hint


def test_an_overflow_of_the_fp16_recipe_is_found(monkeypatch, softmax_weights):
    class Extreme(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 4, *x.shape[2:]), 2e4)

    images, _ = nnunet.head_scan(18)
    monkeypatch.setattr(forms, "load_network", lambda _: Extreme())
    members = [member("A", softmax_weights)]
    with pytest.raises(CaseError, match="member A"):
        predict(members, images, blending="nnunet")
    assert np.isfinite(predict(members, images, blending="exact")[0].probabilities).all()


def test_members_that_cannot_be_used_are_refused_before_any_case(tmp_path, softmax_weights):
    settings = PredictorSettings()
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    with pytest.raises(EnsembleError, match="cannot be read"):
        Predictor(ensemble(member("A", softmax_weights), member("B", tmp_path / "damaged.safetensors")), settings)
    with pytest.raises(EnsembleError, match=r"member B.*channels are t1c, t2w"):
        Predictor(ensemble(member("B", softmax_weights, channels=("t1c", "t2w"))), settings)
    mixed = Preprocessing(SPEC.spacing_mm, SPEC.normalization, (True, False, True, True), SPEC.transpose)
    with pytest.raises(EnsembleError, match="some channels"):
        Predictor(ensemble(member("B", softmax_weights, spec=mixed)), settings)
    with pytest.raises(EnsembleError, match="member A cannot be put on"):
        Predictor(ensemble(member("A", softmax_weights)), PredictorSettings(device="cuda:99"))


def test_bfloat16_stays_close_to_the_full_precision(softmax_weights):
    images, _ = nnunet.head_scan(19)
    members = [member("A", softmax_weights)]
    full, _, _ = predict(members, images)
    half, _, _ = predict(members, images, precision="bfloat16")
    assert half.probabilities.dtype == np.float32
    assert not np.array_equal(half.probabilities, full.probabilities)
    assert np.mean(half.labels != full.labels) < 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("mirroring", [False, True])
def test_half_precision_on_a_gpu_stays_close_to_the_full_one(softmax_weights, precision, mirroring):
    images, _ = nnunet.head_scan(19)
    patches = {"A": PATCH, "B": (32, 32, 32)}
    members = [member(code, softmax_weights, patch=patch, axes=(0, 2)) for code, patch in patches.items()]
    settings = {"mirroring": mirroring, "windows_per_batch": 3}
    full, _, _ = predict(members, images, **settings)
    half, _, _ = predict(members, images, precision=precision, device="cuda:0", **settings)
    again, _, _ = predict(members, images, precision=precision, device="cuda:0", **settings)
    assert not np.array_equal(half.probabilities, full.probabilities)
    assert np.mean(half.labels != full.labels) < 0.01
    np.testing.assert_array_equal(half.probabilities, again.probabilities)


def test_half_precision_beside_a_cpu_runs_in_its_form_from_graphs(softmax_weights):
    """On torch's `meta` device, which computes nothing: that the networks are put together so."""
    settings = PredictorSettings(device="meta", precision="float16")
    worker = Predictor(ensemble(member("A", softmax_weights)), settings)
    form = worker._members[0][1]
    assert isinstance(form, GpuForm)
    assert form.dtype == torch.float16
    assert isinstance(form.network, Graphed)
    full = Predictor(ensemble(member("A", softmax_weights)), PredictorSettings(device="meta"))
    assert isinstance(full._members[0][1], PlainConvUNet)


def test_graphs_are_given_up_where_memory_is_short(softmax_weights, monkeypatch):
    reasons = []
    monkeypatch.setattr(GraphPool, "close", lambda _, reason: reasons.append(reason))
    worker = Predictor(ensemble(member("A", softmax_weights)), PredictorSettings(device="meta", precision="float16"))
    worker._members[0][2]._make_room()
    worker._decoder._make_room()
    assert reasons == ["member A ran out of memory", "the decoder ran out of memory"]


def test_float16_is_refused_on_a_cpu(softmax_weights):
    with pytest.raises(EnsembleError, match="float16 needs a GPU"):
        Predictor(ensemble(member("A", softmax_weights)), PredictorSettings(precision="float16"))
