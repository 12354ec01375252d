"""Prune a model in place: hooks on, hooks off, and nothing else of it touched."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pruners.compiled import forget_compiled, original
from pruners.errors import ProfileError
from pruners.families import Family, describe
from pruners.handle import Handle
from pruners.profile import PruningProfile
from pruners.pruning import Pruning

__all__ = ["Handle", "attach", "pruned"]


def attach(model: nn.Module, pruning: Pruning) -> Handle:
    """Prune every prefill of `model` from now on, until `Handle.detach()`.

    `pruning` is a `PruningProfile`, or its ranker and schedule alone. Raises `ProfileError` where it does not
    fit the model, `UnsupportedModelError` where the model's structure is not known, `UnsupportedCallError`
    where the model is pruned already. What `torch.compile` made is made anew at its next call.
    """
    model = original(model)
    if isinstance(pruning, PruningProfile):
        pruning.check_model(model.config)
    family = describe(model)
    _check_fit(pruning, family)
    forget_compiled()
    return Handle(model, pruning, family)


@contextmanager
def pruned(model: nn.Module, pruning: Pruning) -> Iterator[Handle]:
    """`attach` for a `with` block; after it the model is as before, also when the block raises."""
    handle = attach(model, pruning)
    try:
        yield handle
    finally:
        handle.detach()


def _check_fit(pruning: Pruning, family: Family) -> None:
    rates, ranker = pruning.schedule.keep_rates, pruning.ranker
    if len(rates) != len(family.layers):
        raise ProfileError(
            f"schedule.keep_rates has {len(rates)} rates and the model {len(family.layers)} decoder layers: "
            "give one rate per layer"
        )
    if 0 < rates[0] < 1 and ranker.signal not in ("nothing", "prompts"):
        raise ProfileError(
            f"schedule.keep_rates prunes layer 0 to {rates[0]:g}, before which the {ranker.type} ranker has "
            "nothing to rank by: use the ranker random or uniform, or keep 1 in layer 0"
        )
