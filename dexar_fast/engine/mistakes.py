"""What people pass by mistake, each named for what it is: batches, whole outputs, padding, text alone, other ids."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..models.decoder import Decoder
from .generation import end_ids


def one_answer(answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int]) -> Tensor:
    """The ids ``(T,)`` of one answer.

    Raises:
        InputError: text, what `generate` returns with scores, several answers, or no integers.
    """
    if isinstance(answer_ids, Mapping) or hasattr(answer_ids, "sequences"):
        raise InputError(
            f"answer_ids: expected ids; got {type(answer_ids).__name__}, generate's output with what comes beside "
            'them. Pass output.sequences[:, inputs["input_ids"].shape[1]:], the answer without the prompt.'
        )
    if isinstance(answer_ids, str) or (
        isinstance(answer_ids, Sequence) and any(isinstance(i, str) for i in answer_ids)
    ):
        raise InputError("answer_ids: expected ids; got text. Use explain(), which takes the answer as text.")
    try:
        ids = answer_ids if isinstance(answer_ids, Tensor) else torch.as_tensor(answer_ids, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"answer_ids: expected integers (T,) or (1, T); got {type(answer_ids).__name__}") from error
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim == 2 and not ids.is_floating_point():
        raise InputError(
            f"answer_ids: expected one answer, (T,) or (1, T); got {len(ids)} of a batch. Explain them one by one, or "
            "with explain_many() as ExplainIdsRequest, each without its padding."
        )
    if ids.ndim != 1 or (len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool)):
        raise InputError(f"answer_ids: expected integers (T,) or (1, T); got {ids.dtype} {tuple(ids.shape)}")
    return ids


def check_one_prompt(decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
    """Refuse model inputs of several prompts.

    Raises:
        InputError: says so.
    """
    ids = decoder.prompt_ids(inputs)
    if "input_ids" not in inputs and "pixel_values" in inputs:  # a prompt is nothing but an image there
        ids = ids.expand(len(inputs["pixel_values"]), -1)
    if ids.ndim == 2 and len(ids) == 1:
        return
    if ids.ndim == 2:
        raise InputError(
            f"model_inputs: expected one prompt, as input_ids of shape (1, P); got a batch of {len(ids)}. Process each "
            "prompt with its images alone, and explain them one by one or with explain_many() as ExplainIdsRequest."
        )
    raise InputError(f"model_inputs: expected input_ids of one prompt, shape (1, P); got {tuple(ids.shape)}")


def check_given_answer(decoder: Decoder, inputs: Mapping[str, Tensor], answer_ids: Tensor, tokenizer: Any) -> None:
    """Refuse ids ``(T,)`` that are no answer alone; warn of those that the tokenizer does not know.

    Args:
        decoder, inputs: the model, and the prompt.
        answer_ids: of the answer.
        tokenizer: of the model, or None.

    Raises:
        InputError: they begin with the prompt, or end in padding.
    """
    _refuse_whole_output(decoder, inputs, answer_ids)
    most = None if tokenizer is None or not len(answer_ids) else _size(tokenizer)
    if most is not None and most <= int(answer_ids.max()) < decoder.vocabulary_size:  # a model has room for more ids
        warnings.warn(
            f"answer: id {int(answer_ids.max())} is no token of the model's tokenizer, which has {most}. Was it "
            "written with another one?",
            stacklevel=4,
        )
    n = len(answer_ids) - _n_padding(decoder, answer_ids.tolist(), tokenizer)
    if n < len(answer_ids):
        raise InputError(
            f"answer: expected no padding; got {len(answer_ids) - n} ids of it (id {int(answer_ids[-1])}) from token "
            f"{n} on, as in a row of a batch. Pass answer_ids[:{n}]."
        )


def _refuse_whole_output(decoder: Decoder, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> None:
    """`generate` returns prompt and answer."""
    # An encoder-decoder's output begins with what its decoder's sequence does.
    behind_encoder = decoder.family.rows == "decoder"
    before = decoder.start_ids(inputs) if behind_encoder else decoder.prompt_ids(inputs)[0]
    n = len(before)
    if n == 0 or len(answer_ids) < n or not torch.equal(answer_ids[:n], before.to(answer_ids)):
        return
    cut = f"output[:, {n}:]" if behind_encoder else 'output[:, inputs["input_ids"].shape[1]:]'
    raise InputError(
        f"answer_ids: expected the answer alone; got prompt and answer, as generate returns them: the first {n} ids "
        f"are {'those that every answer begins with' if behind_encoder else 'the prompt'}. Pass {cut}."
    )


def refuse_text_alone(decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
    """Refuse model inputs that hold no image, or no place for it.

    Raises:
        InputError: says so.
    """
    if decoder.family.run is not None:  # how a module of one's own calls its inputs is not known
        return
    mask = decoder.family.placeholder_mask
    has_places = decoder.family.keys == "vision" or (
        (mask is None or mask in inputs) and bool(decoder.image_tokens(inputs).any())
    )
    if any("pixel" in name for name in inputs):
        if not has_places:
            raise InputError(
                "model_inputs: the prompt has 0 image tokens, and the inputs hold an image. Put the image token where "
                "the image belongs, and process text and image together."
            )
    elif decoder.family.keys == "vision" or not has_places:
        raise InputError(
            f"model_inputs: expected an image; got a prompt of text alone ({', '.join(sorted(inputs))}). An "
            "explanation shows which part of an image an answer rests on: put the image token into the prompt, and "
            "pass everything that the processor returns."
        )


def check_answer(decoder: Decoder, answer_ids: Tensor) -> None:
    """Refuse ids ``(T,)`` that no answer can hold.

    Raises:
        InputError: there are none, one is outside the vocabulary, or one stands for an image.
    """
    if len(answer_ids) == 0:
        raise InputError(
            "answer: expected at least one token; got an empty answer. Pass answer=None to let the model write."
        )
    outside = (answer_ids < 0) | (answer_ids >= decoder.vocabulary_size)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise InputError(
            f"answer: expected ids from 0 to {decoder.vocabulary_size - 1}; got {int(answer_ids[at])} at token {at}. "
            "An id above these is of another tokenizer: encode the answer with the model's own. A negative one is "
            "padding: cut it off."
        )
    is_image = decoder.is_placeholder(answer_ids)
    if bool(is_image.any()):
        raise InputError(
            f"answer: contains the image token (id {int(answer_ids[is_image][0])}); only a prompt holds images. If the "
            "model wrote it itself, set suppress_tokens in its generation_config."
        )


def _n_padding(decoder: Decoder, ids: Sequence[int], tokenizer: Any) -> int:
    """How many ids at the end are padding. Where that is written with an end token, the first of them is the end."""
    model: Any = decoder.model
    ends = end_ids(decoder)
    text_config = getattr(model.config, "get_text_config", lambda: None)()  # a module of one's own has none
    sources = (getattr(model, "generation_config", None), text_config, tokenizer)
    pads = {getattr(source, "pad_token_id", None) for source in sources} - {None}
    n = len(ids)
    while n and ids[n - 1] in pads:
        n -= 1
    if n < len(ids) and ids[n] in ends and not (n and ids[n - 1] in ends):
        n += 1
    return len(ids) - n


def _size(tokenizer: Any) -> int:
    """One more than the largest id of the tokenizer."""
    return max(len(tokenizer), max(tokenizer.get_added_vocab().values(), default=-1) + 1)
