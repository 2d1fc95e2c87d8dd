import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goat_ray import storage
from goat_ray.cases import PREDICTION, Case, Discovery, discover, discover_pairs, is_safe_id, object_name
from goat_ray.errors import Category, ConfigError, Failure
from goat_ray.labels import MODALITIES

pytest_plugins = ("tests.s3_server",)

OLDER = {"t1ce": "t1c", "t1": "t1n", "flair": "t2f", "t2": "t2w"}
HEADER = "case_id,t1c,t1n,t2f,t2w"


def touch(root: Path, *keys: str) -> None:
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).touch()


def case_files(case_id: str, *endings: str) -> list[str]:
    return [f"{case_id}/{case_id}{ending}" for ending in endings or [f"-{m}.nii.gz" for m in MODALITIES]]


def ids(found: Discovery) -> list[str]:
    return [case.case_id for case in found.cases]


def failure(found: Discovery, case_id: str) -> Failure:
    (failed,) = [failed for failed in found.failures if failed.case_id == case_id]
    assert failed.failure.stage == "discover"
    assert failed.failure.hint
    return failed.failure


# --- case folders


@pytest.mark.parametrize("case_id", ["BraTS-GoAT-00001", "BraTS-GLI-00000-000", "TCGA-FG-6692", "Pat_3.b", "7"])
def test_a_case_folder_becomes_a_case_with_its_id_untouched(tmp_path, case_id):
    touch(tmp_path, *case_files(case_id), f"{case_id}/{case_id}-seg.nii.gz")
    found = discover(str(tmp_path))
    assert ids(found) == [case_id]
    assert found.discovered == 1
    case = found.cases[0]
    assert case.images == {m: f"{tmp_path}/{case_id}/{case_id}-{m}.nii.gz" for m in MODALITIES}
    assert tuple(case.images) == MODALITIES
    assert case.reference == f"{tmp_path}/{case_id}/{case_id}-seg.nii.gz"
    assert case.site is None


def test_cases_are_sorted_and_uncompressed_files_serve_as_well(tmp_path):
    touch(tmp_path, *case_files("b"), *case_files("a", *[f"-{m}.nii" for m in MODALITIES]))
    found = discover(str(tmp_path))
    assert ids(found) == ["a", "b"]
    assert found.cases[0].reference is None


def test_a_challenge_id_names_its_cohort_but_no_site(tmp_path):
    touch(tmp_path, *case_files("BraTS-SSA-00002-000"), *case_files("BraTS-GoAT-00001"), *case_files("TCGA-FG-6692"))
    assert [(case.cohort, case.site) for case in discover(str(tmp_path)).cases] == [
        ("GoAT", None),
        ("SSA", None),
        (None, None),
    ]


def test_a_missing_modality_fails_its_case_alone_and_says_where_it_looked(tmp_path):
    touch(tmp_path, *case_files("good"), *case_files("poor", "-t1c.nii.gz", "-t2w.nii.gz"))
    found = discover(str(tmp_path))
    assert ids(found) == ["good"]
    assert failure(found, "poor").category is Category.MISSING_MODALITY
    assert failure(found, "poor").message == (
        f"t1n and t2f missing in {tmp_path}/poor: looked for poor-t1n.nii.gz, poor-t2f.nii.gz."
    )


def test_files_must_start_with_the_folders_name(tmp_path):
    touch(tmp_path, *case_files("good"), *[f"other/good-{m}.nii.gz" for m in MODALITIES])
    found = discover(str(tmp_path))
    assert ids(found) == ["good"]
    assert failure(found, "other").category is Category.MISSING_MODALITY


def test_two_files_of_one_modality_are_not_chosen_from(tmp_path):
    touch(tmp_path, *case_files("a"), "a/a-t1c.nii")
    assert "t1c is not unique" in failure(discover(str(tmp_path)), "a").message


@pytest.mark.parametrize("case_id", ["with space", "-dash", "ümlaut", "x" * 129])
def test_a_folder_with_an_unsafe_name_is_an_invalid_id(tmp_path, case_id):
    touch(tmp_path, *case_files("good"), *case_files(case_id))
    found = discover(str(tmp_path))
    assert ids(found) == ["good"]
    assert failure(found, case_id).category is Category.INVALID_ID


