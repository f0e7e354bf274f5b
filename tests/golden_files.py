"""Inputs, weights and outputs of the released DEX-AR code (commit 07830a1), read from `tests/golden`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

FOLDER = Path(__file__).parent / "golden"


@dataclass
class Golden:
    case: dict[str, Any]
    model: LlavaForConditionalGeneration
    inputs: dict[str, Tensor]
    target_ids: Tensor
    outputs: dict[str, Tensor]


def load_golden(name: str, dtype: torch.dtype, attention: str = "sdpa") -> Golden:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["case"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a mapping
    vision = dict(case["vision"])
    feature_layer, strategy = vision.pop("vision_feature_layer"), vision.pop("vision_feature_select_strategy")
    text = {"llama": LlamaConfig, "mistral": MistralConfig}[case["family"]](
        hidden_size=case["heads"] * case["head_dim"],
        intermediate_size=case["intermediate_size"],
        num_hidden_layers=case["layers"],
        num_attention_heads=case["heads"],
        num_key_value_heads=case["kv_heads"],
        head_dim=case["head_dim"],
        vocab_size=case["vocab_size"],
        rms_norm_eps=case["rms_norm_eps"],
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=text,
        image_token_index=case["image_token_id"],
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention).to(dtype).eval()
    model.load_state_dict(
        {k.removeprefix("weight."): v.to(dtype) for k, v in tensors.items() if k.startswith("weight.")}
    )
    return Golden(
        case=case,
        model=model,
        inputs={"input_ids": tensors["in.prompt_ids"][None], "pixel_values": tensors["in.pixel_values"].to(dtype)},
        target_ids=tensors["in.target_ids"],
        outputs={k.removeprefix("out."): v.double() for k, v in tensors.items() if k.startswith("out.")},
    )
