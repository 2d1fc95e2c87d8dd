"""How glibc's malloc deals with memory, in the driver and in its workers."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8  # of malloc.h

KEPT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**60)}
"""Environment of a worker: what a large array took is kept for the next one.

Otherwise its pages go back to the system, which zeroes new ones for the next array: half of the time of a forward pass
on a CPU (`benchmarks/cpu_modes.py`). Only the main heap can grow that far, and a thread would have one of its own.
"""


def share_heaps() -> None:
    """Have all threads of this process share two heaps; with one each, Ray's grow the driver by 10 KB a case."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
