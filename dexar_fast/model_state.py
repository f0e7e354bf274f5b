"""Leave the user's model exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, without gradients, inference mode and autocast; the caller's state comes back after it.

    Dropout must be off for an explanation to be the model's own. Tensors made in inference mode could not take part in
    the answer pass's local gradients, and autocast would mix dtypes within one layer.
    """
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters()).device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def keeping(module: nn.Module, attributes: Sequence[str]) -> Iterator[None]:
    """Put back the notes that some models keep on themselves while they run, such as M-RoPE's offset."""
    values = {name: getattr(module, name) for name in attributes}
    try:
        yield
    finally:
        for name, value in values.items():
            setattr(module, name, value)
