"""How much memory there is for snapshots."""

import sys
from pathlib import Path

import psutil
import torch

#: of what is free once the model is loaded; the rest is for running it
SHARE = 0.5
_CGROUP = Path("/sys/fs/cgroup")


def snapshot_memory(device: torch.device, sharers: int) -> int:
    """Bytes that an evaluator whose model is loaded may take for snapshots by default.

    `sharers` evaluators share the GPU, or the machine; the others may not have loaded their models yet.
    """
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0] / sharers)
    ours = psutil.Process().memory_info().rss
    free = min(psutil.virtual_memory().available - (sharers - 1) * ours, _limit() - sharers * ours)
    return max(0, int(SHARE * free / sharers))


def _limit() -> int:
    """A container's limit, where there is one."""
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):
        return sys.maxsize
