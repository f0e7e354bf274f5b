"""The code in which the embedded model's decoder is told what a patch shows.

Its image embeddings are nearly sums: one vector for the colour, one for the shape, and so on. Another model's tower
that learns to write these sums can hand them to the embedded model's decoder.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from . import CHECKPOINT
from .labels import ASPECTS, IGNORE, patch_labels
from .losses import SHOWN_WEIGHT
from .model import PATCH, image_features
from .scenes import TRAINING_SEEDS, draw_scene
from .tokenizer import build_tokenizer

SCENES = 256
SIGMOID = 1.702
"""quick_gelu(x) is x * sigmoid(SIGMOID * x), and gelu(x) nearly so."""


def embedded_model() -> LlavaForConditionalGeneration:
    """The embedded model, from which others start."""
    model = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, local_files_only=True)
    return model.eval()


def centred(weight: torch.Tensor) -> torch.Tensor:
    """Without its mean over what it writes to: a residual stream of mean zero is what an RMS norm can stand for."""
    return weight - weight.mean(0)


@torch.no_grad()
def linear_embedding(tower: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The embedded model's CLIP tower in front of its layers without its norm, with the spread that patches have on
    average.

    Returns:
        The kernel (width, 3, PATCH, PATCH) of its processor's pixels, the gain (width,) that stands for the norm, and
        (width,) what a patch has behind the norm on average besides its pixels: place and bias.
    """
    kernel = tower.embeddings.patch_embedding.weight
    place = tower.embeddings.position_embedding.weight[1:]
    processor = CLIPImageProcessorPil()
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    scenes = [draw_scene(TRAINING_SEEDS.start + seed).image for seed in range(32)]
    pixels = torch.from_numpy(np.stack([np.asarray(image).transpose(2, 0, 1) for image in scenes])).float() / 255.0
    embedded = torch.nn.functional.conv2d((pixels - mean) / deviation, kernel, stride=PATCH)
    spread = (embedded.flatten(2).transpose(1, 2) + place).std(dim=-1).mean()
    norm = tower.pre_layrnorm
    gain = norm.weight / spread
    return kernel, gain, centred(place.mean(0)) * gain + norm.bias


def one_hot(labels: torch.Tensor, aspects: Sequence[str]) -> torch.Tensor:
    """int64 (..., aspects) to float32 (..., classes): a one for each aspect, and no one where it is `IGNORE`."""
    parts = []
    for number, aspect in enumerate(aspects):
        known = labels[..., number] != IGNORE
        classes = torch.nn.functional.one_hot(labels[..., number].clamp(min=0), ASPECTS[aspect])
        parts.append(classes * known[..., None])
    return torch.cat(parts, dim=-1).float()


@torch.no_grad()
def patch_code(aspects: Sequence[str] = tuple(ASPECTS)) -> torch.Tensor:
    """float32 (classes, width): what each class adds to an embedding, by least squares over training scenes."""
    model = embedded_model()
    scenes = [draw_scene(TRAINING_SEEDS.start + seed) for seed in range(SCENES)]
    pictures = torch.from_numpy(np.stack([np.asarray(scene.image).transpose(2, 0, 1) for scene in scenes]))
    embeds = torch.cat([model.model.multi_modal_projector(image_features(model, part)) for part in pictures.split(64)])
    kept = [list(ASPECTS).index(aspect) for aspect in aspects]
    labels = torch.from_numpy(np.stack([patch_labels(scene.objects, PATCH)[:, kept] for scene in scenes]))
    told = (labels != IGNORE).all(-1)
    # Each aspect's ones add up to the same column, so the smallest of the many solutions is taken.
    code: torch.Tensor = torch.linalg.lstsq(one_hot(labels[told], aspects), embeds[told], driver="gelsd").solution
    return code


def code_loss(embeds: torch.Tensor, labels: torch.Tensor, aspects: Sequence[str], code: torch.Tensor) -> torch.Tensor:
    """Mean squared error of (B, patches, width) against what their labels, int64 (B, patches, aspects), add up to."""
    told = (labels != IGNORE).all(-1)
    weight = torch.where(labels[..., 0] > 0, SHOWN_WEIGHT, 1.0) * told
    wrong = (embeds.float() - one_hot(labels, aspects) @ code).square().mean(-1)
    return (wrong * weight).sum() / weight.sum()


def start_decoder(model: Any, words: PreTrainedTokenizerFast) -> None:
    """Give a decoder of the embedded model's shape its weights; what it has besides (biases) starts at zero."""
    source = embedded_model()
    decoder = model.model.language_model
    weights = source.model.language_model.state_dict()
    del weights["embed_tokens.weight"]  # of another vocabulary
    missing = decoder.load_state_dict(weights, strict=False).missing_keys
    with torch.no_grad():
        for name in missing:
            decoder.get_parameter(name).zero_()
        known = build_tokenizer().get_vocab()
        for token, index in words.get_vocab().items():
            if token in known:
                model.get_input_embeddings().weight[index] = source.get_input_embeddings().weight[known[token]]
                model.lm_head.weight[index] = source.lm_head.weight[known[token]]
