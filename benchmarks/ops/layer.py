"""The ops beside one decoder layer: how much does explaining add to the forward pass over the same rows?"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from ..timing import device_seconds, side_by_side
from .cases import DTYPES, Case, make_inputs
from .contenders import by_backend

INTERMEDIATE = {"LLaVA-1.5-7B": 11008, "tiny": 96}


def beside_layer(case: Case, device: str, backend: str, *, repetitions: int, budget: float) -> dict[str, Any]:
    """Seconds of `score_and_accumulate` and of one layer's forward over the same T rows, timed in turns.

    The layer's rows attend to each other alone, not to the prompt: less work than a real forward has, so the share is
    rather too high than too low.
    """
    width = case.H * case.D
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=INTERMEDIATE[case.model],
        num_hidden_layers=1,
        num_attention_heads=case.H,
        num_key_value_heads=case.H_kv,
        head_dim=case.D,
        max_position_embeddings=16384,
        attn_implementation="sdpa",
    )
    dtype = DTYPES[case.dtype]
    with torch.device(device):
        layer = LlamaDecoderLayer(config, 0).to(dtype).eval()
        rotary = LlamaRotaryEmbedding(config)
        rows = torch.randn(1, case.T, width).to(dtype)
        positions = rotary(rows, torch.arange(case.T)[None])
    x = make_inputs(case, device)

    def forward() -> None:
        with torch.no_grad():
            layer(rows, position_embeddings=positions)

    of_ops, of_layer = side_by_side(
        [partial(by_backend, case, backend, x), forward], repetitions, device, clock=device_seconds, budget=budget
    )
    return {
        **case.facts(),
        "backend": backend,
        "ops_seconds": asdict(of_ops),
        "layer_seconds": asdict(of_layer),
        "ops_over_layer": of_ops.median / of_layer.median,
    }
