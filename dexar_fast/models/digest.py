"""Weights in a few characters: the same model under another name, or another one under the same."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from .state import offloaded_weights

_VALUES = 256  # of each weight


def weights_digest(model: nn.Module) -> str:
    """Of the weights: their names, shapes, dtypes, and 256 values spread over each, so that it takes no time.

    Training, adapters and quantisation change nearly every value; it is not made to find a single one that was edited.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path, module in model.named_modules():
        offloaded = offloaded_weights(module)
        for name, weight in module.named_parameters(recurse=False):
            values: Tensor = offloaded.get(name, weight)
            digest.update(f"{path}.{name} {tuple(values.shape)} {values.dtype}\n".encode())
            if not values.is_meta and values.numel():
                flat = values.detach().reshape(-1)
                spread = flat[:: max(1, flat.numel() // _VALUES)].contiguous().cpu()
                digest.update(spread.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
