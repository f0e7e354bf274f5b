"""A prompt, run once, as far as the answer rows behind it need it: a cache, or what the text model is called with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import InputError
from ..models.decoder import Decoder
from ..models.state import hooked, keeping
from ..stages import stage


@dataclass(frozen=True)
class Prefill:
    """A prompt, run as far as the answer rows need it.

    Attributes:
        inputs: model inputs of the prompt.
        cache: keys and values of the prompt, and of answer tokens as far as they ran; None unless rows are "cached".
        embeddings: ``(1, P, d)``, what the text model takes for the prompt; None for rows "decoder" and "own".
        arguments: everything that the text model was called with for the prompt.
    """

    inputs: Mapping[str, Tensor]
    cache: Cache | None = None
    embeddings: Tensor | None = None
    arguments: Mapping[str, Any] | None = None

    def rewind(self, decoder: Decoder, answer_rows: int) -> None:
        """Cut the cache back to where answer row ``answer_rows`` is about to run.

        The prompt's last position is the first answer row. A cross-attention's keys are no positions of the prompt.
        """
        assert self.cache is not None
        assert self.embeddings is not None
        length = self.embeddings.shape[1] - 1 + answer_rows
        crossing = set() if decoder.family.keys == "sequence" else set(decoder.attentions)
        for index, layer in enumerate(self.cache.layers):
            # A run that ended early has left some layers longer than others.
            surplus = int(layer.get_seq_length()) - length
            if surplus > 0 and index not in crossing:
                layer.crop(-surplus)


class _PromptSeen(Exception):
    """Ends a run of the base model where its text model begins."""


@stage("vision")  # up to the language model
def prefill(decoder: Decoder, inputs: Mapping[str, Tensor]) -> Prefill:
    """Run the prompt once, without gradients: wholly for a cache, else up to the text model."""
    rows = decoder.family.rows
    if rows in ("decoder", "own"):
        return Prefill(inputs)
    cache = new_cache() if rows == "cached" else None
    return _run_prompt(decoder, inputs, cache, stop=rows == "whole")


def _run_prompt(decoder: Decoder, inputs: Mapping[str, Tensor], cache: Cache | None, *, stop: bool) -> Prefill:
    """Run the base model on the prompt; ``stop`` ends the run where the text model begins."""
    with ExitStack() as stack:
        seen = stack.enter_context(prompt_call(decoder, stop=stop))
        stack.enter_context(keeping(decoder.base, decoder.family.run_state))
        stack.enter_context(torch.no_grad())
        stack.enter_context(suppress(_PromptSeen))
        decoder.base(**inputs, **{decoder.cache_argument: cache}, use_cache=cache is not None)
    return Prefill(inputs, cache, seen["inputs_embeds"], seen)


def run_up_to_text_model(decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
    """What comes before the text model on a prompt: the vision tower, and an encoder where there is one."""
    start = {"decoder_input_ids": decoder.start_ids(inputs)[None]} if decoder.family.rows == "decoder" else {}
    with ExitStack() as stack:
        stack.enter_context(prompt_call(decoder, stop=True))
        stack.enter_context(keeping(decoder.base, decoder.family.run_state))
        stack.enter_context(torch.no_grad())
        stack.enter_context(suppress(_PromptSeen))
        decoder.base(**{**inputs, **start}, use_cache=False)


def take_up(decoder: Decoder, inputs: Mapping[str, Tensor], cache: Cache) -> Prefill | None:
    """A prompt whose keys and values a caller's cache holds: only what comes before the text model runs.

    None, with a warning, if the cache cannot be cut back to the prompt; the caller's object is not changed.

    Raises:
        InputError: the family's rows do not run over a cache, or the cache is shorter than the prompt.
    """
    if decoder.family.rows != "cached":
        raise InputError(
            f"past_key_values: expected None, answers of the family {decoder.family.name!r} do not run over a cache"
        )
    prompt = _run_prompt(decoder, inputs, None, stop=True)
    assert prompt.embeddings is not None
    n_prompt = prompt.embeddings.shape[1]
    if cache.get_seq_length() < n_prompt - 1:
        raise InputError(
            f"past_key_values: expected the {n_prompt} positions of the prompt; got {cache.get_seq_length()}. Pass the "
            "cache of the same prompt, images included."
        )
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in cache.layers}))
        warnings.warn(
            f"past_key_values: expected layers that keep every position and grow; got {kinds}, which cannot be cut "
            "back to the prompt. It runs again; generate with past_key_values=DynamicCache() to reuse the cache.",
            stacklevel=3,
        )
        return None
    return replace(prompt, cache=sharing(cache))


def _embed_text(decoder: Decoder, ids: Tensor) -> Tensor:
    """What a text model that embeds its prompt ``(P,)`` itself begins with; of use on the positions that run again."""
    if decoder.family.keys != "sequence":
        return decoder.embed(ids)  # the image is not in the sequence
    is_image = decoder.is_placeholder(ids)
    again = is_image if decoder.family.rows == "whole" else is_image[-1:]
    if bool(again.any()):
        raise InputError(
            f"prompt: ends in an image, and a {decoder.family.name} model does not show what it makes of one. "
            "Put text behind the image."
        )
    return decoder.embed(ids.masked_fill(is_image, 0))


def sharing(cache: Cache) -> Cache:
    """A cache of its own on the same tensors: layers replace theirs when they are cut or grow, and never write."""
    mine = copy(cache)
    mine.layers = [copy(layer) for layer in cache.layers]
    return mine


def new_cache() -> Cache:
    """One that can be cut back: without a config every layer keeps all keys, and a window is the mask's business."""
    return DynamicCache()


@contextmanager
def prompt_call(decoder: Decoder, *, stop: bool = False) -> Iterator[dict[str, Any]]:
    """Collect what the text model is called with first, `inputs_embeds` among it; ``stop`` ends the run there."""
    seen: dict[str, Any] = {}

    def remember(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not seen:
            with torch.inference_mode(False):
                seen.update({name: _without_inference(value) for name, value in kwargs.items()})
            if seen.get("inputs_embeds") is None and decoder.family.rows != "decoder":
                seen["inputs_embeds"] = _embed_text(decoder, kwargs["input_ids"][0])
        if stop:
            raise _PromptSeen

    with hooked(decoder.text_model.register_forward_pre_hook, remember, with_kwargs=True):
        yield seen


def _without_inference(value: Any) -> Any:
    """An argument that a backward may keep, also where a caller's `generate` runs in inference mode."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
