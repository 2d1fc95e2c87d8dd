"""The built-in specs, parameter by parameter, and how a spec is found or read from a file."""

import pytest

from goat_ray.errors import CaseError, Category, ConfigError
from goat_ray.metrics.specs import BY_COHORT, COHORT_SPECS, SPECS, RegionPolicy, Spec, find_policy

GOAT_LABELS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)}
PED_LABELS = {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NETC": (2,), "CC": (3,), "ED": (4,)}

# Dilation, mm³ up to which reference lesions and voxels up to which predicted ones are dropped, tissues that join.
PARAMETERS = {
    "brats2023-gli": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (3, 50, None, ())),
    "brats2023-ssa": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (3, 50, None, ())),
    "brats2023-ped": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (3, 50, None, ())),
    "brats2023-men": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (1, 50, None, ())),
    "brats2023-met": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (1, 2, None, ())),
    "goat2025-gli": {
        "WT": (3, 20, 20, ()),
        "TC": (3, 20, 20, ()),
        "NETC": (5, 20, 20, ("ET", "RC")),
        "SNFH": (3, 20, 20, ("ET", "RC", "NETC")),
        "ET": (3, 10, 10, ("NETC", "RC")),
        "RC": (5, 20, 20, ("ET", "NETC")),
    },
    "goat2025-men": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (1, 50, None, ())),
    "goat2025-met": {
        "WT": (1, 2, 2, ()),
        "TC": (1, 2, 2, ()),
        "ET": (1, 2, 2, ("NETC",)),
        "RC": (1, 2, 2, ()),
        "NETC": (1, 2, 2, ()),
        "SNFH": (1, 2, 2, ()),
    },
    "goat2025-ped": dict.fromkeys(("WT", "TC", "ET", "NETC", "CC", "ED"), (5, 10, 10, ())),
    "goat2025-ssa": {
        "WT": (3, 50, 50, ()),
        "TC": (3, 50, 50, ()),
        "ET": (3, 50, 50, ("NETC",)),
        "NETC": (3, 50, 50, ()),
        "SNFH": (3, 50, 50, ()),
    },
    "brats2026-goat": dict.fromkeys(("WT", "TC", "ET", "NETC", "SNFH"), (0, 0, None, ())),
}

# HD95 of a missed lesion and of a missing case, whether whole-volume scores were on ids, whether NSD is official.
PENALTIES = {
    "brats2023-gli": (374, 374, False, False),
    "brats2023-ssa": (374, 374, False, False),
    "brats2023-ped": (374, 374, False, False),
    "brats2023-men": (374, 374, False, False),
    "brats2023-met": (374, 374, False, False),
    "goat2025-gli": (337, 374, True, True),
    "goat2025-men": (374, 374, False, True),
    "goat2025-met": ("diagonal", 374, True, True),
    "goat2025-ped": (374, 374, True, True),
    "goat2025-ssa": (374, 374, True, True),
    "brats2026-goat": (373, 373, False, False),
}

OFFICIAL = {
    "goat2025-gli": ("WT", "TC", "NETC", "SNFH", "ET", "RC"),
    "goat2025-met": ("WT", "TC", "ET", "RC"),
    "goat2025-ped": ("WT", "TC", "ET", "NETC", "CC", "ED"),
}

OWN = """
name: mine
matching: lesionwise
hd95_penalty: diagonal
missing_penalty: 400
max_label: 5
regions:
  cyst: {labels: [5], dilation_vox: 2, min_volume_mm3: 8, min_pred_vox: 4, join: [rim]}
  rim: {labels: [3, 4], official: false}
"""


@pytest.fixture
def yaml_spec(tmp_path):
    """Reads a spec from a file with this text."""

    def read(text, suffix=".yaml"):
        path = tmp_path / f"spec{suffix}"
        path.write_text(text)
        return find_policy(str(path)).spec

    return read


# --- the built-in ones


