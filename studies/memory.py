"""How much memory there is for snapshots."""

from pathlib import Path

import psutil
import torch

#: of what is free once the model is loaded; the rest is for running it
SHARE = 0.5
_CGROUP = Path("/sys/fs/cgroup")


def snapshot_memory(device: torch.device, workers: int) -> int:
    """Bytes that each of `workers` evaluators on this machine may take for snapshots by default."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_ram()
    return int(SHARE * free / workers)


def _free_ram() -> int:
    """What the machine has left, or a container's limit."""
    free: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return min(free, limit - psutil.Process().memory_info().rss)
    except (OSError, ValueError):
        return free