def test_hidden_and_other_files_are_left_alone(tmp_path):
    touch(tmp_path, *case_files("a"), ".cache/x.nii.gz", "a/._a-t1c.nii.gz", "README.md", "logs/run.txt")
    found = discover(str(tmp_path))
    assert ids(found) == ["a"]
    assert not found.failures


def test_a_folder_of_other_images_is_a_failed_case_and_does_not_vanish(tmp_path):
    touch(tmp_path, *case_files("a"), "b/b-t1c.dcm")
    found = discover(str(tmp_path))
    assert ids(found) == ["a"]
    assert [(failed.case_id, failed.failure.category) for failed in found.failures] == [("b", "missing_modality")]


@pytest.mark.parametrize("mark", ["_", "-"])
def test_older_suffixes_are_accepted_when_they_are_mapped(tmp_path, mark):
    endings = [f"{mark}{suffix}.nii.gz" for suffix in [*OLDER, "seg"]]
    touch(tmp_path, *case_files("Brats18_2013_2_1", *endings))
    (case,) = discover(str(tmp_path), suffixes=OLDER).cases
    assert case.images["t1c"].endswith(f"{mark}t1ce.nii.gz")
    assert case.images["t2w"].endswith(f"{mark}t2.nii.gz")
    assert case.reference is not None


def test_older_suffixes_are_never_guessed_but_the_mapping_is_suggested(tmp_path):
    touch(tmp_path, *case_files("a", *[f"_{suffix}.nii.gz" for suffix in OLDER]))
    with pytest.raises(ConfigError, match="holds no case") as caught:
        discover(str(tmp_path))
    assert "suffixes {flair: t2f, t1: t1n, t1ce: t1c, t2: t2w}" in str(caught.value)


def test_a_mapping_to_something_else_is_refused(tmp_path):
    touch(tmp_path, *case_files("a"))
    with pytest.raises(ConfigError, match="'adc' is none of t1c, t1n, t2f, t2w"):
        discover(str(tmp_path), suffixes={"dwi": "adc"})


# --- nnU-Net raw


def raw_files(folder: str, case_id: str, count: int = 4) -> list[str]:
    return [f"{folder}{case_id}_{index:04d}.nii.gz" for index in range(count)]


@pytest.mark.parametrize("folder", ["", "imagesTs/", "imagesTr/"])
def test_nnunet_raw_images_are_taken_in_the_order_given(tmp_path, folder):
    touch(tmp_path, *raw_files(folder, "case_7"), *raw_files(folder, "b", 3))
    found = discover(str(tmp_path), channels=("T1", "T1ce", "T2", "FLAIR"))
    (case,) = found.cases
    assert case.case_id == "case_7"
    assert [case.images[m][-11:-7] for m in MODALITIES] == ["0001", "0000", "0003", "0002"]
    assert failure(found, "b").message.startswith("t2f missing in")
    assert failure(found, "b").message.endswith("looked for b_0003.nii.gz.")


def test_labels_beside_nnunet_raw_images_are_references(tmp_path):
    touch(tmp_path, *raw_files("imagesTr/", "a"), *raw_files("imagesTs/", "b"), "labelsTr/a.nii.gz", "dataset.json")
    a, b = discover(str(tmp_path), channels=MODALITIES).cases
    assert a.reference == f"{tmp_path}/labelsTr/a.nii.gz"
    assert b.reference is None


def test_a_case_in_both_image_folders_is_a_duplicate(tmp_path):
    touch(tmp_path, *raw_files("imagesTr/", "a"), *raw_files("imagesTs/", "a"))
    assert failure(discover(str(tmp_path), channels=MODALITIES), "a").category is Category.DUPLICATE_CASE


