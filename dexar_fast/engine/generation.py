"""Let the model write its own answer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from transformers import Cache

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
    decoder: Decoder, inputs: Mapping[str, Tensor], max_new_tokens: int, progress: ProgressCallback
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
        ids = write(decoder, inputs, max_new_tokens, _CountTokens(progress, max_new_tokens), cache)
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
    decoder: Decoder, inputs: Mapping[str, Tensor], max_new_tokens: int, streamer: Any, cache: Cache | None
) -> Tensor:
    """What `generate` returns, ``(1, n)``, greedily.

    Raises:
        InputError: ``max_new_tokens`` is no number from 1 on.
    """
    check_count("max_new_tokens", max_new_tokens, "tokens")
    generator: Any = decoder.model
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
            prompt_lookup_num_tokens=None,
            # A checkpoint's sampling settings would only cause warnings.
            temperature=None,
            top_p=None,
            top_k=None,
            return_dict_in_generate=False,
            streamer=streamer,
        )
    return ids


def end_ids(decoder: Decoder) -> list[int]:
    """Ids that end an answer."""
    config: Any = decoder.model.generation_config
    ids = config.eos_token_id
    if ids is None:
        return list(decoder.family.end_ids)
    return ids if isinstance(ids, list) else [ids]
