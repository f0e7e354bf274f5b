"""A layout for declarations: so many rows and columns of tokens for every image."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...layout.image_layout import LayoutBuilder
from ..family import Prompt
from .llava import cropped_box


def fixed_grid(rows: int, cols: int) -> Callable[[Prompt, LayoutBuilder], None]:
    """A layout of ``rows x cols`` tokens for every image, on what a CLIP-like processor leaves of it."""

    def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
        ids = prompt["input_ids"]
        placeholders = torch.isin(ids, torch.tensor(list(prompt.placeholder_ids), device=ids.device, dtype=ids.dtype))
        for _ in range(max(1, int(placeholders.sum()) // (rows * cols))):
            size = tokens.image((cols, rows))
            tokens.grid(rows, cols, cropped_box(prompt, size))

    return layout
