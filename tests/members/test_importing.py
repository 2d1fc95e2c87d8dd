import json
import shutil

import pytest
import torch
import yaml
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from goat_ray.errors import EnsembleError
from goat_ray.members.ensemble import check_members, load_network
from goat_ray.members.importing import ImportOptions, ImportSource, import_results
from goat_ray.members.inspection import smallest_input
from goat_ray.members.networks import build_network, parameter_count
from goat_ray.members.plans import parse_plans
from goat_ray.members.weights import load_checkpoint
from tests.members.results import (
    nnunet_network,
    small_dataset,
    small_plans,
    with_narrow_features,
    write_results_folder,
)

FULL_SIZE = {
    "generated/nnUNetResEncUNetMPlans.json": 101_944_372,
    "generated/nnUNetResEncUNetLPlans.json": 102_353_972,
    "generated/nnUNetResEncUNetXLPlans.json": 102_353_972,
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nnunet_network(small_plans(), 4, 4, deep_supervision=True)


@pytest.fixture
def results(tmp_path, network):
    """Writes result folders of one small network below tmp_path / "results"."""

    def write(plans=None, dataset=None, **details):
        plans, dataset = plans or small_plans(), dataset or small_dataset()
        return write_results_folder(tmp_path / "results", plans, dataset, network.state_dict(), **details)

    return write


def codes(ensemble):
    return [member.code for member in ensemble.members]


def test_a_trained_folder_becomes_a_member_that_computes_what_nnunet_does(results, network, tmp_path):
    ensemble = import_results([str(results())], tmp_path / "e" / "ensemble.yaml")
    member = ensemble.members[0]
    assert member.code == "ResNetM"
    assert member.channel_index == (0, 1, 2, 3)
    assert member.card.mirroring_axes == (0, 1, 2)
    assert member.card.parameters == sum(p.numel() for p in network.parameters())
    image = torch.randn(1, 4, 16, 16, 8)
    with torch.inference_mode():
        assert torch.equal(load_network(member)(image), network.eval()(image)[0])


def test_the_files_of_a_member_hold_no_pickle_and_say_where_it_comes_from(results, tmp_path):
    folder = results()
    import_results([folder.as_posix()], tmp_path / "ensemble.yaml", options=ImportOptions(licence="CC-BY-4.0"))
    member = tmp_path / "members" / "ResNetM"
    assert sorted(p.name for p in member.iterdir()) == ["MODEL_CARD.md", "member.json", "weights.safetensors"]
    card, text = json.loads((member / "member.json").read_text()), (member / "MODEL_CARD.md").read_text()
    assert card["source"]["dataset"] == "Dataset601_BraTS"
    assert card["source"]["training_cases"] == 1351
    assert card["source"]["checkpoint_sha256"] in text
    assert "t1c, t1n, t2f, t2w" in text
    assert "CC-BY-4.0" in text


def test_importing_the_same_again_changes_nothing(results, tmp_path):
    folder, out = results(), tmp_path / "ensemble.yaml"
    first = import_results([str(folder)], out)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "members").rglob("*")}
    assert import_results([str(folder)], out) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "members").rglob("*")} == times


def test_other_content_is_replaced_only_when_asked(results, tmp_path, network):
    out = tmp_path / "ensemble.yaml"
    first = import_results([str(results())], out)
    shutil.rmtree(tmp_path / "results")
    other = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    folder = write_results_folder(tmp_path / "results", small_plans(), small_dataset(), other)
    with pytest.raises(EnsembleError, match="holds another member"):
        import_results([str(folder)], out)
    assert [p.name for p in (tmp_path / "members").iterdir()] == ["ResNetM"]
    second = import_results([str(folder)], out, options=ImportOptions(overwrite=True))
    assert second.sha256 != first.sha256
    assert [p.name for p in (tmp_path / "members").iterdir()] == ["ResNetM"]


def test_a_manifest_that_lists_other_members_is_kept(results, tmp_path):
    out = tmp_path / "ensemble.yaml"
    folder = results()
    import_results([f"one={folder}"], out)
    with pytest.raises(EnsembleError, match="other content"):
        import_results([f"two={folder}"], out)
    assert [member["code"] for member in yaml.safe_load(out.read_text())["members"]] == ["one"]


def test_members_get_the_winning_ensembles_codes(results, tmp_path):
    fine_tuned = "nnUNetTrainerDiceTopK10FocalFineTuning"
    for size in ("M", "L", "XL"):
        plans = small_plans(plans_name=f"nnUNetResEncUNet{size}Plans")
        results(plans)
        results({**plans, "dataset_name": "Dataset603_BraTS"}, trainer=fine_tuned)
    ensemble = import_results([str(tmp_path / "results")], tmp_path / "ensemble.yaml")
    assert sorted(codes(ensemble)) == sorted(
        [f"{base}{size}" for base in ("ResNet", "Finetune") for size in ("M", "L", "XL")]
    )


