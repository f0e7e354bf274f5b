"""The library's choice of tiles is that of transformers' processors, for images of every shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas as closest_canvas

from dexar_fast.models.families.cohere2_vision import least_enlarging_tiling
from dexar_fast.models.families.internvl import Tiling, closest_tiling

from .torchvision_free import torchvision_free

least_enlarging_canvas = torchvision_free(
    "transformers.models.cohere2_vision.image_processing_cohere2_vision", "get_optimal_tiled_canvas"
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(closest_tiling, closest_canvas), (least_enlarging_tiling, least_enlarging_canvas)],
    ids=["closest", "least enlarging"],
)
@pytest.mark.parametrize(("fewest", "most"), [(1, 12), (2, 7), (1, 1)])
def test_same_tiles(ours: Tiling, theirs: Callable[..., tuple[int, int]], fewest: int, most: int) -> None:
    generator = np.random.default_rng(3)
    sizes = [(448, 448), (896, 448), (1, 1), (1, 5000), (300, 200), (449, 897)]
    sizes += [(int(w), int(h)) for w, h in generator.integers(1, 3000, (150, 2))]
    for width, height in sizes:
        cols, rows = theirs((height, width), (448, 448), fewest, most)
        assert ours((width, height), (448, 448), fewest, most) == (rows, cols), f"{width} x {height}"
