"""What this process's device has."""

import torch


def device_memory_bytes() -> int | None:
    """Memory of the first GPU that this process sees; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)
