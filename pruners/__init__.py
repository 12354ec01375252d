"""Prune the visual tokens of a vision-language model by a profile.

>>> profile = pruners.PruningProfile.load("profile.yaml")       # doctest: +SKIP
>>> with pruners.pruned(model, profile):                        # doctest: +SKIP
...     model.generate(**inputs)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruners.profile import PruningProfile
    from pruners.pruning import Pruning
    from pruners.runtime import Handle, attach, pruned

__all__ = ["Handle", "Pruning", "PruningProfile", "attach", "pruned"]

_MODULE_OF = {
    "Handle": "pruners.runtime",
    "Pruning": "pruners.pruning",
    "PruningProfile": "pruners.profile",
    "attach": "pruners.runtime",
    "pruned": "pruners.runtime",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: `import pruners` itself loads neither torch nor pydantic."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pruners' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)
