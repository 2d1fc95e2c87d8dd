import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goat_ray import labels
from goat_ray.labels import LabelScheme
from goat_ray.members.merge import canonical_probabilities, confidence, decode, quantised_regions

LABELS = LabelScheme("labels", ("background", "NETC", "SNFH", "ET"))
REGIONS = LabelScheme("regions", ("WT", "TC", "ET"))
RULES = ("majority", "argmax", "regions")


def voxels(*probabilities):
    """Voxels along x with these class probabilities each."""
    return torch.tensor(probabilities, dtype=torch.float32).T[:, None, None]


@pytest.mark.parametrize(
    ("probabilities", "majority", "argmax"),
    [
        ((0.10, 0.45, 0.05, 0.40), 0, 1),
        ((0.5, 0.5, 0, 0), 0, 0),
        ((0.49, 0.51, 0, 0), 1, 1),
        ((0.25, 0.25, 0.25, 0.25), 0, 0),
        ((0.3, 0.2, 0.1, 0.4), 0, 3),
        ((0.5, 0, 0, 0.5), 0, 0),
        ((0, 0.34, 0.33, 0.33), 0, 1),
    ],
)
def test_golden_decode_vectors(probabilities, majority, argmax):
    """Recorded from the winning entry's own decoder."""
    assert decode(voxels(probabilities), "majority").item() == majority
    assert decode(voxels(probabilities), "argmax").item() == argmax


@pytest.mark.parametrize(
    ("probabilities", "label"),
    [
        ((0.4, 0.2, 0.2, 0.2), 2),  # tumour, but no core: oedema
        ((0.1, 0.45, 0.05, 0.40), 1),  # core is likely, enhancement is not
        ((0.1, 0.2, 0.1, 0.6), 3),
        ((0.5, 0.5, 0, 0), 0),
        ((0.0, 0.5, 0.5, 0), 2),
        ((0.6, 0.1, 0.1, 0.2), 0),
    ],
)
def test_regions_rule_nests_the_regions(probabilities, label):
    assert decode(voxels(probabilities), "regions").item() == label


distributions = st.lists(st.integers(0, 8), min_size=4, max_size=4).filter(any)


@settings(deadline=None)
@given(st.lists(distributions, min_size=1, max_size=20))
def test_rules_agree_with_plain_numpy(counts):
    p = (np.array(counts) / np.sum(counts, 1, keepdims=True)).astype(np.float32)
    majority, regions = np.zeros(len(p), int), np.zeros(len(p), int)
    for label in range(4):
        majority[p[:, label] > 0.5] = label
    for label, region in ((2, 1 - p[:, 0]), (1, p[:, 1] + p[:, 3]), (3, p[:, 3])):
        regions[region > 0.5] = label
    expected = {"majority": majority, "argmax": p.argmax(1), "regions": regions}
    for rule in RULES:
        labels = decode(voxels(*p.tolist()), rule)
        assert labels.dtype == torch.uint8
        np.testing.assert_array_equal(labels[0, 0].numpy(), expected[rule])


def test_heads_are_reordered_by_name():
    logits = torch.randn(4, 3, 3, 3)
    order = ("ET", "background", "SNFH", "NETC")
    shuffled = torch.stack([logits[LABELS.channels.index(name)] for name in order])
    expected = torch.softmax(logits, 0)
    torch.testing.assert_close(canonical_probabilities(shuffled, LabelScheme("labels", order)), expected)
    torch.testing.assert_close(canonical_probabilities(logits, LABELS), expected, rtol=0, atol=0)


@pytest.mark.parametrize("order", [("WT", "TC", "ET"), ("ET", "WT", "TC")])
def test_regions_decode_as_nnunet_paints_them(order):
    logits = torch.randn(3, 16, 16, 16, generator=torch.Generator().manual_seed(1)).half()
    heads = torch.sigmoid(logits.float())
    painted = torch.zeros(16, 16, 16, dtype=torch.uint8)
    for name, label in (("WT", 2), ("TC", 1), ("ET", 3)):
        painted[heads[order.index(name)] > 0.5] = label
    probabilities = canonical_probabilities(logits, LabelScheme("regions", order))
    assert torch.equal(decode(probabilities, "regions"), painted)


def test_regions_become_a_distribution_over_classes():
    wt, tc, et = 0.6, 0.7, 0.2  # the core is likelier than the tumour around it: raised to it
    logits = torch.logit(torch.tensor([wt, tc, et]))[:, None, None, None]
    probabilities = canonical_probabilities(logits, REGIONS)[:, 0, 0, 0]
    torch.testing.assert_close(probabilities, torch.tensor([0.3, 0.5, 0.0, 0.2]))


def test_confidence_is_the_mean_inside_what_was_found():
    probabilities = voxels((0.1, 0.2, 0.1, 0.6), (0, 0.3, 0.1, 0.6), (0.2, 0.6, 0.1, 0.1), (0.9, 0.1, 0, 0))
    labels = decode(probabilities, "majority")
    scores = confidence(probabilities, labels)
    assert labels.flatten().tolist() == [3, 3, 1, 0]
    p = probabilities[:, 0, 0, :3].double()
    assert scores["ET"] == pytest.approx(0.6, abs=1e-6)
    assert scores["TC"] == pytest.approx((0.8 + 0.9 + 0.7) / 3, abs=1e-6)
    assert scores["WT"] == pytest.approx((0.9 + 1.0 + 0.8) / 3, abs=1e-6)
    assert scores["entropy"] == pytest.approx(-torch.xlogy(p, p).sum().item() / 3, abs=1e-6)
    assert scores["margin"] == pytest.approx((0.4 + 0.3 + 0.4) / 3, abs=1e-6)


def test_confidence_is_absent_where_nothing_was_found():
    empty = voxels((1, 0, 0, 0))
    assert confidence(empty, decode(empty, "majority")) == dict.fromkeys((*labels.REGIONS, "entropy", "margin"))
    oedema = voxels((0, 0, 1, 0))
    assert confidence(oedema, decode(oedema, "majority")) == {
        "ET": None,
        "NETC": None,
        "SNFH": 1,
        "TC": None,
        "WT": 1,
        "entropy": 0,
        "margin": 1,
    }


def test_region_probabilities_are_kept_to_half_a_step_of_1_in_255():
    p = torch.softmax(torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(2)) * 4, dim=0)
    quantised = quantised_regions(p)
    assert (quantised.shape, quantised.dtype) == ((3, 5, 6, 7), torch.uint8)
    for found, expected in zip(quantised, (p[3], p[1] + p[3], 1 - p[0]), strict=True):
        torch.testing.assert_close(found / 255, expected, rtol=0, atol=1 / 510 + 1e-6)


def test_region_probabilities_that_rounding_put_outside_0_to_1_do_not_wrap_around():
    assert quantised_regions(voxels((1.01, 0.6, -0.6, 0.42))).flatten().tolist() == [107, 255, 0]
