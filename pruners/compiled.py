"""Make `torch.compile` take notice of hooks that come and go.

Compiled code does not check whether hooks were added since: a model that was compiled, and called, before it
is pruned would go on unpruned, and say nothing.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

_TORCH = Path(torch.__file__).parent


def original(model: nn.Module) -> nn.Module:
    """The module itself, where `torch.compile(module)` was handed in."""
    return getattr(model, "_orig_mod", model)


def forget_compiled() -> None:
    """Have compiled code made anew at its next call, of every model in the process, if any was compiled."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    seen = [] if dynamo is None else [code() for code in dynamo.convert_frame.input_codes.seen]
    if any(code is not None and _calls_modules(Path(code.co_filename)) for code in seen):
        torch.compiler.reset()


def _calls_modules(file: Path) -> bool:
    """Whether code of this file may run hooks. torch's own does so in nn.Module alone.

    transformers compiles torch's flex attention itself, once: it takes too long to be done for every handle.
    """
    return not file.is_relative_to(_TORCH) or file.is_relative_to(_TORCH / "nn" / "modules")