def test_every_built_in_spec_is_checked():
    assert SPECS.keys() == PARAMETERS.keys() == PENALTIES.keys()
    assert all(name == spec.name for name, spec in SPECS.items())


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_has_the_organisers_parameters_for_each_region(name):
    found = {
        region: (policy.dilation_vox, policy.min_volume_mm3, policy.min_pred_vox, policy.join)
        for region, policy in SPECS[name].regions.items()
    }
    assert found == PARAMETERS[name]


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_has_the_organisers_penalties(name):
    spec = SPECS[name]
    found = spec.hd95_penalty, spec.missing_penalty, spec.legacy_on_ids, spec.official_nsd
    assert found == PENALTIES[name]


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_scores_the_organisers_regions_in_their_order_and_more_besides(name):
    spec = SPECS[name]
    assert spec.official_regions == OFFICIAL.get(name, ("WT", "TC", "ET"))
    assert tuple(spec.regions)[: len(spec.official_regions)] == spec.official_regions
    assert {"NETC"} <= spec.regions.keys()


@pytest.mark.parametrize("name", SPECS)
def test_only_ped_reads_labels_in_another_way_and_says_so(name):
    labels = PED_LABELS if name == "goat2025-ped" else GOAT_LABELS
    spec = SPECS[name]
    assert {region: policy.labels for region, policy in spec.regions.items()} == {r: labels[r] for r in spec.regions}
    assert (spec.warning is not None) == (name == "goat2025-ped")


def test_only_2026_matches_one_to_one_and_refuses_label_4():
    strict = {name for name, spec in SPECS.items() if spec.matching == "one-to-one"}
    assert strict == {name for name, spec in SPECS.items() if spec.max_label == 3} == {"brats2026-goat"}
    assert {spec.max_label for name, spec in SPECS.items() if name not in strict} == {4}


def test_the_diagonal_is_in_voxels_of_the_image():
    assert SPECS["goat2025-met"].penalty_mm((240, 240, 155)) == pytest.approx(373.1286640)
    assert SPECS["goat2025-met"].penalty_mm((2, 3, 6)) == 7
    assert SPECS["goat2025-gli"].penalty_mm((2, 3, 6)) == 337


# --- finding one


@pytest.mark.parametrize("name", SPECS)
def test_a_built_in_name_is_one_spec_for_every_cohort(name):
    policy = find_policy(name)
    assert policy.name == name
    assert policy.specs == (SPECS[name],)
    assert {policy.spec_of(cohort).name for cohort in (None, "", "GLI", "anything")} == {name}
    assert policy.fingerprint() == {name: SPECS[name].sha256}


@pytest.mark.parametrize("cohort", ["GLI", "MEN", "MET", "PED", "SSA"])
def test_goat2025_goes_by_cohort_however_it_is_written(cohort):
    policy = find_policy(BY_COHORT)
    expected = SPECS[f"goat2025-{cohort.lower()}"]
    assert {policy.spec_of(way).name for way in (cohort, cohort.lower(), cohort.title())} == {expected.name}


def test_goat2025_may_use_every_one_of_its_specs():
    policy = find_policy(BY_COHORT)
    names = {name for name in SPECS if name.startswith("goat2025-")}
    assert {spec.name for spec in policy.specs} == {spec.name for spec in COHORT_SPECS.values()} == names
    assert policy.fingerprint() == {name: SPECS[name].sha256 for name in names}


@pytest.mark.parametrize(("cohort", "told"), [("LGG", "LGG"), (None, "not known"), ("", "not known")])
def test_a_cohort_that_goat2025_does_not_know_is_a_fault_of_the_case(cohort, told):
    with pytest.raises(CaseError, match=f"cohort is {told}.*GLI, MEN, MET, PED, SSA") as caught:
        find_policy(BY_COHORT).spec_of(cohort)
    assert caught.value.category is Category.UNKNOWN_COHORT
    assert "--sites" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("brats2023gli", "brats2023-gli"),
        ("BraTS2023-MET", "brats2023-met"),
        ("goat-2025", "goat2025"),
        ("goat2025-meningioma", "goat2025-men"),
        ("brats2026", "brats2026-goat"),
    ],
)
def test_an_unknown_spec_names_the_nearest(name, meant):
    with pytest.raises(ConfigError, match=rf"'{name}' is not known; is {meant} meant\?"):
        find_policy(name)


