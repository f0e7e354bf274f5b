"""What of an explanation is the caller's choice, checked before anything expensive runs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.row_chunk import check_row_chunk
from ..errors import InputError
from ..layout.image_layout import THUMBNAILS
from .contrast import Contrast, check_contrast
from .layers import LayerSelection, select_layers
from .methods import METHODS
from .targets import TargetSelection, check_targets

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
    targets: TargetSelection = "tokens"
    contrast: Contrast = None

    @property
    def asked(self) -> dict[str, Any]:
        """Targets and contrast as JSON values."""
        targets: Any = self.targets
        if isinstance(targets, re.Pattern):
            targets = {"pattern": targets.pattern, "flags": targets.flags}
        elif not isinstance(targets, str):
            targets = [[int(end) for end in span] for span in targets]
        contrast: Any = self.contrast
        if isinstance(contrast, Integral):
            contrast = int(contrast)
        elif contrast is not None and not isinstance(contrast, str):
            contrast = [int(foil) if isinstance(foil, Integral) else foil for foil in contrast]
        return {"targets": targets, "contrast": contrast}


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
    targets: TargetSelection = "tokens",
    contrast: Contrast = None,
) -> Options:
    """The options of one call.

    Raises:
        InputError: layers that a model of ``n_layers`` does not have or that are not among those ``with_attention`` to
            the image, an unknown name, or targets or a contrast that the method cannot explain.
    """
    if method not in METHODS:
        _check_comparison(method, unfiltered)
    if normalization not in NORMALIZATIONS:
        raise InputError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}; got {normalization!r}")
    if isinstance(text_set, str) and text_set not in TEXT_SETS:
        raise InputError(f"text_set: expected one of {', '.join(TEXT_SETS)} or a bool mask; got {text_set!r}")
    if thumbnail not in THUMBNAILS:
        raise InputError(f"thumbnail: expected one of {', '.join(THUMBNAILS)}; got {thumbnail!r}")
    check_row_chunk(row_chunk)
    if not isinstance(text_set, str):
        text_set = torch.as_tensor(text_set)
    check_targets(targets, method)
    check_contrast(contrast, method)
    chosen = select_layers(layers, n_layers, with_attention)
    return Options(chosen, method, normalization, text_set, unfiltered, thumbnail, row_chunk, targets, contrast)


def _check_comparison(method: str, unfiltered: bool) -> None:
    from ..methods.comparisons import COMPARISONS  # imported by those who compare

    if method not in COMPARISONS:
        raise InputError(f"method: expected one of {', '.join((*METHODS, *COMPARISONS))}; got {method!r}")
    if unfiltered:
        raise InputError(f"unfiltered: method {method!r} filters no heads; leave it out, or use a dexar method")
