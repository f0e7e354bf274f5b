"""Idefics 3 and SmolVLM: tiles between `<row_r_col_c>` markers, then the image as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from math import isqrt
from typing import Any

from ...errors import InputError
from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt

TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Runs of image tokens; a run behind a marker is a tile, one without is the whole image and its last run."""
    config = prompt.config
    side = isqrt((config.vision_config.image_size // config.vision_config.patch_size) ** 2 // config.scale_factor**2)
    height, width = prompt["pixel_values"].shape[-2:]
    tiles: list[tuple[int, int]] = []
    for marker in marked_runs(prompt, TILE):
        if marker is not None:
            tiles.append(marker)
        else:
            one_image(tokens, tiles, side, (width, height))
            tiles = []


def marked_runs(prompt: Prompt, pattern: re.Pattern[str]) -> Iterator[tuple[int, int] | None]:
    """Of each run of placeholders, the row and column, from 1, that the token before it names; None if it names none.

    Args:
        prompt: with a processor, whose tokenizer knows the markers.
        pattern: of a marker, with groups for row and column.
    """
    ids = prompt["input_ids"][0].tolist()
    markers = _markers(prompt, pattern)
    position = 0
    for is_image, run in groupby(ids, lambda i: i == prompt.config.image_token_id):
        if is_image:
            yield markers.get(ids[position - 1]) if position else None
        position += len(list(run))


def one_image(
    tokens: LayoutBuilder, tiles: list[tuple[int, int]], side: int, tile: tuple[int, int], *, whole: bool = True
) -> None:
    """The next image: tiles of ``side x side`` tokens, if any, then it as a ``whole`` where that is shown too.

    Args:
        tiles: row and column of each, from 1.
        tile: ``(width, height)`` of one in model pixels.
    """
    rows, cols = tiles[-1] if tiles else (1, 1)
    canvas = cols * tile[0], rows * tile[1]
    width, height = tokens.image(canvas)
    if tiles:
        tokens.expect_shape(canvas, rounded_to=max(tile))
        for box in tile_boxes((0.0, 0.0, float(width), float(height)), rows, cols):
            tokens.grid(side, side, box)
    if whole:
        tokens.grid(side, side, thumbnail=bool(tiles))


def _markers(prompt: Prompt, pattern: re.Pattern[str]) -> dict[int, tuple[int, int]]:
    """Row and column, from 1, by the id of the marker token."""
    processor: Any = prompt.processor
    if processor is None:
        raise InputError(
            "processor: its tokenizer says which tokens mark rows and columns of tiles, and this Explainer has none. "
            "Pass Explainer(model, processor)."
        )
    found = {index: pattern.fullmatch(text) for text, index in processor.tokenizer.get_added_vocab().items()}
    return {index: (int(match[1]), int(match[2])) for index, match in found.items() if match}


FAMILY = Family(
    name="idefics3",
    model_types=("idefics3", "smolvlm"),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"),
    decoder="model.text_model",
    layers="model.text_model.layers",
    final_norm="model.text_model.norm",
)
