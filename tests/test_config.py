"""Configuration: precedence, messages and what the fingerprint covers."""

from pathlib import Path

import pytest

from goat_ray.config import PostprocessConfig, RunConfig, differing_keys, load_config, run_id_of
from goat_ray.errors import ConfigError

SPEC = {"brats2023-gli": "hash"}
NEEDED = {"cohort": "scans", "ensemble": "ensemble.yaml", "out": "run"}


def test_a_flag_overrides_the_file_and_the_file_overrides_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("decode: argmax\nblending: nnunet\npostprocess: {method: fixed, nested: true}\n")
    config = load_config(RunConfig, str(path), {**NEEDED, "decode": "regions", "members": None})
    assert (config.decode, config.blending, config.mirroring) == ("regions", "nnunet", False)
    assert config.postprocess == PostprocessConfig(method="fixed", nested=True)


def test_a_flag_for_one_postprocessing_key_keeps_the_others_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("postprocess: {wt_max: 300}\n")
    config = load_config(RunConfig, str(path), {**NEEDED, "postprocess": {"method": "none"}})
    assert config.postprocess == PostprocessConfig(method="none", wt_max=300)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"decod": "argmax"}, "decod: unknown key, did you mean 'decode'?"),
        ({"postprocess": {"wt_maxx": 3}}, "postprocess.wt_maxx: unknown key, did you mean 'wt_max'?"),
        ({"decode": "best"}, "decode: input should be 'majority', 'argmax' or 'regions'"),
        ({"workers": 0}, "workers: input should be greater than or equal to 1"),
        ({"out": None}, "out: field required"),
    ],
)
def test_a_bad_key_or_value_is_named_with_what_would_be_right(values: dict[str, object], words: str) -> None:
    given = {key: value for key, value in {**NEEDED, **values}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, None, given)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["- a list", "{unclosed", "!!python/object/apply:os.system [id]"])
def test_a_file_that_is_no_plain_yaml_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(RunConfig, str(path), NEEDED)


def test_the_run_id_follows_results_and_not_scale() -> None:
    config = RunConfig(**NEEDED)
    run_id = run_id_of(config.fingerprint("abc", SPEC))
    same = config.model_copy(
        update={"workers": 8, "threads": 3, "out": "elsewhere", "limit": 5, "windows_per_batch": 2}
    )
    assert run_id_of(same.fingerprint("abc", SPEC)) == run_id
    for change in (
        {"decode": "argmax"},
        {"blending": "nnunet"},
        {"mirroring": True},
        {"compiled": True},
        {"suffixes": {"t1": "t1n"}},
    ):
        assert run_id_of(config.model_copy(update=change).fingerprint("abc", SPEC)) != run_id
    assert run_id_of(config.fingerprint("other weights", SPEC)) != run_id
    assert run_id_of(config.fingerprint("abc", {"brats2023-gli": "another hash"})) != run_id


@pytest.mark.parametrize("change", [{"thumbnails": False}, {"save_probabilities": True}])
def test_a_run_with_other_files_is_another_run(change: dict[str, bool]) -> None:
    config = RunConfig(**NEEDED)
    ours, theirs = (one.fingerprint("abc", SPEC) for one in (config, config.model_copy(update=change)))
    assert differing_keys(ours, theirs) == list(change)


def test_differing_keys_are_named_down_to_the_leaf() -> None:
    ours = RunConfig(**NEEDED).fingerprint("abc", SPEC)
    theirs = RunConfig(**NEEDED, decode="argmax", postprocess=PostprocessConfig(wt_max=300)).fingerprint("abc", SPEC)
    assert differing_keys(ours, theirs) == ["decode", "postprocess.wt_max"]
    assert differing_keys(ours, ours) == []


def test_a_config_that_went_through_json_names_the_same_run() -> None:
    config = RunConfig(cohort="a", ensemble="b", out="c")
    there_and_back = RunConfig.model_validate_json(config.model_dump_json())
    assert run_id_of(config.fingerprint("x", {})) == run_id_of(there_and_back.fingerprint("x", {}))
