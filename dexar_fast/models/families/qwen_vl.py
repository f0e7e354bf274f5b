"""Qwen-VL 2 to 3.5: grids of any shape, patches merged 2 x 2, video as a grid per merged pair of frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, next_positions, projected
from .videos import images_and_videos


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grid_thw` and `video_grid_thw` name frames, rows and columns of patches, in the order of the prompt."""
    config = prompt.config
    merge = config.vision_config.spatial_merge_size
    images, videos = iter(prompt.inputs.get("image_grid_thw", ())), iter(prompt.inputs.get("video_grid_thw", ()))
    for is_video in images_and_videos(prompt, tokens):
        grid = next(videos if is_video else images, None)
        if grid is None:
            return
        frames, rows, cols = grid.tolist()
        patch = config.vision_config.patch_size
        for _ in range(frames):
            tokens.image((cols * patch, rows * patch))
            tokens.expect_shape((cols * patch, rows * patch), rounded_to=merge * patch)
            tokens.grid(rows // merge, cols // merge)


INPUTS = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)


def continue_with_deepstack(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions; and DeepStack's features between layers, where the prompt's last token is an image's."""
    further = next_positions(decoder, arguments, answer_ids)
    visual = arguments.get("visual_pos_masks")
    if visual is None:
        return further
    of_rows = torch.zeros(1, len(answer_ids), dtype=torch.bool, device=visual.device)
    of_rows[:, 0] = visual[:, -1]
    n = int(visual[:, -1].sum())
    features = [of_layer[len(of_layer) - n :] for of_layer in arguments["deepstack_visual_embeds"]]
    return {**further, "visual_pos_masks": of_rows, "deepstack_visual_embeds": features}


def gated(attention: nn.Module, family: Family, out: Tensor, hidden_states: Tensor) -> Tensor:
    """The output projection behind a gate: per head, the second half of what `q_proj` gives."""
    width: Any = attention.head_dim
    gate = attention.get_submodule("q_proj")(hidden_states).unflatten(-1, (-1, 2 * width))[..., width:]
    return projected(attention, family, out * gate.flatten(-2).sigmoid(), hidden_states)


def _family(name: str, *more_types: str, **declared: Any) -> Family:
    return Family(
        name=name,
        model_types=(name, *more_types),
        layout=layout,
        run_state=("rope_deltas",),
        placeholders=("image_token_id", "video_token_id"),
        **{"inputs": INPUTS, **declared},
    )


QWEN2_VL = _family("qwen2_vl")
QWEN2_5_VL = _family("qwen2_5_vl", inputs=(*INPUTS, "second_per_grid_ts"))
QWEN3_VL = _family("qwen3_vl", "qwen3_vl_moe", continue_arguments=continue_with_deepstack)
# Most layers have a recurrent state in place of attention, which does not go back by the prompt's last token.
QWEN3_5 = _family("qwen3_5", "qwen3_5_moe", rows="whole", gradient_path="replay", project=gated)