def test_a_spec_like_none_is_answered_with_all_there_are():
    with pytest.raises(ConfigError) as caught:
        find_policy("xyz")
    assert "meant" not in str(caught.value)
    assert all(name in str(caught.value) for name in (BY_COHORT, *SPECS))


# --- files


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_file_may_hold_a_whole_spec(yaml_spec, suffix):
    spec = yaml_spec(OWN, suffix)
    assert spec == Spec(
        name="mine",
        hd95_penalty="diagonal",
        missing_penalty=400,
        max_label=5,
        regions={
            "cyst": RegionPolicy(labels=(5,), dilation_vox=2, min_volume_mm3=8, min_pred_vox=4, join=("rim",)),
            "rim": RegionPolicy(labels=(3, 4), official=False),
        },
    )
    assert spec.official_regions == ("cyst",)


def test_what_a_file_leaves_out_is_as_in_2023(yaml_spec):
    spec = yaml_spec("{name: mine, regions: {ET: {labels: [3]}}}")
    theirs = SPECS["brats2023-gli"]
    assert spec.regions == {"ET": theirs.regions["ET"]}
    assert spec.model_dump(exclude={"name", "regions"}) == theirs.model_dump(exclude={"name", "regions"})


def test_a_file_with_a_base_changes_only_what_it_names(yaml_spec):
    spec = yaml_spec("{name: mine, base: goat2025-ssa, hd95_penalty: 99, regions: {ET: {dilation_vox: 7}}}")
    base = SPECS["goat2025-ssa"]
    assert spec.hd95_penalty == 99
    assert spec.regions["ET"] == base.regions["ET"].model_copy(update={"dilation_vox": 7})
    assert spec.model_copy(update={"name": base.name, "hd95_penalty": 374.0, "regions": base.regions}) == base
    assert list(spec.regions) == list(base.regions)


def test_a_file_may_relabel_a_base_and_drops_its_warning(yaml_spec):
    spec = yaml_spec(
        "{name: mine, base: goat2025-ped, regions: {ET: {labels: [3]}, NETC: {labels: [1]}, TC: {labels: [1, 3]}}}"
    )
    assert spec.warning is None
    assert {region: spec.regions[region].labels for region in ("ET", "NETC", "TC", "CC")} == {
        "ET": (3,),
        "NETC": (1,),
        "TC": (1, 3),
        "CC": (3,),
    }
    assert spec.regions["ET"].dilation_vox == 5


def test_a_file_may_warn_for_itself(yaml_spec):
    assert yaml_spec("{name: mine, base: goat2025-ped, warning: of another kind}").warning == "of another kind"