def test_nnunet_raw_images_come_in_the_order_of_their_dataset_json(tmp_path):
    for number in range(4):
        touch(tmp_path, f"imagesTr/a_{number:04d}.nii.gz")
    names = {"2": "T1ce", "0": "T1", "1": "FLAIR", "3": "T2"}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": names}))
    (case,) = discover(str(tmp_path)).cases
    assert {modality: uri[-8] for modality, uri in case.images.items()} == {
        "t1c": "2",
        "t1n": "0",
        "t2f": "1",
        "t2w": "3",
    }


@pytest.mark.parametrize("content", ['{"channel_names": {"1": "T1"}}', "[]", "{", '{"channel_names": 4}'])
def test_a_dataset_json_without_an_order_is_told(tmp_path, content):
    touch(tmp_path, "imagesTr/a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ConfigError, match=r"dataset\.json"):
        discover(str(tmp_path))


def test_cases_can_be_left_out_and_known_elsewhere(tmp_path):
    for case_id in ("a", "b"):
        for modality in MODALITIES:
            touch(tmp_path, f"{case_id}/{case_id}-{modality}.nii.gz")
    touch(tmp_path, "c/c-t1c.nii.gz")
    (tmp_path / "sites.csv").write_text("case_id,site\na,x\nexpert,y\nnowhere,z\n")
    found = discover(str(tmp_path), sites=str(tmp_path / "sites.csv"), elsewhere={"expert"})
    assert found.warnings == (f"{tmp_path}/sites.csv names cases that are not in the cohort: nowhere",)
    assert found.case_ids == {"a", "b", "c"}
    rest = found.without({"a", "c"})
    assert [case.case_id for case in rest.cases] == ["b"]
    assert rest.failures == ()


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (None, "give channels"),
        (("t1c", "t1n", "t2f"), "each of t1c, t1n, t2f, t2w must be named once"),
        (("t1c", "t1c", "t2f", "t2w"), "each of t1c, t1n, t2f, t2w must be named once"),
        (("t1c", "t1n", "t2f", "adc"), "'adc' is none of"),
    ],
)
def test_nnunet_raw_images_need_a_complete_order(tmp_path, channels, message):
    touch(tmp_path, *raw_files("imagesTs/", "a"))
    with pytest.raises(ConfigError, match=message):
        discover(str(tmp_path), channels=channels)


def test_a_fifth_channel_is_not_ignored(tmp_path):
    touch(tmp_path, *raw_files("imagesTs/", "a", 5))
    with pytest.raises(ConfigError, match=r"a_0004.nii.gz is a channel beyond the 4"):
        discover(str(tmp_path), channels=MODALITIES)


# --- manifests


def write_manifest(path: Path, *rows: str, header: str = HEADER) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_a_manifest_lists_cases_with_paths_relative_to_itself(tmp_path):
    header = f"{HEADER},reference,site,cohort"
    row = "a,one.nii,/abs/two.nii.gz,s3://bucket/three.nii.gz,../four.nii.gz,seg.nii.gz,north,2024"
    (case,) = discover(write_manifest(tmp_path / "m.csv", row, header=header)).cases
    assert case == Case(
        "a",
        {
            "t1c": f"{tmp_path}/one.nii",
            "t1n": "/abs/two.nii.gz",
            "t2f": "s3://bucket/three.nii.gz",
            "t2w": f"{tmp_path}/../four.nii.gz",
        },
        f"{tmp_path}/seg.nii.gz",
        "north",
        "2024",
    )


def test_a_parquet_manifest_is_read_like_a_csv_one(tmp_path):
    columns = {"case_id": ["a", "b"], "site": ["north", None], **{m: [f"{m}a.nii", f"{m}b.nii"] for m in MODALITIES}}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found = discover(str(tmp_path / "m.parquet"))
    assert ids(found) == ["a", "b"]
    assert [case.site for case in found.cases] == ["north", None]
    assert found.cases[1].images["t1c"] == f"{tmp_path}/t1cb.nii"


def test_every_row_of_a_duplicated_id_fails_together(tmp_path):
    source = write_manifest(tmp_path / "m.csv", "a,1,2,3,4", "b,1,2,3,4", "a,5,6,7,8")
    found = discover(source)
    assert ids(found) == ["b"]
    assert found.discovered == 2
    assert failure(found, "a").category is Category.DUPLICATE_CASE
    assert failure(found, "a").message == "a is listed 2 times: row 1 of m.csv, row 3 of m.csv."


