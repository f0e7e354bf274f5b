"""What one run explains: the prompt's model inputs, the answer, and which key is what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .models import Decoder, ImageLayout
from .ops import KeySets, causal_rows


@dataclass(frozen=True)
class Request:
    """One prompt with its image, and the answer tokens to explain.

    Attributes:
        inputs: what the model takes for the prompt: `input_ids` ``(1, P)``, `pixel_values`, ...
        answer_ids: ``(T,)`` int64.
        image_keys: ``(N,)`` int64, positions of the image tokens, ascending.
        text_keys: ``(P + T,)`` bool, positions that count as text.
        layout: how the image tokens form a map.
    """

    inputs: Mapping[str, Tensor]
    answer_ids: Tensor
    image_keys: Tensor
    text_keys: Tensor
    layout: ImageLayout

    @property
    def prompt_length(self) -> int:
        """P, the number of prompt tokens, image tokens included."""
        return self.inputs["input_ids"].shape[1]

    @property
    def row_positions(self) -> Tensor:
        """``(T,)``: position ``p_t`` that predicts answer token t; the first is the last position of the prompt."""
        first = self.prompt_length - 1
        return torch.arange(first, first + len(self.answer_ids), device=self.answer_ids.device)

    def keys(self, n_keys: int, window: int | None = None) -> KeySets:
        """The sets of keys of the answer rows over the first ``n_keys`` positions, under a sliding window if given."""
        return KeySets(self.image_keys, self.text_keys[:n_keys], causal_rows(self.row_positions, window))


def make_request(
    decoder: Decoder,
    inputs: Mapping[str, Tensor],
    answer_ids: Tensor,
    layout: ImageLayout,
    text_set: str | Tensor,
    template: Tensor | None,
) -> Request:
    """Check the ids and sort the keys into image and text.

    Args:
        decoder: the model.
        inputs: model inputs of the prompt, batch of one, on the model's device.
        answer_ids: ``(T,)``.
        layout: of the image tokens.
        text_set: a name of `options.TEXT_SETS`, or ``(P + T,)`` bool.
        template: ``(P + T,)`` bool, True on template and special tokens, where they are known; "content_only" needs it.

    Raises:
        InputError: no or padded prompt, unknown inputs, image id in the answer, empty answer, a mask of another shape.
    """
    unknown = sorted(set(inputs) - set(decoder.family.inputs))
    if unknown:
        raise InputError(
            f"model_inputs: expected {', '.join(decoder.family.inputs)}; got also {', '.join(unknown)}, "
            "which this family's answer pass does not know how to continue. Leave them out."
        )
    ids = inputs["input_ids"]
    if ids.ndim != 2 or len(ids) != 1:
        raise InputError(f"model_inputs: expected input_ids of one prompt, shape (1, P); got {tuple(ids.shape)}")
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise InputError(
            "model_inputs: expected no padding; got an attention_mask with zeros. Tokenize one prompt alone."
        )
    if len(answer_ids) == 0:
        raise InputError(
            "answer: expected at least one token; got an empty answer. Pass answer=None to let the model write."
        )
    outside = (answer_ids < 0) | (answer_ids >= decoder.vocabulary_size)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise InputError(
            f"answer: expected ids from 0 to {decoder.vocabulary_size - 1}; got {int(answer_ids[at])} at token {at}. "
            "Cut off padding before you pass an answer."
        )
    if bool((answer_ids == decoder.image_token_id).any()):
        raise InputError(
            f"answer: contains the image token (id {decoder.image_token_id}); only a prompt holds images. If the model "
            "wrote it itself, set suppress_tokens in its generation_config."
        )
    is_image = ids[0] == decoder.image_token_id
    if not bool(is_image.any()):
        raise InputError(
            f"prompt: no place for the image, token id {decoder.image_token_id} does not occur. "
            "Put the image token where the image belongs, or use a prompt without it and a processor with a "
            "chat template."
        )
    in_prompt = torch.arange(ids.shape[1] + len(answer_ids), device=ids.device) < ids.shape[1]
    not_image = ~torch.cat((is_image, torch.zeros_like(answer_ids, dtype=torch.bool)))
    if isinstance(text_set, Tensor):
        if text_set.shape != not_image.shape or text_set.dtype != torch.bool:
            raise InputError(
                f"text_set: expected a bool mask of shape {tuple(not_image.shape)} over prompt and answer; "
                f"got {text_set.dtype} {tuple(text_set.shape)}"
            )
        text = text_set.to(ids.device) & not_image
    elif text_set == "all_non_image":
        text = not_image
    elif text_set == "generated_only":
        text = ~in_prompt
    elif template is not None:
        text = not_image & ~template
    else:
        raise InputError(
            'text_set: "content_only" needs the prompt as text, to know what of it is template; pass a bool mask.'
        )
    image_keys = is_image.nonzero().squeeze(-1)
    return Request(inputs, answer_ids, image_keys, text, layout)
