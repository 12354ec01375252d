"""Run a prefill from the first layer on at which it differs from one that ran before.

Two prefills of one batch are alike up to the first reduction in which they differ. What the layers behind it
need is a `Snapshot`: the hidden states there, what was kept so far, the cache's layers, and what rankers were
told. The model's own forward runs as always, but decoder layers before the snapshot are passed over, so that
the numbers are those of a whole run, bit for bit.

Letters: B samples, W places of a pruned row, L layers.
"""

import copy
import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pruners.forwards import Forward, replaced_forward
from pruners.handle import Handle
from pruners.layout import Stage
from pruners.prefill import Prefill
from pruners.pruning import Pruning
from pruners.runtime import pruned


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A prefill before one of its layers, as the layer before left it. Nothing in it is ever written to."""

    #: the layer that would run next
    layer: int
    #: what decides all of the rest, for one batch
    prefix: Hashable
    #: the output of the layer before: (B, W, D), or a tuple that begins with it
    output: Any
    #: what layers 0 to `layer` - 1 saw
    stages: tuple[Stage, ...]
    #: these layers of the cache; empty where the call has no cache
    cached: tuple[Any, ...]
    #: what rankers were told by the layer before, under what they ask for
    signals: Mapping[Hashable, Any]

    @cached_property
    def nbytes(self) -> int:
        """Bytes that it keeps from being freed: of whole storages, for some tensors are views."""
        held = _tensors([self.output, self.cached, self.signals, self.stages])
        storages = {(s := tensor.untyped_storage()).data_ptr(): s.nbytes() for tensor in held}
        return sum(storages.values())


class Snapshots(Protocol):
    """Remembers snapshots of the calls of one batch."""

    def find(self, call: Hashable, prefill: Prefill) -> Snapshot | None:
        """The deepest snapshot of an equal call that `prefill` can go on from."""

    def wanted(self, call: Hashable, prefill: Prefill) -> set[int]:
        """The layers before which snapshots of this prefill are worth having."""

    def keep(self, call: Hashable, snapshot: Snapshot) -> None:
        """Remember one, or not."""


def continues(prefill: Prefill, snapshot: Snapshot) -> bool:
    """Whether a prefill is alike up to a snapshot, which has what its next reduction ranks by."""
    layer = snapshot.layer
    asked = prefill.asks(layer)
    return prefill.plan.prefix(layer) == snapshot.prefix and (asked is None or asked in snapshot.signals)


@contextmanager
def replayed(model: nn.Module, pruning: Pruning, snapshots: Snapshots) -> Iterator[Handle]:
    """`pruned` for calls of one batch whose prefills go on from snapshots, and leave some.

    The image features of all calls that share `snapshots` must be the same.
    """
    with pruned(model, pruning) as handle, ExitStack() as stack:
        replay = _Replay(handle, snapshots)
        handle.on_prefill = replay.begin
        for number, layer in enumerate(handle.family.layers):
            stack.enter_context(replaced_forward(layer, replay.around(number)))
        try:
            yield handle
        finally:
            # no cycle: whatever the last call held is freed with the handle, not when garbage is collected
            handle.on_prefill = None


class _Replay:
    def __init__(self, handle: Handle, snapshots: Snapshots) -> None:
        self._handle, self._snapshots = handle, snapshots
        self._call: Hashable = None
        self._prefill: Prefill | None = None
        self._from: Snapshot | None = None
        self._wanted: set[int] = set()

    def begin(self, prefill: Prefill, arguments: Mapping[str, Any]) -> None:
        """Before a prefill: where it goes on from, and which snapshots it leaves."""
        self._prefill = self._from = None
        if prefill.call.start:
            return
        self._call, self._prefill = _identity(prefill, arguments), prefill
        self._from = self._snapshots.find(self._call, prefill)
        self._wanted = self._snapshots.wanted(self._call, prefill)
        if self._from is not None:
            prefill.resume(self._from.layer, self._from.stages, self._from.cached)
            prefill.told(self._from.layer, self._from.signals)

    def around(self, number: int) -> Any:
        """A decoder layer's forward: passed over before the snapshot, noted where one is wanted."""

        def make(forward: Forward) -> Forward:
            def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
                prefill = self._prefill
                if prefill is None or not self._handle.serves(prefill):
                    return forward(hidden, *args, **kwargs)
                if self._from is not None and number < self._from.layer:
                    return _passed(hidden, self._from, number)
                output = forward(hidden, *args, **kwargs)
                if number + 1 in self._wanted:
                    self._snapshots.keep(self._call, _snapshot(prefill, number + 1, output))
                return output

            return run

        return make


def _passed(hidden: Tensor, snapshot: Snapshot, number: int) -> Any:
    """What a layer that is passed over returns: its input, and the last of them what the snapshot holds.

    A copy, because a model may write into what a layer returned.
    """
    output = snapshot.output
    if number < snapshot.layer - 1:
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])
    return output.clone() if isinstance(output, Tensor) else (output[0].clone(), *output[1:])


def _snapshot(prefill: Prefill, layer: int, output: Any) -> Snapshot:
    held = () if prefill.cache is None else tuple(prefill.cache.layers[:layer])
    return Snapshot(
        layer,
        prefill.plan.prefix(layer),
        output.clone() if isinstance(output, Tensor) else (output[0].clone(), *output[1:]),
        tuple(prefill.stages),
        tuple(copy.copy(each) for each in held),
        prefill.tells(layer),
    )


def _identity(prefill: Prefill, arguments: Mapping[str, Any]) -> Hashable:
    """What makes two calls on the same image features one call."""
    call = prefill.call
    parts = torch.stack([call.ids, call.real.long(), call.prompt.long()]).cpu()
    cached = arguments.get("past_key_values") is not None or arguments.get("use_cache") is not False
    return tuple(parts.shape), hashlib.sha256(parts.numpy().tobytes()).digest(), cached


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        yield from _tensors(list(vars(value).values()))