def test_a_member_whose_size_is_unclear_is_told_by_its_dataset(results, tmp_path):
    results(small_plans(plans_name="nnUNetPlans"))
    assert codes(import_results([str(tmp_path / "results")], tmp_path / "e.yaml")) == ["ResNet-601"]


def test_equal_codes_are_told_apart_by_dataset(results, tmp_path):
    results()
    results(small_plans(dataset_name="Dataset7_Other"))
    ensemble = import_results([str(tmp_path / "results")], tmp_path / "e.yaml")
    assert codes(ensemble) == ["ResNetM-601", "ResNetM-7"]


def test_equal_codes_that_cannot_be_told_apart_are_left_to_the_user(results, tmp_path):
    first, second = results(), results(trainer="nnUNetTrainerDA5")
    with pytest.raises(EnsembleError, match="ResNetM; name them yourself"):
        import_results([str(first), str(second)], tmp_path / "e.yaml")
    assert codes(import_results([f"a={first}", f"b={second}"], tmp_path / "e.yaml")) == ["a", "b"]


@pytest.mark.parametrize("code", ["..", ".hidden", "a b", ""])
def test_a_code_that_is_no_safe_folder_name_is_refused(results, tmp_path, code):
    with pytest.raises(EnsembleError, match="the code"):
        import_results([ImportSource(results(), code)], tmp_path / "e.yaml")


def folds_of(results, first, *others, checkpoint="final"):
    folder = results(fold=first, checkpoint=checkpoint)
    for fold in others:
        shutil.copytree(folder / f"fold_{first}", folder / f"fold_{fold}")
    return folder


def test_fold_all_is_preferred(results, tmp_path):
    folder = folds_of(results, "all", "0", "1")
    ensemble = import_results([str(folder)], tmp_path / "e.yaml")
    assert [member.card.source.fold for member in ensemble.members] == ["all"]


def test_without_fold_all_every_fold_is_a_member(results, tmp_path):
    folder = folds_of(results, "10", "0", "2")
    ensemble = import_results([f"net={folder}"], tmp_path / "e.yaml")
    assert codes(ensemble) == ["net-fold0", "net-fold2", "net-fold10"]


def test_chosen_folds_come_in_the_order_asked_for(results, tmp_path):
    folder = folds_of(results, "0", "1", "2")
    ensemble = import_results([str(folder)], tmp_path / "e.yaml", options=ImportOptions(folds=("2", "0")))
    assert codes(ensemble) == ["ResNetM-fold2", "ResNetM-fold0"]


def test_a_missing_fold_or_checkpoint_names_what_is_there(results, tmp_path):
    folder = folds_of(results, "0", "1", checkpoint="best")
    with pytest.raises(EnsembleError, match="no fold 3; there are: 0, 1"):
        import_results([str(folder)], tmp_path / "e.yaml", options=ImportOptions(folds=("3",)))
    with pytest.raises(EnsembleError, match=r"checkpoint_final.pth is missing .* checkpoint_best.pth"):
        import_results([str(folder)], tmp_path / "e.yaml")
    assert len(import_results([str(folder)], tmp_path / "e.yaml", options=ImportOptions("best")).members) == 2


def test_a_missing_dataset_file_is_asked_for(tmp_path, network):
    folder = write_results_folder(tmp_path, small_plans(), None, network.state_dict())
    with pytest.raises(EnsembleError, match=r"dataset.json is missing .* channels and labels"):
        import_results([str(folder)], tmp_path / "e.yaml")


def test_a_folder_without_a_trained_model_is_refused(tmp_path):
    with pytest.raises(EnsembleError, match="no trained model in"):
        import_results([str(tmp_path)], tmp_path / "e.yaml")


def test_channels_in_another_order_are_indexed_into_ours(results, tmp_path):
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    member = import_results([str(results(dataset=small_dataset(channel_names=channels)))], tmp_path / "e.yaml").members[
        0
    ]
    assert member.card.channels == ("t1n", "t1c", "t2w", "t2f")
    assert member.channel_index == (1, 0, 3, 2)


def test_unknown_channels_are_imported_but_not_run_until_they_are_named(results, tmp_path):
    folder = results(dataset=small_dataset(channel_names={"0": "A", "1": "B", "2": "t2f", "3": "t2w"}))
    ensemble = import_results([str(folder)], tmp_path / "a" / "e.yaml")
    assert ensemble.members[0].card.channels == ("A", "B", "t2f", "t2w")
    with pytest.raises(EnsembleError, match=r"member ResNetM: its channels are A, B, t2f, t2w, .*--channels"):
        check_members(ensemble)
    options = ImportOptions(channels=("t1n", "t1c", "t2f", "t2w"))
    named = import_results([str(folder)], tmp_path / "b" / "e.yaml", options=options)
    check_members(named)
    assert named.members[0].channel_index == (1, 0, 2, 3)


