"""How much of a prefill our own code takes, by the clock around it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

import pruners.watch
from pruners import Pruning, pruned
from pruners.handle import Handle
from pruners.prefill import Prefill
from searchsvc.speed import Inputs, synchronize

_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Shares of a prefill's time, medians over repeats; upper bounds on a GPU, which the clock waits for."""

    #: scoring tokens (attention rows, probes, transport) and choosing among them
    ranking: float
    #: everything that runs because of pruning: ranking, gathering tokens, narrowing masks, reading the call
    hooks: float


class _Clock:
    """Adds up the time in some functions; of functions that call each other the outermost counts."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return work(*args, **kwargs)
            synchronize()
            self._inside, start = True, time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                synchronize()
                self.seconds += time.perf_counter() - start
                self._inside = False

        return timed


@contextmanager
def _clocked(ranking: _Clock, hooks: _Clock) -> Iterator[None]:
    places: list[tuple[Any, str, tuple[_Clock, ...]]] = [
        (pruners.watch, "attention_received", (ranking, hooks)),
        (Prefill, "_kept", (ranking,)),
        (Handle, "_begin", (hooks,)),
        (Handle, "_enter", (hooks,)),
        (Handle, "_see_mlp", (hooks,)),
        (Handle, "_end", (hooks,)),
    ]
    with ExitStack() as stack:
        for owner, name, clocks in places:
            work = getattr(owner, name)
            for clock in clocks:
                work = clock.around(work)
            stack.enter_context(patch.object(owner, name, work))
        yield


def overhead(model: Any, inputs: Inputs, pruning: Pruning) -> Overhead:
    """Time our code in a few prefills; decoding is counted in neither."""
    shares = [_once(model, inputs, pruning) for _ in range(_REPEATS)]
    return Overhead(
        ranking=median(ranking for ranking, _ in shares), hooks=median(hooks for _, hooks in shares)
    )


def _once(model: Any, inputs: Inputs, pruning: Pruning) -> tuple[float, float]:
    ranking, hooks = _Clock(), _Clock()
    with _clocked(ranking, hooks), pruned(model, pruning), torch.inference_mode():
        synchronize()
        start = time.perf_counter()
        model(**inputs, use_cache=True, logits_to_keep=1)
        synchronize()
        whole = time.perf_counter() - start
    return ranking.seconds / whole, hooks.seconds / whole
