"""Video: a map per frame, or per pair of frames where the model merges time. Tensors are made by hand.

transformers' video processors need torchvision; what they return is a tensor of patches and a grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dexar_fast import Explainer

from .case import all_cases, answer, picture
from .oracle import DoubleThroughout, expected
from .test_families import assert_close, run

FRAMES, ROWS, COLS = 3, 4, 6  # of patches; merged 2 x 2


def video_inputs(model: Any) -> dict[str, Tensor]:
    """Text, a video, text, an image, text."""
    generator = torch.Generator().manual_seed(5)
    config = model.config
    video = [config.vision_start_token_id] + [config.video_token_id] * (FRAMES * ROWS * COLS // 4)
    image = [config.vision_start_token_id] + [config.image_token_id] * 4
    ids = torch.tensor([[70, 71, *video, config.vision_end_token_id, 80, *image, config.vision_end_token_id, 90, 91]])
    kinds = torch.zeros_like(ids)
    kinds[ids == config.image_token_id], kinds[ids == config.video_token_id] = 1, 2
    width = 3 * 2 * config.vision_config.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": kinds,
        "pixel_values": torch.randn(16, width, generator=generator, dtype=torch.float64),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "pixel_values_videos": torch.randn(FRAMES * ROWS * COLS, width, generator=generator, dtype=torch.float64),
        "video_grid_thw": torch.tensor([[FRAMES, ROWS, COLS]]),
    }


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_a_map_for_each_pair_of_frames(name: str) -> None:
    case = all_cases()[name]
    explainer = Explainer(case.model("eager").double(), case.processor())
    inputs, ids = video_inputs(explainer.model), answer(4)
    if name == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([1.0], dtype=torch.float64)
    is_image = explainer.decoder.is_placeholder(torch.cat((inputs["input_ids"][0], ids)))
    with DoubleThroughout():
        wanted = expected(explainer.decoder, inputs, ids, is_image, ~is_image)
        _, sums = run(explainer, inputs, ids)
        e = explainer.explain_ids(
            inputs, ids, image=[picture((60, 40), seed) for seed in range(FRAMES)] + [picture()], method="dexar"
        )
    assert_close(sums.maps, wanted.maps, 1e-9, "maps")
    assert_close(sums.text_scores, wanted.text_scores, 1e-9, "S_text")
    assert [maps.shape for maps in e.token_maps] == [(4, 2, 3)] * FRAMES + [(4, 2, 2)]
    first = wanted.maps.reshape(4, -1)
    low, high = first.amin(1, keepdim=True), first.amax(1, keepdim=True)
    frames = ((first - low) / (high - low))[:, : FRAMES * 6].reshape(4, FRAMES, 2, 3)
    for index in range(FRAMES):
        np.testing.assert_allclose(e.token_maps[index], frames[:, index], atol=1e-9)
    assert e.grids[0].image_size == (60, 40)
