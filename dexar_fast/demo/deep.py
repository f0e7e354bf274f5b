"""A LLaVA of eight layers that speaks the richer language. It starts from the embedded model.

Between and behind the embedded model's four layers stand copies that at first write nothing, as in LLaMA Pro (arXiv
2401.02415); training finds work for them.
"""

import torch
from tokenizers import decoders
from tokenizers.models import WordPiece
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .architectures import Architecture
from .labels import ALL_ASPECTS
from .model import PATCH, build_model, build_processor, image_features, last_hidden
from .packing import Encoder
from .patch_code import embedded_model
from .rich_language import CASUAL, PIECES, RICH
from .rich_scenes import draw_rich_scene
from .scenes import SQUARE
from .tokenizer import build_tokenizer

LAYERS = 8


def tokenizer() -> PreTrainedTokenizerFast:
    """The embedded model's, except that some words are two tokens."""
    words = build_tokenizer(RICH.words)
    core = words.backend_tokenizer
    core.model = WordPiece(words.get_vocab(), unk_token="<unk>", max_input_chars_per_word=32)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return words


def build(
    words: PreTrainedTokenizerFast, *, width: int = 128, text_layers: int = LAYERS
) -> LlavaForConditionalGeneration:
    return build_model(words, width=width, text_layers=text_layers)


def start(model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Give the model the embedded model's weights.

    A new word starts as the one that it stands for, a word's first token as the word; the rest of the tokens at random.
    """
    source = embedded_model()
    model.model.vision_tower.load_state_dict(source.model.vision_tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(source.model.multi_modal_projector.state_dict())
    model.model.language_model.norm.load_state_dict(source.model.language_model.norm.state_dict())
    old, new = source.model.language_model.layers, model.model.language_model.layers
    copies = len(new) // len(old)
    with torch.no_grad():
        for index, layer in enumerate(new):
            layer.load_state_dict(old[index // copies].state_dict())
            if index % copies:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
        known = build_tokenizer().get_vocab()
        stands_for = {new: old for old, new in CASUAL.items() if new not in known}
        stands_for |= {pieces[0]: word for word, pieces in PIECES.items()}
        for token, index in words.get_vocab().items():
            row = known.get(stands_for.get(token, token))
            if row is not None:
                model.get_input_embeddings().weight[index] = source.get_input_embeddings().weight[row]
                model.lm_head.weight[index] = source.lm_head.weight[row]


def encoder(words: PreTrainedTokenizerFast, grid: tuple[int, int]) -> Encoder:
    return Encoder(words, grid[0] * grid[1])


def image_embeds(model: LlavaForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    embeds: torch.Tensor = model.model.multi_modal_projector(image_features(model, images))
    return embeds


DEEP = Architecture(
    name="deep",
    cell=PATCH,
    sizes=(SQUARE,),
    draw=draw_rich_scene,
    language=RICH,
    aspects=tuple(ALL_ASPECTS),
    tokenizer=tokenizer,
    model=build,
    processor=build_processor,
    encoder=encoder,
    image_embeds=image_embeds,
    hidden=last_hidden,
    vision=("model.vision_tower.", "model.multi_modal_projector."),
    start=start,
)
