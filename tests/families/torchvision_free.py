"""transformers' image processors that exist for torchvision alone, without it: a few functions of torch in its place.

What they decide (sizes, tiles, order) is their own code; only pixels are computed by torch instead.
"""

from __future__ import annotations

import importlib
import sys
from enum import Enum
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import image_processing_backends
from transformers.image_utils import PILImageResampling
from transformers.utils import is_torchvision_available


class InterpolationMode(Enum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"  # only named, never asked for here


def resize(
    image: Tensor, size: Any, interpolation: InterpolationMode = InterpolationMode.BILINEAR, antialias: bool = True
) -> Tensor:
    batch = image.reshape(-1, *image.shape[-3:])
    out = torch.nn.functional.interpolate(batch, tuple(size), mode=interpolation.value, antialias=antialias)
    return out.reshape(*image.shape[:-2], *size)


def pad(image: Tensor, padding: list[int], fill: Any = 0, padding_mode: str = "constant") -> Tensor:
    left, top, right, bottom = padding
    value = fill[0] if isinstance(fill, list) else fill
    return torch.nn.functional.pad(image, (left, right, top, bottom), mode=padding_mode, value=value)


def normalize(image: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    mean, std = (torch.as_tensor(x, dtype=image.dtype).reshape(-1, 1, 1) for x in (mean, std))
    return (image - mean) / std


def pil_to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def torchvision_free(module: str, name: str) -> Any:
    """A class of a module of transformers that imports torchvision."""
    if is_torchvision_available():
        return getattr(importlib.import_module(module), name)
    functional: Any = ModuleType("torchvision.transforms.v2.functional")
    for function in (resize, pad, normalize, pil_to_tensor):
        setattr(functional, function.__name__, function)
    functional.grayscale_to_rgb = lambda image: image
    functional.InterpolationMode = InterpolationMode
    v2: Any = ModuleType("torchvision.transforms.v2")
    v2.functional = functional
    fakes = {"torchvision": ModuleType("torchvision"), "torchvision.transforms": ModuleType("torchvision.transforms")}
    with patch.dict(sys.modules, {**fakes, v2.__name__: v2, functional.__name__: functional}):
        found = getattr(importlib.import_module(module), name)
    # Where there is no torchvision, nobody else reads these two.
    vars(image_processing_backends)["tvF"] = functional
    vars(image_processing_backends)["pil_torch_interpolation_mapping"] = {
        PILImageResampling.BILINEAR: InterpolationMode.BILINEAR,
        PILImageResampling.BICUBIC: InterpolationMode.BICUBIC,
    }
    return found
