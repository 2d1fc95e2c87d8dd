"""Triton decides when it is imported whether kernels are compiled or interpreted: each way in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.conftest import ROOT

CASES = "tests/members/triton_norm_cases.py"


def run_cases(**environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", CASES]
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**clean, **environment}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it has wheels for Linux only")
def test_the_kernels_are_right_in_tritons_interpreter():
    run_cases(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_kernels_are_right_on_a_gpu():
    run_cases()
