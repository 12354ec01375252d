"""Make `torch.compile` take notice of hooks that come and go.

Compiled code does not check whether hooks were added since: a model that was compiled, and called, before it
is pruned would go on unpruned, and say nothing.
"""

import sys
from typing import Any

import torch
from torch import nn


def original(model: nn.Module) -> nn.Module:
    """The module itself, where `torch.compile(module)` was handed in."""
    return getattr(model, "_orig_mod", model)


def forget_compiled() -> None:
    """Have compiled code made anew at its next call, if any was made: that of every model in the process."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.convert_frame.input_codes.seen:
        torch.compiler.reset()