def test_ids_that_differ_in_case_only_are_two_cases(tmp_path):
    assert ids(discover(write_manifest(tmp_path / "m.csv", "a,1,2,3,4", "A,1,2,3,4"))) == ["A", "a"]


@pytest.mark.parametrize("case_id", ["../escape", "a/b", "a\\b", "/etc/passwd", "..", "", ".hidden", "a ", "a\x7f"])
def test_an_id_that_could_lead_elsewhere_is_invalid(tmp_path, case_id):
    found = discover(write_manifest(tmp_path / "m.csv", "good,1,2,3,4", f"{case_id},1,2,3,4"))
    assert ids(found) == ["good"]
    assert failure(found, case_id).category is Category.INVALID_ID


def test_an_empty_cell_is_a_missing_modality(tmp_path):
    found = discover(write_manifest(tmp_path / "m.csv", "a,1,,3,4"))
    assert failure(found, "a").message == "t1n missing in row 1 of m.csv: looked for a path in column t1n."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case_id,t1c,t1n,t2f\na,1,2,3\n", "has no column t2w"),
        (f"{HEADER},referense\na,1,2,3,4,5\n", "unknown column 'referense'; is reference meant"),
        (f"{HEADER}\na,1,2,3\n", "line 2 does not have 5 cells"),
        (f"{HEADER}\na,1,2,3,4,5\n", "line 2 does not have 5 cells"),
        (f"{HEADER}\n", "lists no case"),
        ("", "it has none"),
        ("\xff\xfe", "is not a readable table"),
    ],
)
def test_a_faulty_manifest_is_refused(tmp_path, content, message):
    (tmp_path / "m.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        discover(str(tmp_path / "m.csv"))


def test_a_manifest_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "m.csv").write_bytes(f"\ufeff{HEADER}\r\na,1,2,3,4\r\n".encode())
    assert ids(discover(str(tmp_path / "m.csv"))) == ["a"]


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"case_id")
    with pytest.raises(ConfigError, match="is not a readable table"):
        discover(str(tmp_path / "m.parquet"))


# --- sources that hold no cohort


def test_a_source_that_is_not_there_or_empty_says_so(tmp_path):
    for missing in ("nowhere", "nowhere.csv"):
        with pytest.raises(ConfigError, match="does not exist"):
            discover(str(tmp_path / missing))
    with pytest.raises(ConfigError, match="holds no files"):
        discover(str(tmp_path))


def test_a_source_without_cases_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "north/a/a-adc.nii.gz")
    with pytest.raises(ConfigError) as caught:
        discover(str(tmp_path))
    for part in ("<case>/<case>-{t1c,t1n,t2f,t2w}.nii.gz", "imagesTs/", "manifest", "north/a/a-adc.nii.gz"):
        assert part in str(caught.value)


def test_a_source_that_can_be_read_in_two_ways_is_refused(tmp_path):
    touch(tmp_path, *case_files("a"), *raw_files("imagesTs/", "b"))
    with pytest.raises(ConfigError, match="point to one of the two"):
        discover(str(tmp_path), channels=MODALITIES)


# --- sites and references


def test_sites_are_joined_and_unknown_ids_are_warned_of(tmp_path):
    cohort = tmp_path / "cohort"
    touch(cohort, *case_files("BraTS-GLI-00001-000"), *case_files("b", "-t1c.nii.gz"), *case_files("c"))
    sites = tmp_path / "sites.csv"
    sites.write_text("case_id,site,cohort\nBraTS-GLI-00001-000,north,\nb,south,X\nzzz,west,\n")
    found = discover(str(cohort), sites=str(sites))
    assert [(case.site, case.cohort) for case in found.cases] == [("north", "GLI"), (None, None)]
    assert [(failed.site, failed.cohort) for failed in found.failures] == [("south", "X")]
    assert found.warnings == (f"{sites} names cases that are not in the cohort: zzz",)


