"""Compiles each of our kernels for a Hopper GPU, which Triton does without one; run by `test_triton_norm.py`."""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from goat_ray.members import triton_norm

HOPPER = GPUTarget("cuda", 90, 32)
ALIGNED = [["tt.divisibility", 16]]
KERNELS = {
    "_moments": ("x:T means:F squares:F rows:i32 channels:i32 tiles:i32", {"ROWS": 256, "CHANNELS": 32}),
    "_merge": (
        "means:F squares:F weight:F centres:F scales:F rows:i32 channels:i32 chunks:i32 chunk_rows:i32 eps:fp32",
        {"CHUNKS": 1024, "CHANNELS": 8},
    ),
    "_apply": (
        "x:T residual:T centres:F scales:F bias:F out:T rows:i32 channels:i32 slope:fp32",
        {"HAS_RESIDUAL": True, "ROWS": 256, "CHANNELS": 32},
    ),
}


def compiled(name, dtype, ones=()):
    """PTX of a kernel; Triton makes a constant of each number that is 1, here `ones`."""
    arguments, constants = KERNELS[name]
    types = dict(argument.split(":") for argument in arguments.split())
    signature = {key: value.replace("T", f"*{dtype}").replace("F", "*fp32") for key, value in types.items()}
    constants = {**dict.fromkeys(ones, 1), **constants}
    signature |= dict.fromkeys(constants, "constexpr")
    positions = {key: (index,) for index, key in enumerate(signature)}
    aligned = {positions[key]: ALIGNED for key, value in signature.items() if value[0] == "*" or key == "channels"}
    constants = {positions[key]: value for key, value in constants.items()}
    source = ASTSource(getattr(triton_norm, name), signature, constants, aligned)
    return triton.compile(source, target=HOPPER, options={"num_warps": 8}).asm["ptx"]


for kernel in KERNELS:
    for element in ("fp16", "bf16", "fp32"):
        text = compiled(kernel, element)
        wide = set(re.findall(r"(?:ld|st)\.global\.v4\.b32", text))
        print(kernel, element, *sorted(wide))  # noqa: T201 - what the test reads
    for one in ("rows", "tiles", "chunks"):
        if f"{one}:" in KERNELS[kernel][0]:
            compiled(kernel, "fp16", (one,))
