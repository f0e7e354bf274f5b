"""The losses of both stages of training on scenes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from .labels import IGNORE
from .packing import Packed

SHOWN_WEIGHT = 4.0
"""How much a patch with an object counts: most show background."""


def vision_loss(scores: tuple[torch.Tensor, ...], labels: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    """Cross-entropy over patches and, per aspect, the share of object patches judged right."""
    loss = torch.zeros((), device=labels.device)
    right = []
    shown = labels[..., 0] > 0
    weight = torch.where(shown, SHOWN_WEIGHT, 1.0)
    for number, score in enumerate(scores):
        target = labels[..., number]
        each = functional.cross_entropy(score.flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none")
        loss = loss + (each * weight.flatten()).sum() / weight.sum()
        right.append((score.argmax(-1) == target)[shown].float().mean().item())
    return loss, right


def answer_loss(
    model: Any,
    seen: torch.Tensor,
    packed: Packed,
    image: int,
    hidden: Callable[[Any, torch.Tensor, Packed], torch.Tensor],
) -> torch.Tensor:
    """Weighted cross-entropy of the answers.

    Args:
        model: with tables of tokens at both ends.
        seen: (B, tokens, width), the embeddings of the images.
        packed: the text about them.
        image: id of the image token, in whose places they belong.
        hidden: embeddings (B, L, width) and their packing to last hidden states (B, L, width).
    """
    embeds = model.get_input_embeddings()(packed.ids)
    embeds = embeds.masked_scatter((packed.ids == image)[..., None], seen.to(embeds.dtype))
    last = hidden(model, embeds, packed)
    learned = packed.targets >= 0
    each = functional.cross_entropy(model.lm_head(last[learned]).float(), packed.targets[learned], reduction="none")
    weight = packed.weights[learned]
    return (each * weight).sum() / weight.sum()
