"""Florence-2: encoder and decoder, explained through the decoder's cross-attention."""

from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .case import Case, randomised, tokenizer


def build(attention: str):
    config = Florence2Config(
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 32],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "window_size": 4,
            "projection_dim": 32,
        },
        text_config=BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=2,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            vocab_size=300,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_bos_token_id=1,
            forced_eos_token_id=None,
        ),
        image_token_id=3,
    )
    return randomised(Florence2ForConditionalGeneration, config, attention)


def processor() -> Florence2Processor:
    images = CLIPImageProcessorPil(size={"height": 48, "width": 48}, do_center_crop=False)
    images.image_seq_length = 37
    return Florence2Processor(images, tokenizer(image_token="<image>"))


CASES = (
    Case(
        "florence2",
        build,
        processor,
        image="",
        halo=1.0,
        global_vision=r"vision_tower\.blocks.*(window_attn\.proj|channel_attn\.proj|conv1|conv2)\.(weight|bias)$",
    ),
)
