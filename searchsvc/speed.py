"""Prefill, decode, throughput and memory of a model under a profile, measured beside no pruning."""

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pruners import Pruning, pruned

#: Tokens generated after the first one when the decode time is measured.
DECODED = 8

Inputs = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Medians over repeats; what is not known on this machine is None."""

    prefill_ms: float
    decode_ms_per_token: float
    samples_per_second: float
    #: Peak resident memory of the process (CPU, Linux) or peak allocated memory (CUDA) in a prefill.
    peak_memory_mib: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields by name."""
        return asdict(self)


def side_by_side(model: Any, inputs: Inputs, pruning: Pruning, repeats: int = 7) -> tuple[Speed, Speed]:
    """Measure (pruned, unpruned) on one batch; they take turns, so that drift hits both alike."""
    ways: tuple[Pruning | None, Pruning | None] = (pruning, None)
    memory = [_peak_memory(model, inputs, way) for way in ways]
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(repeats):
        for index, way in enumerate(ways):
            times[index].append(_timed(model, inputs, way))
    batch = int(inputs["input_ids"].shape[0])
    return _speed(times[0], memory[0], batch), _speed(times[1], memory[1], batch)


def _speed(times: list[tuple[float, float]], memory: float | None, batch: int) -> Speed:
    prefill = median(first for first, _ in times)
    whole = median(all_ for _, all_ in times)
    return Speed(
        prefill_ms=1000 * prefill,
        decode_ms_per_token=1000 * max(whole - prefill, 0.0) / DECODED,
        samples_per_second=batch / prefill,
        peak_memory_mib=memory,
    )


def _timed(model: Any, inputs: Inputs, pruning: Pruning | None) -> tuple[float, float]:
    """Return the seconds of `generate` for the first token alone, and for DECODED tokens more."""
    with _applied(model, pruning):
        return _seconds(lambda: _generate(model, inputs, 1)), _seconds(
            lambda: _generate(model, inputs, 1 + DECODED)
        )


def _generate(model: Any, inputs: Inputs, tokens: int) -> None:
    model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)


def _seconds(work: Callable[[], None]) -> float:
    _synchronize()
    start = time.perf_counter()
    with torch.inference_mode():
        work()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _applied(model: Any, pruning: Pruning | None) -> Any:
    return nullcontext() if pruning is None else pruned(model, pruning)


def _peak_memory(model: Any, inputs: Inputs, pruning: Pruning | None) -> float | None:
    with _applied(model, pruning), torch.inference_mode(), _peak(model.device) as peak:
        _generate(model, inputs, 1)
    return peak()


@contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], float | None]]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) / 2**20
        return
    known = _reset_resident_peak()
    found: list[float | None] = []
    yield lambda: found[0]
    found.append(_resident_peak() if known else None)


def _reset_resident_peak() -> bool:
    """Give freed memory back and start the kernel's high-water mark anew; False where there is none."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _resident_peak() -> float | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None
