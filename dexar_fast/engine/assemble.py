"""From tensors over cells to the result in numpy, the maps in the shape of their grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ..inputs.targets import Foil, Target
from ..layout.image_layout import ImageLayout
from ..layout.per_image import one_or_tuple
from ..result.explanation import Explanation, Floats, Maps
from .aggregate import Aggregate


def assemble(
    maps: Aggregate,
    scores: tuple[Tensor, Tensor],
    layout: ImageLayout,
    *,
    tokens: list[str],
    token_ids: Tensor,
    layers: tuple[int, ...],
    images: Sequence[Image.Image] | None,
    settings: dict[str, Any],
    targets: tuple[Target, ...] | None = None,
    foils: tuple[Foil | None, ...] | None = None,
) -> Explanation:
    """The result in numpy, the maps in the shape of their grids."""

    def shaped(flat: Tensor | None) -> Maps | None:
        return None if flat is None else one_or_tuple(layout.per_image(to_numpy(flat)))

    return Explanation(
        tokens=tokens,
        token_ids=token_ids.cpu().numpy(),
        token_maps=shaped(maps.token_maps),
        answer_map=shaped(maps.answer_map),
        token_weights=to_numpy(maps.token_weights),
        image_scores=to_numpy(scores[0]),
        text_scores=to_numpy(scores[1]),
        token_map_ranges=to_numpy(maps.token_map_ranges),
        layers=layers,
        grid=one_or_tuple(layout.grids) if layout.grids else None,
        settings=settings,
        image=None if images is None else one_or_tuple(images),
        unfiltered_token_maps=shaped(maps.unfiltered_token_maps),
        unfiltered_answer_map=shaped(maps.unfiltered_answer_map),
        targets=targets,
        foils=foils,
    )


def to_numpy(tensor: Tensor) -> Floats:
    """The same numbers on the CPU."""
    array: Floats = tensor.cpu().numpy()
    return array
