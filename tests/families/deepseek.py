"""DeepSeek-VL, its hybrid with a second tower for detail, and Janus: letterboxed images."""

from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridProcessor,
    DeepseekVLProcessor,
    GenerationMixin,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    LlamaConfig,
    SiglipVisionConfig,
)
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape

VISION = vision_shape(image_size=48)
SQUARE = {"size": {"height": 48, "width": 48}, "min_size": 9}


def deepseek_vl(attention: str):
    config = DeepseekVLConfig(
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=LlamaConfig(**text_shape()),
        image_token_id=3,
    )
    return randomised(DeepseekVLForConditionalGeneration, config, attention)


def deepseek_vl_hybrid(attention: str):
    config = DeepseekVLHybridConfig(
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        high_res_vision_config={
            "model_type": "sam_vision_model",
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 96,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
        },
        text_config=LlamaConfig(**text_shape()),
        image_token_id=3,
    )
    return randomised(DeepseekVLHybridForConditionalGeneration, config, attention)


class Janus(JanusForConditionalGeneration):
    """transformers' `generate` for Janus drops the logits processor that makes it say the wanted answer."""

    def generate(self, *args, logits_processor=None, **kwargs):
        if logits_processor is None:
            return super().generate(*args, **kwargs)
        return GenerationMixin.generate(self, *args, logits_processor=logits_processor, **kwargs)


def janus(attention: str):
    vision = {**VISION, "mlp_ratio": 1.5, "projection_dim": 32, "num_image_tokens": 36}
    del vision["intermediate_size"]
    config = JanusConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text_shape()),
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_patches": 6,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
        image_token_id=3,
    )
    return randomised(Janus, config, attention)


def processor(processor_class, images):
    def build():
        words = tokenizer(("<image>", "<boi>", "<eoi>"), image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
        return processor_class(images(), words, num_image_tokens=36)

    return build


CASES = (
    Case("deepseek_vl", deepseek_vl, processor(DeepseekVLProcessor, lambda: DeepseekVLImageProcessorPil(**SQUARE))),
    Case(
        "deepseek_vl_hybrid",
        deepseek_vl_hybrid,
        processor(
            DeepseekVLHybridProcessor,
            lambda: DeepseekVLHybridImageProcessorPil(**SQUARE, high_res_size={"height": 96, "width": 96}),
        ),
        # The second tower is silenced: its convolutions see the neighbours of a cell.
        global_vision=r"(vision_model.*attn\.out_proj|aligner\.high_res_vision_proj)\.(weight|bias)$",
    ),
    Case(
        "janus",
        janus,
        processor(JanusProcessor, lambda: JanusImageProcessorPil(**SQUARE)),
        global_vision=r"vision_model.*self_attn\.projection_layer\.(weight|bias)$",
    ),
)
