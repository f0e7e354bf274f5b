"""What one run explains: the prompt's model inputs, the answer, and which key is what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, UnsupportedModelError
from ..layout.image_layout import ImageLayout, LayoutBuilder
from ..models.decoder import Decoder
from ..models.family import Prompt
from ..ops import KeySets, causal_rows
from .mistakes import check_answer, check_one_prompt, refuse_text_alone

if TYPE_CHECKING:
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class Request:
    """One prompt with its images, and the answer tokens to explain.

    Keys are the positions of prompt and answer for self-attention (P + T), the encoder's positions for cross-attention
    to an encoder of image and text (P), or the vision states for cross-attention to these alone (N).

    Attributes:
        inputs: what the model takes for the prompt: `input_ids` ``(1, P)``, `pixel_values`, ...
        answer_ids: ``(T,)`` int64.
        image_keys: ``(N,)`` int64, the keys that are image tokens, ascending.
        text_keys: ``(keys,)`` bool, the keys that count as text.
        layout: how the image tokens form maps.
        cross: the keys are those of a cross-attention, every row sees all of them.
        first_sees_prompt: the first row, the prompt's last position, sees all of it even under a sliding window.
    """

    inputs: Mapping[str, Tensor]
    answer_ids: Tensor
    image_keys: Tensor
    text_keys: Tensor
    layout: ImageLayout
    cross: bool = False
    first_sees_prompt: bool = False

    @property
    def prompt_length(self) -> int:
        """P, the number of prompt tokens, image tokens included; the number of keys for a cross-attention."""
        return len(self.text_keys) - (0 if self.cross else len(self.answer_ids))

    @property
    def row_positions(self) -> Tensor:
        """``(T,)``: position ``p_t`` that predicts answer token t; the first is the last position of the prompt."""
        first = self.prompt_length - 1
        return torch.arange(first, first + len(self.answer_ids), device=self.answer_ids.device)

    def keys(self, rows: slice, n_keys: int, window: int | None = None, chunk: int | None = None) -> KeySets:
        """The sets of keys of some answer rows over the first ``n_keys`` keys, within a window or chunk if given.

        Row t runs at position ``p_t``, which predicts answer token t; the first is the last position of the prompt.

        Raises:
            InputError: a cross-attention has another number of keys than the layout.
            UnsupportedModelError: self-attention does not read every position.
        """
        if not self.cross:
            expected = self.prompt_length - 1 + rows.stop
            if n_keys != expected:
                raise UnsupportedModelError(
                    f"model: expected its attention to read {expected} keys for answer tokens up to {rows.stop}; it "
                    f"reads {n_keys}. The cache does not keep every position; use past_key_values=DynamicCache()."
                )
            visible = causal_rows(self.row_positions[rows], window, chunk)
            if self.first_sees_prompt and rows.start == 0:
                visible[0, 0] = 0
            return KeySets(self.image_keys, self.text_keys[:n_keys], visible)
        if n_keys != len(self.text_keys):
            raise InputError(
                f"model_inputs: cross-attention reads {n_keys} states, but the layout of the images gives "
                f"{len(self.text_keys)}. Use the processor that belongs to the model."
            )
        every = torch.tensor([0, n_keys], device=self.answer_ids.device).expand(rows.stop - rows.start, -1)
        return KeySets(self.image_keys, self.text_keys, every)


def lay_out(
    decoder: Decoder,
    processor: ProcessorMixin | None,
    inputs: Mapping[str, Tensor],
    image_sizes: Sequence[tuple[int, int]] | None,
    thumbnail: str = "blend",
    settings: Mapping[str, Any] | None = None,
) -> ImageLayout:
    """The cells of the prompt's image tokens.

    Args:
        decoder, inputs: the model, and the model inputs of the prompt.
        processor: says what part of an image the model saw; needed where image sizes are given.
        image_sizes: ``(width, height)`` of the user's images in pixels, or None: then maps lie on what the model saw.
        thumbnail: a name of `layout.THUMBNAILS`.
        settings: arguments that the processor was called with besides images and text.

    Raises:
        InputError: the prompt has another number of image tokens than the layout, or the number of images differs.
    """
    check_one_prompt(decoder, inputs)
    refuse_text_alone(decoder, inputs)
    builder = LayoutBuilder(image_sizes)
    known = image_sizes is not None
    prompt = Prompt(decoder.model.config, processor, inputs, known, decoder.placeholder_ids, settings or {})
    decoder.family.layout(prompt, builder)
    layout = builder.finish(thumbnail)
    if decoder.family.keys != "vision":
        expected, found = len(layout.separators), int(decoder.image_tokens(inputs).sum())
        if expected != found:
            raise InputError(
                f"model_inputs: the prompt has {found} image tokens, but its layout gives {expected} ({builder}). "
                "Put the image token where the image belongs, use the processor that belongs to the model, and pass "
                "everything that it returns, and what its call was given besides as processor_kwargs=."
            )
    return layout


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
    family = decoder.family
    _check_inputs(decoder, inputs)
    check_answer(decoder, answer_ids)
    ids = decoder.prompt_ids(inputs)
    n_prompt, n_answer, n_image = ids.shape[1], len(answer_ids), layout.n_image_tokens
    if family.keys == "vision":
        # Text is not among the keys of this attention.
        image_keys = torch.arange(n_image, device=ids.device)
        return Request(
            inputs, answer_ids, image_keys, torch.zeros_like(image_keys, dtype=torch.bool), layout, cross=True
        )
    placeholders = decoder.image_tokens(inputs).nonzero().squeeze(-1)
    image_keys = placeholders[~layout.separators.to(ids.device)]
    not_image = torch.ones(n_prompt + n_answer, dtype=torch.bool, device=ids.device)
    not_image[image_keys] = False
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
        text = torch.arange(n_prompt + n_answer, device=ids.device) >= n_prompt
    elif template is not None:
        text = not_image & ~template
    else:
        raise InputError(
            'text_set: "content_only" needs the prompt as text, to know what of it is template; pass a bool mask.'
        )
    cross = family.keys == "encoder"  # answer tokens are not among an encoder's keys
    text = text[:n_prompt] if cross else text
    return Request(inputs, answer_ids, image_keys, text, layout, cross, family.prompt_sees_itself)


# Model inputs that say something of each token of the prompt.
_ALONG_THE_IDS = (
    "attention_mask",
    "cross_attention_mask",
    "image_embeds_position_mask",
    "mm_token_type_ids",
    "token_type_ids",
)


def _check_inputs(decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
    unknown = sorted(set(inputs) - set(decoder.family.inputs))
    if unknown:
        raise InputError(
            f"model_inputs: expected {', '.join(decoder.family.inputs)}; got also {', '.join(unknown)}, "
            "which this family's answer pass does not know how to continue. Leave them out."
        )
    ids = decoder.prompt_ids(inputs)
    for name in _ALONG_THE_IDS if "input_ids" in inputs else ():
        along = inputs.get(name)
        if along is not None and along.shape[:2] != ids.shape:
            raise InputError(
                f"model_inputs: expected {name} of one value for each of the {ids.shape[1]} input_ids, shape "
                f"(1, P, ...); got {tuple(along.shape)}. Pass what the processor returned for this prompt, and the "
                "answer apart."
            )
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise InputError(
            "model_inputs: expected no padding; got an attention_mask with zeros. Tokenize one prompt alone."
        )
