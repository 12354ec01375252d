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
from pruners.rankers import BEFORE_ANY_LAYER

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
    injected = family.traits.injected_layers
    if any(rate < 1 for rate in rates[:injected]):
        raise ProfileError(
            f"schedule.keep_rates prunes one of the first {injected} layers, after which this model adds "
            f"visual features by their unpruned places: keep 1 in layers 0 to {injected - 1}"
        )
    if family.traits.axial_positions and pruning.schedule.position_ids == "renumber":
        raise ProfileError(
            "schedule.position_ids 'renumber' means nothing where positions have several axes: use 'keep'"
        )
    if 0 < rates[0] < 1 and ranker.signal not in BEFORE_ANY_LAYER:
        raise ProfileError(
            f"schedule.keep_rates prunes layer 0 to {rates[0]:g}, before which the {ranker.type} ranker has "
            "nothing to rank by: use the ranker divprune, random or uniform, or keep 1 in layer 0"
        )
