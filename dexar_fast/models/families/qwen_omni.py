"""Qwen2.5-Omni and Qwen3-Omni: the thinker, a Qwen-VL that also hears. Of a whole model, what speaks is left out."""

from __future__ import annotations

from typing import Any

import transformers
from packaging.version import Version

from ..family import Family
from .grid_thw import grid_thw
from .qwen_vl import INPUTS, continue_with_deepstack

# Before, the thinker itself held the parts of its base model.
_BASE: dict[str, Any] = (
    {}
    if Version(transformers.__version__) >= Version("5.20")
    else {"base": "", "decoder": "model", "layers": "model.layers", "final_norm": "model.norm"}
)
_INPUTS = (*(name for name in INPUTS if name != "mm_token_type_ids"), "video_second_per_grid")


def _family(name: str, **declared: Any) -> Family:
    return Family(
        name=name,
        model_types=(f"{name}_thinker", name),
        layout=grid_thw,
        run_state=("rope_deltas",),
        placeholders=("image_token_id", "video_token_id"),
        end_ids=(151645,),  # <|im_end|>, which the `generate` of the whole model knows
        inputs=_INPUTS,
        **_BASE,
        **declared,
    )


QWEN2_5_OMNI = _family("qwen2_5_omni")
QWEN3_OMNI = _family("qwen3_omni_moe", continue_arguments=continue_with_deepstack)
