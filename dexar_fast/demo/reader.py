"""The reader: a small TrOCR that reads drawn pages, and how it is written as a folder that plain transformers loads."""

from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.normalizers import Sequence, Strip
from tokenizers.pre_tokenizers import Split
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    TrOCRConfig,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .pages import CHARACTERS, HEIGHT, WIDTH

PATCH = 8
"""Width of an image patch in pixels."""
GRID = (HEIGHT // PATCH, WIDTH // PATCH)
"""Rows and columns of patches."""
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
MOST_TOKENS = 40


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character, the space included; an unknown one becomes <unk>."""
    core = Tokenizer(WordLevel({token: i for i, token in enumerate((*SPECIAL, " ", *CHARACTERS))}, unk_token="<unk>"))
    core.normalizer = Sequence([Strip()])
    core.pre_tokenizer = Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=MOST_TOKENS,
    )


def build_processor() -> TrOCRProcessor:
    """TrOCR's processor. An image of another size is stretched to that of a page."""
    images = ViTImageProcessorPil(size={"height": HEIGHT, "width": WIDTH})
    return TrOCRProcessor(images, build_tokenizer())


def build_model(*, width: int = 96, encoder_layers: int = 3, decoder_layers: int = 3) -> VisionEncoderDecoderModel:
    """A ViT encoder and a TrOCR decoder with random float32 weights. The reader has the default sizes."""
    tokenizer = build_tokenizer()
    encoder = ViTConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=encoder_layers,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=(HEIGHT, WIDTH),
        patch_size=PATCH,
    )
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    decoder = TrOCRConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        decoder_layers=decoder_layers,
        decoder_attention_heads=4,
        decoder_ffn_dim=3 * width,
        cross_attention_hidden_size=width,
        max_position_embeddings=2 * MOST_TOKENS,
        dropout=0.0,
        is_decoder=True,
        add_cross_attention=True,
        decoder_start_token_id=tokenizer.bos_token_id,
        **ids,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=tokenizer.bos_token_id, **ids
    )
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=tokenizer.bos_token_id, do_sample=False, max_new_tokens=MOST_TOKENS, **ids
    )
    return model