def test_a_case_with_two_sites_is_refused(tmp_path):
    touch(tmp_path / "cohort", *case_files("a"))
    sites = tmp_path / "sites.csv"
    sites.write_text("case_id,site\na,north\na,south\n")
    with pytest.raises(ConfigError, match="names a case more than once"):
        discover(str(tmp_path / "cohort"), sites=str(sites))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a/a-seg.nii.gz"])
def test_a_reference_folder_replaces_the_cohorts_references(tmp_path, name):
    touch(tmp_path / "cohort", *case_files("a"), "a/a-seg.nii.gz", *case_files("b"), "b/b-seg.nii.gz")
    touch(tmp_path / "experts", name, "unrelated/x.nii.gz")
    a, b = discover(str(tmp_path / "cohort"), references=str(tmp_path / "experts")).cases
    assert a.reference == f"{tmp_path}/experts/{name}"
    assert b.reference is None


def test_a_reference_folder_without_references_is_refused(tmp_path):
    touch(tmp_path / "cohort", *case_files("a"))
    touch(tmp_path / "experts", "notes.txt")
    with pytest.raises(ConfigError, match="holds no label map"):
        discover(str(tmp_path / "cohort"), references=str(tmp_path / "experts"))


# --- S3, ids, plain values


def test_a_cohort_on_s3_is_listed_in_one_request(s3_bucket, monkeypatch):
    store = storage.RunStore(s3_bucket)
    for key in [*case_files("a"), "a/a-seg.nii.gz", *case_files("b", "-t1c.nii.gz"), "sub/deep/x.txt"]:
        store.write(f"cohort/{key}", b"")
    calls = []
    listing = storage.files_in_s3
    monkeypatch.setattr(storage, "files_in_s3", lambda *a: calls.append(a) or listing(*a))
    found = discover(f"{s3_bucket}/cohort/")
    assert len(calls) == 1
    assert found.cases[0].images["t2w"] == f"{s3_bucket}/cohort/a/a-t2w.nii.gz"
    assert found.cases[0].reference == f"{s3_bucket}/cohort/a/a-seg.nii.gz"
    assert failure(found, "b").message.startswith(f"t1n and t2f and t2w missing in {s3_bucket}/cohort/b")


def test_a_manifest_on_s3_has_paths_relative_to_itself(s3_bucket):
    storage.RunStore(s3_bucket).write("lists/m.csv", f"{HEADER}\na,1.nii,2.nii,3.nii,4.nii\n".encode())
    assert discover(f"{s3_bucket}/lists/m.csv").cases[0].images["t1c"] == f"{s3_bucket}/lists/1.nii"


def test_an_s3_prefix_that_is_not_there_says_so(s3_bucket):
    for source in (f"{s3_bucket}/nothing", "s3://no-such-bucket-anywhere/cohort"):
        with pytest.raises(ConfigError, match="does not exist"):
            discover(source)


def test_relative_sources_give_paths_that_other_processes_can_use(tmp_path, monkeypatch):
    touch(tmp_path, *[f"cohort/{key}" for key in case_files("a")])
    monkeypatch.chdir(tmp_path)
    assert discover("cohort/").cases[0].images["t1c"] == f"{tmp_path}/cohort/a/a-t1c.nii.gz"


@given(st.text())
def test_any_text_has_an_object_name_that_is_one_safe_path_segment(text):
    assert is_safe_id(object_name(text))
    assert (object_name(text) == text) == is_safe_id(text)


def test_a_trailing_newline_is_not_safe():
    assert not is_safe_id("a\n")
    assert is_safe_id("a" * 128)


def test_a_case_survives_json(tmp_path):
    touch(tmp_path, *case_files("a"))
    (case,) = discover(str(tmp_path)).cases
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


@pytest.mark.real_data
def test_the_real_cohort_is_found_whole(data_root):
    found = discover(str(data_root / "cohort"), sites=str(data_root / "sites.csv"))
    assert len(found.cases) == found.discovered == 10
    assert not found.warnings
    assert sum(case.reference is not None for case in found.cases) == 8
    assert {case.site for case in found.cases} >= {"brats21", "brats23", "openms"}


