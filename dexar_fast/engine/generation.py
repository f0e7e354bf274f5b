"""Let the model write its own answer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, StoppingCriteria

from ..errors import InputError, check_count
from ..models.decoder import Decoder
from ..models.state import keeping
from ..progress import ProgressCallback
from ..stages import stage
from .prefill import Prefill, new_cache, prompt_call
from .written_cache import written


class _CountTokens:
    """A streamer, in transformers' sense, that only counts."""

    def __init__(self, progress: ProgressCallback, limit: int) -> None:
        self.progress, self.limit, self.done = progress, limit, -1  # the prompt comes first, in one call

    def put(self, value: Tensor) -> None:
        self.done += 1
        self.progress("generating", self.done, self.limit)

    def end(self) -> None:
        pass


@stage("generation")
def generate_answer(
    decoder: Decoder,
    inputs: Mapping[str, Tensor],
    max_new_tokens: int,
    progress: ProgressCallback,
    tokenizer: Any = None,
) -> tuple[Tensor, Prefill | None]:
    """Greedy answer ``(T,)`` int64 of at most ``max_new_tokens`` tokens, without the end token.

    Also the prompt as it ran, with the cache that generation filled (`written`: for this answer alone), so that neither
    runs again; None for families whose rows do not run over a cache, and, with a warning, where the cache is another
    than greedy decoding leaves.

    Raises:
        InputError: ``max_new_tokens`` is no number from 1 on, or the model ended at once.
    """
    behind_encoder = decoder.family.rows == "decoder"
    cache = new_cache() if decoder.family.rows == "cached" else None
    watched: AbstractContextManager[dict[str, Any]] = nullcontext({}) if cache is None else prompt_call(decoder)
    with watched as seen:
        ids = write(decoder, inputs, max_new_tokens, _CountTokens(progress, max_new_tokens), cache, tokenizer)
    start = len(decoder.start_ids(inputs)) if behind_encoder else inputs["input_ids"].shape[1]
    answer: Tensor = ids[0, start:]
    if len(answer) and int(answer[-1]) in end_ids(decoder):
        answer = answer[:-1]
    if len(answer) == 0:
        raise InputError(
            "prompt: the model ended its answer at once, there is no token to explain. Give an answer to explain."
        )
    if cache is None:
        return answer, None
    if cache.get_seq_length() != ids.shape[1] - 1:  # each position once, but for the last token's
        warnings.warn(
            f"generate: expected a cache of {ids.shape[1] - 1} positions; got {cache.get_seq_length()}. "
            "The prompt runs again.",
            stacklevel=2,
        )
        return answer, None
    return answer, Prefill(inputs, written(cache), seen["inputs_embeds"], seen)


def write(
    decoder: Decoder,
    inputs: Mapping[str, Tensor],
    max_new_tokens: int,
    streamer: Any,
    cache: Cache | None,
    tokenizer: Any = None,
) -> Tensor:
    """What `generate` returns, ``(1, n)``, greedily. The tokenizer is for generation configs with `stop_strings`.

    Raises:
        InputError: ``max_new_tokens`` is no number from 1 on, or there are such strings and no tokenizer.
    """
    check_count("max_new_tokens", max_new_tokens, "tokens")
    generator: Any = decoder.model
    stops = _stops(generator.generation_config.stop_strings, tokenizer)
    with keeping(decoder.base, decoder.family.run_state):
        ids: Tensor = generator.generate(
            **inputs,
            # A checkpoint may ask for a cache of another kind, which could not be cut back, or for none.
            **(
                {}
                if cache is None
                else {decoder.cache_argument: cache, "cache_implementation": None, "use_cache": True}
            ),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_ids(decoder) or None,
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            prompt_lookup_num_tokens=None,
            token_healing=False,  # it would write the end of the prompt anew
            # A checkpoint's sampling settings would only cause warnings.
            temperature=None,
            top_p=None,
            top_k=None,
            return_dict_in_generate=False,
            stop_strings=None,
            stopping_criteria=stops,
            streamer=streamer,
        )
    return ids


class _EndsWithText(StoppingCriteria):
    """Ends an answer behind certain texts, as decoded: transformers' own way does not serve every tokenizer."""

    def __init__(self, texts: Sequence[str], tokenizer: Any) -> None:
        self.texts, self.tokenizer, self.prompt_length = texts, tokenizer, 0
        self.tail = max(len(text.encode()) for text in texts) + 4  # tokens: each has a byte at least

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.prompt_length = self.prompt_length or input_ids.shape[1] - 1  # called behind the first token first
        answer = input_ids[0, self.prompt_length :][-self.tail :].tolist()
        written = self.tokenizer.decode(answer)
        return torch.tensor([any(text in written for text in self.texts)], device=input_ids.device)


def _stops(texts: str | Sequence[str] | None, tokenizer: Any) -> list[StoppingCriteria] | None:
    """The criteria of a generation config's `stop_strings`."""
    several = [texts] if isinstance(texts, str) else [text for text in texts or () if text]
    if not several:
        return None
    if tokenizer is None:
        raise InputError(
            "model: its generation_config has stop_strings, and there is no tokenizer to know them by. Pass Explainer("
            "model, processor)."
        )
    return [_EndsWithText(several, tokenizer)]


def end_ids(decoder: Decoder) -> list[int]:
    """Ids that end an answer."""
    config: Any = getattr(decoder.model, "generation_config", None)  # a module of one's own has none
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        return list(decoder.family.end_ids)
    return ids if isinstance(ids, list) else [ids]
