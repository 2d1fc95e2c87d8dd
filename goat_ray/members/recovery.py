"""What to do when torch fails: try again in less device memory, fail the case, or give the device up."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from goat_ray.errors import CaseError, Category, DeviceLostError, GoatRayError

HOST = torch.device("cpu")
"""Where a canvas goes that the device has no room for."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

# The CPU allocator, cuBLAS and cuDNN raise a plain RuntimeError when they get no memory.
_OUT_OF_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator|ALLOC(ATION)?_FAILED")
# After these the process's context is dead and every later call fails. cuBLAS's refusals bear the same prefix.
_LOST = re.compile(
    r"(CUDA|HIP) error: (?!CUBLAS_STATUS_(NOT_SUPPORTED|INVALID_VALUE|ARCH_MISMATCH))"
    r"|CU(DNN|BLAS)_STATUS_EXECUTION_FAILED"
    r"|illegal memory access|device-side assert|unspecified launch failure|uncorrectable ECC"
)


@dataclass(frozen=True, slots=True)
class Rung:
    """How much of the device's memory a piece of work takes.

    Attributes:
        windows_per_batch: windows per forward pass.
        canvas: where everything lies that grows with the case: the crop, sums of logits, probabilities.
    """

    windows_per_batch: int
    canvas: torch.device

    def below(self) -> "Rung | None":
        """The next rung down, None at the bottom: batches of half as many windows, then the canvas on the host."""
        if self.windows_per_batch > 1:
            return replace(self, windows_per_batch=self.windows_per_batch // 2)
        return None if self.canvas == HOST else replace(self, canvas=HOST)

    def __str__(self) -> str:
        return f"batches of {self.windows_per_batch} and the canvas on {self.canvas}"


class Ladder:
    """The rung that one piece of work has come down to, kept so that no case repeats the tries of another.

    Args:
        who: the piece of work, as messages name it.
        rung: where to begin.
        make_room: gives up what memory of the device can be done without; called before each step down.
    """

    def __init__(self, who: str, rung: Rung, make_room: Callable[[], None] | None = None) -> None:
        self._who = who
        self._rung = rung
        self._make_room = make_room or (lambda: None)

    def run(self, work: Callable[[Rung], _T]) -> _T:
        """The result of `work` on the first rung, going down, that has memory for it.

        Raises:
            CaseError: `out_of_memory` on the last rung too, or `model_failed`.
            DeviceLostError: only a new process can use the device again.
        """
        tried = [self._rung]
        while True:
            try:
                if len(tried) > 1:  # in here, for it fails like any other call where the device is lost
                    self._make_room()
                    torch.cuda.empty_cache()
                result = work(tried[-1])
            except (MemoryError, RuntimeError) as error:
                below = tried[-1].below() if _is_out_of_memory(error) else None
                if below is None:
                    raise _verdict(self._who, error, tried) from error
            else:
                # Remembered once it worked: a case too large for every rung must not slow the others.
                self._rung = tried[-1]
                return result
            # Not within `except`: there the traceback keeps the failed try's tensors alive.
            _log.warning("%s ran out of memory; trying %s", self._who, below)
            tried.append(below)


def _verdict(who: str, error: Exception, tried: Sequence[Rung]) -> GoatRayError:
    reason = first_line(error)
    if _is_out_of_memory(error):
        return CaseError(
            Category.OUT_OF_MEMORY,
            f"{who} ran out of memory with {', then '.join(map(str, tried))}: {reason}",
            "run fewer workers on the device, or use one with more memory",
        )
    if _is_lost(error):
        return DeviceLostError(f"{who} lost the device: {reason}")
    return CaseError(Category.MODEL_FAILED, f"{who} failed: {reason}", "see the worker's log")


def _is_out_of_memory(error: Exception) -> bool:
    is_typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_typed or _OUT_OF_MEMORY.search(str(error)) is not None


def _is_lost(error: Exception) -> bool:
    # torch has the type since 2.8 only.
    is_typed = isinstance(error, getattr(torch, "AcceleratorError", ()))
    return is_typed or _LOST.search(str(error)) is not None


def first_line(error: Exception) -> str:
    """An error's message without torch's traces; its type where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
