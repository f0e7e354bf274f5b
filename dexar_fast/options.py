"""What of an explanation is the caller's choice, checked before anything expensive runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InputError
from .layers import LayerSelection, select_layers
from .layout import THUMBNAILS
from .methods import METHODS
from .row_chunk import check_row_chunk

NORMALIZATIONS = ("paper", "reference")
TEXT_SETS = ("all_non_image", "content_only", "generated_only")

TextSet = str | Tensor | NDArray[np.bool_]


@dataclass(frozen=True)
class Options:
    """Attributes are those of `Explainer.explain`; `layers` are indices from 0, `text_set` a name or a bool tensor."""

    layers: tuple[int, ...]
    method: str
    normalization: str
    text_set: str | Tensor
    unfiltered: bool
    thumbnail: str = "blend"
    row_chunk: int | str = "auto"


def check_options(
    layers: LayerSelection,
    method: str,
    normalization: str,
    text_set: TextSet,
    unfiltered: bool,
    n_layers: int,
    *,
    with_attention: Collection[int] | None = None,
    thumbnail: str = "blend",
    row_chunk: int | str = "auto",
) -> Options:
    """The options of one call.

    Raises:
        InputError: layers that a model of ``n_layers`` does not have or that are not among those ``with_attention`` to
            the image, or an unknown name.
    """
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if normalization not in NORMALIZATIONS:
        raise InputError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}; got {normalization!r}")
    if isinstance(text_set, str) and text_set not in TEXT_SETS:
        raise InputError(f"text_set: expected one of {', '.join(TEXT_SETS)} or a bool mask; got {text_set!r}")
    if thumbnail not in THUMBNAILS:
        raise InputError(f"thumbnail: expected one of {', '.join(THUMBNAILS)}; got {thumbnail!r}")
    check_row_chunk(row_chunk)
    if not isinstance(text_set, str):
        text_set = torch.as_tensor(text_set)
    chosen = select_layers(layers, n_layers, with_attention)
    return Options(chosen, method, normalization, text_set, unfiltered, thumbnail, row_chunk)
