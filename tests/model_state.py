"""All of a model that attaching and detaching must leave as it was."""

from typing import Any

import torch
from torch import nn


def hooks_of(model: nn.Module) -> dict[str, Any]:
    """Every hook dictionary of every module, by its name."""
    return {
        f"{name}.{attribute}": list(hooks)
        for name, module in model.named_modules()
        for attribute, hooks in vars(module).items()
        if attribute.endswith("hooks") or "_hooks_with_kwargs" in attribute or "_hooks_always" in attribute
    }


def state_of(model: Any) -> tuple[Any, ...]:
    """Hooks, configuration, attention implementation, mode, and the weights' bits."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return (
        hooks_of(model),
        [config.to_dict() for config in configs],
        [config._attn_implementation for config in configs],
        [module.training for module in model.modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    weights = zip(before[-1].items(), after[-1].items(), strict=True)
    return before[:-1] == after[:-1] and all(a == b and torch.equal(x, y) for (a, x), (b, y) in weights)