# --- pairs of label maps and references


def labels_in(folder, *names):
    touch(folder, *names)
    return str(folder)


def test_label_maps_are_paired_with_references_by_id(tmp_path):
    labels = labels_in(tmp_path / "labels", "a.nii.gz", "BraTS-MET-00001-000.nii")
    references = labels_in(tmp_path / "references", "a/a-seg.nii.gz", "BraTS-MET-00001-000/BraTS-MET-00001-000_seg.nii")
    found = discover_pairs(labels, references)
    assert [case.case_id for case in found.cases] == ["BraTS-MET-00001-000", "a"]
    met, a = found.cases
    assert (met.cohort, a.cohort) == ("MET", None)
    assert a.images == {PREDICTION: f"{labels}/a.nii.gz"}
    assert a.reference == f"{references}/a/a-seg.nii.gz"
    assert met.file_names["reference"] == "BraTS-MET-00001-000_seg.nii"


def test_a_case_without_its_partner_is_a_failure_on_either_side(tmp_path):
    labels = labels_in(tmp_path / "labels", "a.nii.gz", "b.nii.gz")
    references = labels_in(tmp_path / "references", "a.nii.gz", "c.nii.gz")
    found = discover_pairs(labels, references)
    assert {case.case_id: case.failure.category for case in found.failures} == {
        "b": Category.MISSING_REFERENCE,
        "c": Category.MISSING_PREDICTION,
    }
    assert found.discovered == 3


def test_two_label_maps_of_one_case_are_a_duplicate(tmp_path):
    labels = labels_in(tmp_path / "labels", "a.nii.gz", "a.nii", "b.nii.gz")
    references = labels_in(tmp_path / "references", "a.nii.gz", "b.nii.gz")
    (failed,) = discover_pairs(labels, references).failures
    assert (failed.case_id, failed.failure.category) == ("a", Category.DUPLICATE_CASE)
    assert "a.nii" in failed.failure.message


def test_manifests_name_predictions_references_and_places(tmp_path):
    touch(tmp_path, "x/one.nii.gz", "y/two.nii.gz")
    (tmp_path / "labels.csv").write_text("case_id,prediction,site\na,x/one.nii.gz,north\n")
    (tmp_path / "references.csv").write_text("case_id,reference,cohort\na,y/two.nii.gz,GLI\n")
    (case,) = discover_pairs(str(tmp_path / "labels.csv"), str(tmp_path / "references.csv")).cases
    assert (case.images[PREDICTION], case.reference) == (f"{tmp_path}/x/one.nii.gz", f"{tmp_path}/y/two.nii.gz")
    assert (case.site, case.cohort) == ("north", "GLI")


def test_the_labels_of_a_run_folder_are_its_labels_alone(tmp_path):
    labels = labels_in(tmp_path / "run", "run.json", "labels/a.nii.gz", "probabilities/a.nii.gz", "b.nii.gz")
    references = labels_in(tmp_path / "references", "labelsTr/a.nii.gz")
    (case,) = discover_pairs(labels, references).cases
    assert case.images[PREDICTION] == f"{labels}/labels/a.nii.gz"


def test_sources_without_a_common_case_are_refused(tmp_path):
    labels = labels_in(tmp_path / "labels", "a.nii.gz")
    references = labels_in(tmp_path / "references", "b.nii.gz")
    with pytest.raises(ConfigError, match="no case in common"):
        discover_pairs(labels, references)


def test_an_id_in_a_manifest_that_cannot_name_a_file_is_a_failure(tmp_path):
    (tmp_path / "labels.csv").write_text("case_id,prediction\n../a,one.nii.gz\nb,two.nii.gz\n")
    (tmp_path / "references.csv").write_text("case_id,reference\n../a,one.nii.gz\nb,two.nii.gz\n")
    (failed,) = discover_pairs(str(tmp_path / "labels.csv"), str(tmp_path / "references.csv")).failures
    assert failed.failure.category == Category.INVALID_ID
