"""Where a result comes from: model, precision, attention, backend and versions."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers

from .. import __version__
from ..models.decoder import Decoder
from ..models.state import main_device
from ..ops import resolve_backend


def provenance(decoder: Decoder, model_name: str, backend: str) -> dict[str, Any]:
    """JSON values for `Explanation.settings`."""
    model, family = decoder.model, decoder.family
    device = main_device(model)
    return {
        "model": model_name,
        "revision": getattr(model.config, "_commit_hash", None),
        "model_class": type(model).__name__,
        "family": family.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(device),
        "attention": decoder.attention_implementation,
        "gradient_path": family.gradient_path,
        "backend": resolve_backend(backend, device, model.dtype),
        "versions": {
            "python": platform.python_version(),
            "dexar_fast": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
