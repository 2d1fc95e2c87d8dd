"""The manifests for KubeRay, checked against what its CRDs take, made strict."""

import copy
import shlex
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.scripts.scripts import start

from goat_ray.config import RunConfig, validated
from tests.conftest import ROOT

FOLDER = ROOT / "jobs" / "kuberay"
CRDS = yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text())
MANIFESTS = {
    (path.name, document["kind"]): document
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
JOB, CLUSTER = MANIFESTS["rayjob.yaml", "RayJob"], MANIFESTS["raycluster.yaml", "RayCluster"]
SPECS = {"job": JOB["spec"]["rayClusterSpec"], "cluster": CLUSTER["spec"]}


def problems(manifest: dict[str, Any]) -> list[str]:
    rules = Draft202012Validator({**CRDS, "$ref": f"#/$defs/{manifest['kind']}"})
    return [f"{error.json_path}: {error.message}" for error in rules.iter_errors(manifest)]


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for group in groups(spec) for container in group["template"]["spec"]["containers"]]


def misspell(spec: dict[str, Any]) -> None:
    spec["headGroupSpec"]["rayStartParam"] = {}


def unquote(spec: dict[str, Any]) -> None:
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def forget(spec: dict[str, Any]) -> None:
    del spec["workerGroupSpecs"][0]["minReplicas"]


def invent(spec: dict[str, Any]) -> None:
    spec["autoscalerOptions"]["version"] = "v3"


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=map("-".join, MANIFESTS))
def test_kuberay_would_accept_it(manifest: dict[str, Any]) -> None:
    assert not problems(manifest)


@pytest.mark.parametrize("spoil", [misspell, unquote, forget, invent])
def test_the_rules_find_what_kuberay_would_refuse_or_drop(spoil: Callable[[dict[str, Any]], None]) -> None:
    spoilt = copy.deepcopy(CLUSTER)
    spoil(spoilt["spec"])
    assert problems(spoilt)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_versions_and_images_are_ours(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == version("ray")
    assert {container["image"] for container in containers(spec)} == {
        f"registry.example/goat-ray:{version('goat-ray')}"
    }


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_head_works_on_no_case_and_gpus_are_there_from_the_start(spec: dict[str, Any]) -> None:
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpu = spec["workerGroupSpecs"][0]
    assert gpu["replicas"] == gpu["minReplicas"] == gpu["maxReplicas"] > 0
    (worker,) = gpu["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_nobody_gets_in_without_the_token_and_nothing_runs_as_root(spec: dict[str, Any]) -> None:
    assert spec["authOptions"] == {"mode": "token"}
    for group in groups(spec):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers(spec):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_is_mounted_is_there_and_objects_spill_onto_it(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {
            mount["name"]: mount["mountPath"] for container in pod["containers"] for mount in container["volumeMounts"]
        }
        assert mounts.keys() == volumes
        assert group["rayStartParams"]["object-spilling-directory"] == mounts["scratch"]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_pinned_ray_knows_every_start_parameter(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        words = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        assert start.make_context("start", words)


def test_the_cluster_scales_with_autoscaler_v2() -> None:
    assert CLUSTER["spec"]["enableInTreeAutoscaling"] is True
    assert CLUSTER["spec"]["autoscalerOptions"]["version"] == "v2"


def test_the_job_s_command_is_in_the_image_and_its_settings_are_mounted_and_valid() -> None:
    python, script, flag, settings = shlex.split(JOB["spec"]["entrypoint"])
    assert (python, flag) == ("python", "--config")
    assert (ROOT / "jobs" / Path(script).relative_to("/opt/goat-ray/jobs")).is_file()
    config_map = MANIFESTS["rayjob.yaml", "ConfigMap"]
    head = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (volume for volume in head["volumes"] if "configMap" in volume)
    (mount,) = (mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == volume["name"])
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert Path(settings) == Path(mount["mountPath"]) / next(iter(config_map["data"]))
    assert validated(RunConfig, yaml.safe_load(config_map["data"]["run.yaml"]), "run.yaml")
