"""torch-cam's face: token maps and weights of its ``DEXAR``, without eager attention and in one pass.

torch-cam's own class is in its main branch, not in release 0.5.0; it differentiates attention token by token. Nothing
of it is needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..engine.aggregate import minmax
from ..errors import InputError
from ..explainer import Explainer


def explain_vlm(model: Any, inputs: Mapping[str, Tensor], answer_ids: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Maps and weights of every token of an answer, as torch-cam's ``DEXAR`` gives them (Eq. 4 and 5).

    Args:
        model: a transformers model with any attention, or an `Explainer` of it, which checks its layers once only.
        inputs: the processor's output for the prompt, of one image.
        answer_ids: ``(N,)`` or ``(1, N)``, the answer's N tokens.
        options: of `Explainer.explain_ids`, such as layers.

    Returns:
        ``(N, h, w)`` in [0, 1] and ``(N,)``, on the CPU.

    Raises:
        InputError: several images, or an image without a 2-D map; and as `Explainer.explain_ids`.
    """
    explainer = model if isinstance(model, Explainer) else Explainer(model)
    e = explainer.explain_ids(inputs, answer_ids, method="dexar", **options)
    e.require_map()
    if len(e.grids) != 1:
        raise InputError(f"inputs: expected one image, as torch-cam does; got {len(e.grids)}")
    return torch.from_numpy(e.token_maps), torch.from_numpy(e.token_weights)


def aggregate(maps: Tensor, weights: Tensor) -> Tensor:
    """The map of the whole answer (Eq. 6).

    Args:
        maps: ``(N, h, w)``, each rescaled to [0, 1] before it is weighted.
        weights: ``(N,)``, not negative.

    Returns:
        ``(h, w)`` in [0, 1]; zero where all weights are.

    Raises:
        InputError: other shapes.
    """
    if maps.ndim != 3 or weights.shape != maps.shape[:1]:
        raise InputError(
            f"maps, weights: expected (N, h, w) and (N,); got {tuple(maps.shape)} and {tuple(weights.shape)}"
        )
    return minmax(weights @ minmax(maps.flatten(1))).view(maps.shape[1:])
