"""Triton decides when it is imported whether kernels are compiled or interpreted: each way in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.conftest import ROOT

CASES = ["pytest", "-q", "-p", "no:cacheprovider", "tests/members/triton_norm_cases.py"]
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it is for Linux only")


def output_of(*module, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**clean, **environment}, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_cases(**environment):
    output = output_of(*CASES, **environment)
    assert "passed" in output
    assert "skipped" not in output


@with_triton
def test_the_kernels_compile_for_a_hopper_gpu_and_move_16_bytes_at_a_time(tmp_path):
    output = output_of("tests.members.triton_compiled", TRITON_CACHE_DIR=str(tmp_path))
    wide = [line.split() for line in output.splitlines()]
    assert [line[:2] for line in wide if "ld.global.v4.b32" in line] == [
        [kernel, dtype] for kernel in ("_moments", "_merge", "_apply") for dtype in ("fp16", "bf16", "fp32")
    ]
    assert [line[1] for line in wide if "st.global.v4.b32" in line] == ["fp16", "bf16", "fp32"]


@with_triton
def test_the_kernels_are_right_in_tritons_interpreter():
    run_cases(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_kernels_are_right_on_a_gpu():
    run_cases()