def test_as_many_channels_are_named_as_the_network_takes(results, tmp_path):
    with pytest.raises(EnsembleError, match="1 channels were given, the network takes 4"):
        import_results([str(results())], tmp_path / "e.yaml", options=ImportOptions(channels=("t1c",)))


def test_a_label_can_be_named_on_import(results, tmp_path):
    dataset = small_dataset(labels={"background": 0, "first": 1, "SNFH": 2, "ET": 3})
    folder = results(dataset=dataset)
    assert "unknown: first" in import_results([str(folder)], tmp_path / "a" / "e.yaml").members[0].problem()
    options = ImportOptions(labels={"first": "NETC"})
    check_members(import_results([str(folder)], tmp_path / "b" / "e.yaml", options=options))


def test_weights_that_do_not_fit_the_plans_are_told_apart(results, tmp_path):
    plans = small_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 24]
    folder = results(plans)
    with pytest.raises(EnsembleError, match=r"fold all: .*do not fit"):
        import_results([str(folder)], tmp_path / "e.yaml")
    assert not (tmp_path / "members").exists()


def test_a_checkpoint_that_would_run_code_is_refused(results, tmp_path):
    folder = results()
    path = folder / "fold_all" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "logging": tmp_path}, path)
    with pytest.raises(EnsembleError, match="could execute code"):
        import_results([str(folder)], tmp_path / "e.yaml")


def test_a_source_names_its_code_unless_the_path_itself_has_that_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run=1").mkdir()
    assert ImportSource.parse("net=/data/m").code == "net"
    assert ImportSource.parse("run=1").code is None
    assert ImportSource.parse("/data/run=2/m").code is None


@pytest.mark.real_data
def test_narrow_twins_of_all_published_plans_import_load_and_run(data_root, tmp_path):
    files = [*(data_root / "plans/real").glob("*/plans.json"), *(data_root / "plans/generated").glob("*Plans.json")]
    described = [path for path in sorted(files) if (path.parent / "dataset.json").exists()]
    assert len(described) == 16
    for number, path in enumerate(described):
        plans, dataset = json.loads(path.read_text()), json.loads((path.parent / "dataset.json").read_text())
        heads = LabelManager(dataset["labels"], dataset.get("regions_class_order")).num_segmentation_heads
        plans, place = with_narrow_features(plans), tmp_path / str(number)
        twin = nnunet_network(plans, 4, heads, deep_supervision=True).eval()
        folder = write_results_folder(place, plans, dataset, twin.state_dict())
        member = import_results([str(folder)], place / "ensemble.yaml").members[0]
        image = torch.randn(1, 4, *smallest_input(member.architecture))
        with torch.inference_mode():
            assert torch.equal(load_network(member)(image), twin(image)[0]), path
        assert (member.problem() is None) == ("RC" not in member.scheme.channels), path


@pytest.mark.real_data
def test_a_one_channel_model_is_imported_and_refused_by_name(data_root, tmp_path):
    plans = with_narrow_features(
        json.loads((data_root / "plans/real/ShadowTwin41_BraTS2024_MEN/plans.json").read_text())
    )
    twin = nnunet_network(plans, 1, 2, deep_supervision=True)
    dataset = {"channel_names": {"0": "t1c"}, "labels": {"background": 0, "GTV": 1}, "numTraining": 500}
    folder = write_results_folder(tmp_path, plans, dataset, twin.state_dict())
    member = import_results([str(folder)], tmp_path / "e.yaml").members[0]
    assert member.code == "PlainConv"
    assert "its channels are t1c, expected each of" in member.problem()


@pytest.mark.real_data
@pytest.mark.parametrize("plans", FULL_SIZE)
def test_full_size_networks_have_the_published_number_of_parameters(data_root, plans):
    architecture = parse_plans(json.loads((data_root / "plans" / plans).read_text())).architecture
    with torch.device("meta"):
        assert parameter_count(build_network(architecture, 4, 4)) == FULL_SIZE[plans]


@pytest.mark.real_data
@pytest.mark.parametrize(("flavour", "parameters"), [("winner", 582_860), ("upstream", 389_148)])
def test_both_umamba_flavours_import(data_root, tmp_path, flavour, parameters):
    member = import_results([str(data_root / "umamba" / flavour)], tmp_path / "e.yaml").members[0]
    assert member.code == "UMamba"
    assert member.architecture.family == {"winner": "umamba_bot", "upstream": "umamba_bot_upstream"}[flavour]
    assert member.card.parameters == parameters
    (checkpoint,) = (data_root / "umamba" / flavour).rglob("checkpoint_final.pth")
    original = load_checkpoint(checkpoint).weights
    assert all(torch.equal(tensor, original[name]) for name, tensor in load_network(member).named_parameters())
