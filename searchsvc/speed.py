"""Prefill and decode times and memory of a model, measured one way beside another.

A *way* puts the model in the state that is to be measured: `unpruned`, or under a pruning. Ways take turns,
in changing order, so that drift and whoever else uses the machine hit them alike; then ratios are taken round
by round.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from pruners import Pruning, pruned
from studies.intervals import Interval, median_interval

#: Tokens generated after the first one when the decode time is measured.
DECODED = 8

Inputs = Mapping[str, Any]
Way = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seconds of one `generate`: until the first token's logits, and for each token after it."""

    prefill: float
    decode: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Medians over rounds; what is not known on this machine is None."""

    prefill_ms: float
    decode_ms_per_token: float
    samples_per_second: float
    #: Peak resident memory of the process (CPU, Linux) or peak allocated memory (CUDA) in a prefill.
    peak_memory_mib: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields by name."""
        return asdict(self)


def unpruned() -> AbstractContextManager[None]:
    """The model as it is."""
    return nullcontext()


def pruned_by(model: Any, pruning: Pruning) -> Way:
    """Return the way of a pruning."""
    return partial(pruned, model, pruning)


def take_turns(model: Any, inputs: Inputs, ways: Mapping[str, Way], rounds: int) -> dict[str, list[Run]]:
    """Measure every way once per round, after one run of each that does not count."""
    for way in ways.values():
        measure(model, inputs, way)
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for round_ in range(rounds):
        for name in list(ways)[:: -1 if round_ % 2 else 1]:
            runs[name].append(measure(model, inputs, ways[name]))
    return runs


def measure(model: Any, inputs: Inputs, way: Way) -> Run:
    """Time one `generate` of 1 + DECODED tokens."""
    stamps: list[float] = []

    def stamp(_ids: Tensor, scores: Tensor) -> Tensor:
        synchronize()
        stamps.append(time.perf_counter())
        return scores

    with way(), torch.inference_mode():
        synchronize()
        start = time.perf_counter()
        _generate(model, inputs, 1 + DECODED, logits_processor=LogitsProcessorList([stamp]))
    return Run(prefill=stamps[0] - start, decode=(stamps[-1] - stamps[0]) / (len(stamps) - 1))


def ratio(ours: Sequence[float], others: Sequence[float], level: float = 0.95) -> Interval:
    """Return the median over rounds of ours / others, with its interval."""
    return median_interval([a / b for a, b in zip(ours, others, strict=True)], level)


def speed(runs: Sequence[Run], batch: int, memory: float | None) -> Speed:
    """Return the medians of a way's runs on `batch` samples."""
    prefill = median(run.prefill for run in runs)
    return Speed(
        prefill_ms=1000 * prefill,
        decode_ms_per_token=1000 * median(run.decode for run in runs),
        samples_per_second=batch / prefill,
        peak_memory_mib=memory,
    )


def side_by_side(model: Any, inputs: Inputs, pruning: Pruning, rounds: int) -> dict[str, Any]:
    """Return the speed of a pruning and of none on one batch, and their ratios with intervals."""
    ways = {"pruned": pruned_by(model, pruning), "unpruned": unpruned}
    memory = {name: peak_memory(model, inputs, way) for name, way in ways.items()}
    runs = take_turns(model, inputs, ways, rounds)
    batch = int(inputs["input_ids"].shape[0])
    return {
        "device": str(model.device),
        "batch_size": batch,
        "rounds": rounds,
        **{name: speed(runs[name], batch, memory[name]).to_dict() for name in ways},
        **ratios(runs["pruned"], runs["unpruned"]),
    }


def ratios(ours: Sequence[Run], others: Sequence[Run]) -> dict[str, Any]:
    """Return the ratios of prefill and decode, `<what>_ratio` and `<what>_interval_95`."""
    found: dict[str, Any] = {}
    for what in ("prefill", "decode"):
        bounds = ratio([getattr(run, what) for run in ours], [getattr(run, what) for run in others])
        found |= {f"{what}_ratio": bounds.estimate, f"{what}_interval_95": [bounds.low, bounds.high]}
    return found


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or "cpu" with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Wait for the device, so that the clock reads what was done and not what was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(model: Any, inputs: Inputs, way: Way) -> float | None:
    """Return the highest memory of a prefill in MiB (`Speed.peak_memory_mib`); None where it is not known."""
    gc.collect()
    with way(), torch.inference_mode(), _peak(model.device) as peak:
        _generate(model, inputs, 1)
    return peak()


def _generate(model: Any, inputs: Inputs, tokens: int, **options: Any) -> None:
    model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **options)


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
