"""Kimi K2.5: grids padded at the right and below, on DeepSeek V3: latent keys and values, experts."""

from types import SimpleNamespace
from typing import Any

from transformers import DeepseekV3Config, Kimi_K25Config, Kimi_K25ForConditionalGeneration, Kimi_K25Processor

from .case import Case, randomised, text_shape, tokenizer, without_video
from .torchvision_free import torchvision_free


def build(attention: str):
    text = text_shape(
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    )
    del text["head_dim"]
    config = Kimi_K25Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
        },
        text_config=DeepseekV3Config(**text),
        projection_hidden_size=32,
        tie_word_embeddings=False,
        image_token_id=3,
        video_token_id=4,
    )
    return randomised(Kimi_K25ForConditionalGeneration, config, attention)


def processor() -> Any:
    image_processor = torchvision_free(
        "transformers.models.kimi_k25.image_processing_kimi_k25", "Kimi_K25ImageProcessor"
    )
    images = image_processor(patch_size=4, merge_size=2, max_patches=256, size={"max_height": 32, "max_width": 32})
    return without_video(Kimi_K25Processor)(
        images,
        tokenizer(("<image>", "<video>"), image_token="<image>", video_token="<video>"),
        SimpleNamespace(merge_size=2, temporal_patch_size=4, model_input_names=[]),
    )


CASES = (
    Case("kimi_k25", build, processor, global_vision=r"vision_tower.*attn.*(wo|out_proj|o_proj|proj)\.(weight|bias)$"),
)