def test_a_region_that_the_base_lacks_is_added_if_it_has_labels(yaml_spec):
    spec = yaml_spec("{name: mine, base: brats2023-men, regions: {RC: {labels: [4]}}}")
    assert list(spec.regions) == ["WT", "TC", "ET", "NETC", "SNFH", "RC"]
    assert spec.regions["RC"] == RegionPolicy(labels=(4,))
    with pytest.raises(ConfigError, match=r"regions\.RC\.labels: field required"):
        yaml_spec("{name: mine, base: brats2023-men, regions: {RC: {dilation_vox: 2}}}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{name: a, regions: {ET: {labels: [3]}}, hd95_penality: 3}", "unknown key, did you mean 'hd95_penalty'"),
        ("{name: a, base: brats2023-gli, mathcing: one-to-one}", "unknown key, did you mean 'matching'"),
        (
            "{name: a, regions: {ET: {labels: [3], dilation: 3}}}",
            r"regions\.ET\.dilation: unknown key, did you mean 'dilation_vox'",
        ),
        ("{name: a, base: brats2023-gli, regions: {ET: {dilation_vox: 17}}}", "less than or equal to 16"),
        ("{name: a, base: brats2022, hd95_penalty: 1}", "'brats2022' is none of brats2023-gli"),
        ("{name: a, base: goat2025}", "'goat2025' is none of"),
        ("{base: brats2023-gli, hd95_penalty: 1}", "a name of its own"),
        ("{name: goat2025-gli, base: brats2023-gli}", "a name of its own"),
        ("{name: a, base: brats2023-gli, regions: [ET]}", "regions must be a mapping"),
        ("{name: a, base: brats2023-gli, regions: {ET: 3}}", "regions must be a mapping"),
        ("{name: a, regions: [ET]}", "regions"),
        ("{name: a}", "regions: dictionary should have at least 1 item"),
        ("{name: a, regions: {}}", "regions: dictionary should have at least 1 item"),
        ("{name: goat2025, regions: {ET: {labels: [3]}}}", "a name of its own"),
        ("{name: brats2023-gli, regions: {ET: {labels: [3]}}}", "a name of its own"),
        ("{name: [a], base: brats2023-gli}", "name: input should be a valid string"),
        ("{name: a, base: [brats2023-gli]}", "is none of brats2023-gli"),
        ("{name: a, regions: {ET: {labels: []}}}", r"regions\.ET\.labels: tuple should have at least 1 item"),
        ("{name: a, regions: {ET: {labels: [0]}}}", "greater than or equal to 1"),
        ("{name: a, regions: {ET: {labels: [900]}}}", "less than or equal to 255"),
        ("{name: a, regions: {ET: {labels: [5]}}}", "region ET has label 5, above max_label 4"),
        ("{name: a, regions: {ET: {labels: [3], join: [NETC]}}}", "region ET joins NETC, which the spec does not have"),
        ("{name: a, base: brats2023-gli, hd95_penalty: -1}", "greater than or equal to 0"),
        ("{name: a, base: brats2023-gli, missing_penalty: .nan}", "finite number"),
        ("{name: a, base: brats2023-gli, hd95_penalty: diagonally}", "'diagonal'"),
        ("[brats2023-gli]", "expected a mapping"),
        ("{name: a", "cannot be read as YAML"),
    ],
)
def test_a_faulty_file_is_told_with_its_name_and_fault(yaml_spec, text, complaint):
    with pytest.raises(ConfigError, match=rf"spec\.yaml.*{complaint}"):
        yaml_spec(text)


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        find_policy("nowhere.yaml")


# --- hashes


CHANGES = {
    "name": "other",
    "matching": "one-to-one",
    "hd95_penalty": 373.0,
    "missing_penalty": 373.0,
    "max_label": 3,
    "legacy_on_ids": True,
    "official_nsd": True,
    "warning": "careful",
    "regions": {},
}
REGION_CHANGES = {
    "labels": (1, 3),
    "dilation_vox": 4,
    "min_volume_mm3": 51.0,
    "min_pred_vox": 50,
    "join": ("NETC",),
    "official": False,
}


def test_every_parameter_is_tried_for_the_hash():
    assert CHANGES.keys() == Spec.model_fields.keys()
    assert REGION_CHANGES.keys() == RegionPolicy.model_fields.keys()


@pytest.mark.parametrize("parameter", CHANGES)
def test_the_hash_changes_with_every_parameter(parameter):
    spec = SPECS["brats2023-gli"]
    assert spec.model_copy(update={parameter: CHANGES[parameter]}).sha256 != spec.sha256


@pytest.mark.parametrize("parameter", REGION_CHANGES)
def test_the_hash_changes_with_every_parameter_of_a_region(parameter):
    spec = SPECS["brats2023-gli"]
    changed = spec.regions["ET"].model_copy(update={parameter: REGION_CHANGES[parameter]})
    assert spec.model_copy(update={"regions": {**spec.regions, "ET": changed}}).sha256 != spec.sha256


def test_hashes_of_equal_specs_are_equal_and_of_built_in_ones_all_different(yaml_spec):
    assert yaml_spec(OWN).sha256 == yaml_spec(OWN, ".yml").sha256
    assert len({spec.sha256 for spec in SPECS.values()}) == len(SPECS)
    assert all(len(spec.sha256) == 64 for spec in SPECS.values())


def test_the_order_in_which_regions_are_written_does_not_change_the_hash():
    spec = SPECS["goat2025-gli"]
    backwards = spec.model_copy(update={"regions": dict(reversed(spec.regions.items()))})
    assert backwards.sha256 == spec.sha256
