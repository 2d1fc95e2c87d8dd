"""The gate that driver and workers share."""

import os
import subprocess
import sys

from tests.conftest import ROOT

DISMISSED_LATE = """
import ray
from goat_ray.pipeline.gate import Gate
ray.init("local", num_cpus=1, include_dashboard=False)
gate = Gate()
ray.shutdown()
gate.dismiss()
print("Ray", ray.is_initialized())
"""


def test_a_gate_that_outlives_its_ray_starts_no_other() -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", DISMISSED_LATE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "Ray False"
