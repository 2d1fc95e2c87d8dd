import json

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from goat_ray.errors import EnsembleError
from goat_ray.labels import LabelScheme, label_scheme, modality_of, region_mask

REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}


def scheme_of(labels, **dataset):
    return label_scheme({"labels": labels, **dataset})


@pytest.mark.parametrize(
    ("name", "modality"),
    [("T1ce", "t1c"), ("t1gd", "t1c"), ("T1", "t1n"), ("T1w", "t1n"), ("FLAIR", "t2f"), ("T2", "t2w"), ("CT", None)],
)
def test_channel_names_of_published_models_are_known(name, modality):
    assert modality_of(name) == modality


def test_the_tumour_core_is_made_of_netc_and_et():
    assert region_mask(np.array([0, 1, 2, 3], np.uint8), "TC").tolist() == [False, True, False, True]


def test_label_heads_come_in_the_order_of_their_integers():
    labels = {"ED": 2, "ET": 3, "NCR": 1, "background": 0}
    assert scheme_of(labels) == LabelScheme("labels", ("background", "NETC", "SNFH", "ET"))


def test_label_names_are_normalised_but_their_order_is_the_networks():
    labels = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}
    assert scheme_of(labels) == LabelScheme("labels", ("background", "SNFH", "NETC", "ET"))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Peritumoural oedema", "SNFH"),
        ("NCR/NET", "NETC"),
        ("necrotic tumour core", "NETC"),
        ("AT", "ET"),
        ("ENHANCING_TUMOUR", "ET"),
        ("resection cavity", "RC"),
        ("cyst", "cyst"),
    ],
)
def test_spellings_of_a_label(spelling, name):
    assert scheme_of({"background": 0, spelling: 1}).channels == ("background", name)


def test_region_heads_come_in_the_order_of_the_keys_whatever_nnunet_paints_first():
    scheme = scheme_of(REGIONS, regions_class_order=[2, 1, 3])
    assert scheme == LabelScheme("regions", ("WT", "TC", "ET"))
    assert scheme.problem() is None


def test_a_list_of_one_integer_is_a_plain_label():
    assert scheme_of({"background": 0, "NETC": [1], "SNFH": [2], "ET": [3]}).kind == "labels"


def test_the_ignore_label_has_no_head():
    assert scheme_of({"background": 0, "ET": 1, "ignore": 2}).channels == ("background", "ET")
    assert scheme_of({**REGIONS, "ignore": 4}).channels == ("WT", "TC", "ET")


def test_a_label_may_be_named_by_the_user():
    labels = {"background": 0, "NETC": 1, "SNFH": 2, "active part": 3}
    assert label_scheme({"labels": labels}, {"active part": "ET"}).problem() is None


def test_naming_a_label_that_is_not_there_lists_those_that_are():
    with pytest.raises(EnsembleError, match=r"no label core .* background, whole tumor"):
        label_scheme({"labels": REGIONS}, {"core": "TC"})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({**REGIONS, "RC": 4}, "unknown: RC"),
        ({"background": 0, "NETC": 1, "SNFH": 2}, "missing: ET"),
        ({"background": 0, "NCR": 1, "necrosis": 2, "ED": 3, "ET": 4}, "repeated: NETC"),
        ({"background": 0, "WT": 1, "TC": 2, "ET": 3}, "unknown: WT, TC; missing: NETC, SNFH"),
    ],
)
def test_a_scheme_that_cannot_be_merged_says_why(labels, told):
    assert told in scheme_of(labels).problem()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, "'labels' is missing"),
        ({}, "'labels' is missing"),
        ({"0": "background", "1": "edema"}, "label '0' is 'background'"),
        ({"background": 0, "ET": []}, r"label 'ET' is \[\]"),
        ({"background": 0, "ET": True}, "label 'ET' is True"),
        ({"background": 0, "NETC": 1, "ET": 4}, "without gaps|0, 1, 2"),
        ({"background": 0, "NETC": 1, "ET": 1}, "once each"),
        ({"background": 0, "WT": [1, 2], "TC": [1, 3], "ET": 3}, "TC is .* to be a part of WT"),
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 2], "ET": 3}, "ET is .* to be a part of TC"),
    ],
)
def test_a_dataset_file_that_makes_no_sense_is_refused(labels, told):
    with pytest.raises(EnsembleError, match=told):
        scheme_of(labels)


@pytest.mark.real_data
def test_every_published_dataset_file_has_the_heads_nnunet_gives_it(data_root):
    files = sorted((data_root / "plans").rglob("dataset.json"))
    assert len(files) >= 13
    for path in files:
        dataset = json.loads(path.read_text())
        scheme, reference = label_scheme(dataset), LabelManager(dataset["labels"], dataset.get("regions_class_order"))
        assert len(scheme.channels) == reference.num_segmentation_heads, path
        assert (scheme.kind == "regions") == reference.has_regions, path
        has_cavity = "RC" in scheme.channels
        assert has_cavity == (4 in reference.all_labels), path
        assert (scheme.problem() is None) != has_cavity, path
