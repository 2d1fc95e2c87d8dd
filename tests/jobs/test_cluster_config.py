"""The configuration of Ray's cluster launcher, checked as Ray itself checks it, and against AWS's own model."""

import shlex
from functools import reduce
from operator import getitem
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.conftest import ROOT


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


@pytest.mark.parametrize("place", [(), ("docker",), ("available_node_types", "gpu")], ids=str)
def test_ray_would_refuse_a_misspelt_field(config: dict[str, Any], place: tuple[str, ...]) -> None:
    reduce(getitem, place, config)["label"] = {}
    with pytest.raises(ValidationError, match="label"):
        validate_config(prepare_config(config))


def test_the_head_is_on_demand_and_works_on_no_case(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_every_worker_is_on_spot(config: dict[str, Any]) -> None:
    workers = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    assert sorted(workers) == ["cpu", "gpu"]
    for kind in workers.values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["provider"]["cache_stopped_nodes"] is False


def test_gpu_workers_are_there_from_the_start(config: dict[str, Any]) -> None:
    """The pool of a run does not grow."""
    gpu = config["available_node_types"]["gpu"]
    assert gpu["min_workers"] == gpu["max_workers"] > 0
    assert gpu["resources"]["GPU"] == 1
    assert gpu["labels"] == {"goat.role": "gpu"}
    assert gpu["min_workers"] + config["available_node_types"]["cpu"]["max_workers"] <= config["max_workers"]


def test_machines_are_what_aws_can_be_asked_for(config: dict[str, Any]) -> None:
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in config["available_node_types"].values():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **kind["node_config"]}, shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_the_pinned_ray_knows_every_option_that_it_is_started_with(config: dict[str, Any], part: str) -> None:
    stop, command = config[part]
    limits, _, words = command.partition("; ")
    assert (stop, limits) == ("ray stop", "ulimit -n 65536")
    given = start.make_context("start", shlex.split(words.removeprefix("ray start"))).params
    assert given["object_spilling_directory"] == "/scratch"
    assert given["head"] == (part == "head_start_ray_commands")


def test_nobody_gets_in_without_the_token(config: dict[str, Any]) -> None:
    options = dict(option.removeprefix("--env ").split("=") for option in config["docker"]["run_options"][1:3])
    assert options["RAY_AUTH_MODE"] == "token"
    assert options["RAY_AUTH_TOKEN_PATH"] in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
