"""Maps while the answer is being written: tokens are explained in blocks behind generation, over its own cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from ..engine.aggregate import Accumulator, aggregate, joined
from ..engine.answer_pass import watch_states
from ..engine.assemble import to_numpy
from ..engine.encoded import Encoded
from ..engine.engine import Engine
from ..engine.generation import end_ids
from ..engine.grounding import GrowingGrounding
from ..engine.prefill import Prefill, new_cache, prompt_call
from ..engine.request import Request
from ..engine.written_cache import written
from ..errors import InputError, check_count
from ..inputs.methods import METHODS
from ..inputs.options import Options
from ..inputs.tokens import TokenPieces
from ..layout.grid import Grid
from ..layout.per_image import one_or_tuple
from ..models.state import evaluating, main_device
from ..result.explanation import Explanation, Floats, Maps, share

# Others need the whole answer, or the prompt as text.
_TEXT_SETS = ("all_non_image", "generated_only")


@dataclass(frozen=True)
class StreamedToken:
    """One explained token of an answer that is still being written.

    Attributes:
        index: its place in the answer, from 0.
        token: its piece of the text; empty where it ends inside a character, which the token that completes it carries.
        token_id: its id.
        token_map: ``(h, w)`` in [0, 1], of the first method; of several images a tuple, one per image. That of
            "dexar-focus" is contrasted with the tokens so far, in the explanation at the end with all of them.
        token_weight: delta of Eq. 6.
        image_scores, text_scores: ``(L, H)``.
        grounding: how much the image supports the token, in [0, 1] (`Explanation.grounding`), or None if that was not
            asked for.
        beside: the maps of the other methods, by name.
        grids: where the cells lie on each image; empty if there is no 2-D map.
    """

    index: int
    token: str
    token_id: int
    token_map: Maps
    token_weight: float
    image_scores: Floats
    text_scores: Floats
    grounding: float | None = None
    beside: Mapping[str, Maps] = field(default_factory=dict)
    grids: tuple[Grid, ...] = field(default=(), repr=False)


class ExplainingStreamer(BaseStreamer):
    """A streamer, in transformers' sense, that explains what `generate` writes, block by block.

    ::

        with explainer.streamer(inputs, on_token=show) as streamer:
            model.generate(**inputs, streamer=streamer, past_key_values=streamer.cache, do_sample=True)
        streamer.explanation

    Each block runs once more over what the cache held before it; generation goes on as if nothing had happened.

    Attributes:
        cache: `generate` must be given this one.
        explanation: of the whole answer; None until generation has ended.
    """

    def __init__(
        self,
        engine: Engine,
        encoded: Encoded,
        options: Options,
        on_token: Callable[[StreamedToken], None],
        *,
        block: int,
    ) -> None:
        if engine.family.rows != "cached":
            raise InputError(
                f"stream: answers of the family {engine.family.name!r} do not run over a cache, and are explained "
                "as a whole. Use explain()."
            )
        if not options.our_own:
            raise InputError(
                f"method: only {', '.join(METHODS)} explain while the answer is written; got {options.methods}"
            )
        check_count("block", block, "tokens")
        if options.text_set not in _TEXT_SETS:
            raise InputError(f"text_set: expected one of {', '.join(_TEXT_SETS)} while streaming; use explain()")
        self.engine, self.options, self.on_token, self.block = engine, options, on_token, block
        settings = {**encoded.settings, "generated": True, "cache": "reused", "block": block}
        self.encoded = replace(encoded, settings=settings)
        self.cache = new_cache()
        self.grounding = GrowingGrounding(engine.decoder, encoded.inputs) if options.grounding else None
        self.explanation: Explanation | None = None
        self._prompt_length = 0
        self._ids: list[int] = []
        self._end: int | None = None  # an end token, which belongs to the answer only if the answer goes on
        self._pieces = TokenPieces(engine.tokenizer)
        self._parts: list[Accumulator] = []
        self._log_probabilities: list[Floats] = []
        self._request: Request | None = None
        self._stack = ExitStack()
        self._entered = False
        self._seen: dict[str, Any] = {}

    def __enter__(self) -> ExplainingStreamer:
        if self._entered:
            raise InputError("streamer: it has served already. Make a new one for each answer.")
        self._entered = True
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def put(self, value: Tensor) -> None:
        """Called by `generate`, with the prompt's ids first and then with each token."""
        if not self._entered:
            raise InputError("streamer: expected to be entered; write `with explainer.streamer(...) as streamer:`")
        if not self._prompt_length:
            self._prompt_length = value.shape[-1]
            # Only now it is known which thread generates.
            self._seen = self._stack.enter_context(prompt_call(self.engine.decoder))
            return
        self._stack.close()  # the prompt has run
        for token in value.flatten().tolist():
            if self._end is not None:
                self._ids.append(self._end)
            self._end = token if token in end_ids(self.engine.decoder) else None
            if self._end is None:
                self._ids.append(token)
        if len(self._ids) - self._n_explained >= self.block:
            self._explain()

    def end(self) -> None:
        """Called by `generate` when the answer is complete."""
        if not self._ids:
            raise InputError("prompt: the model ended its answer at once, there is no token to explain.")
        if len(self._ids) > self._n_explained:
            self._explain(ended=True)
        assert self._request is not None
        explanation = self.engine.result(self._request, joined(self._parts), self.options, self.encoded)
        if self._log_probabilities:
            explanation = replace(explanation, log_probabilities=np.concatenate(self._log_probabilities))
        self.explanation = explanation

    @property
    def _n_explained(self) -> int:
        return self._parts[-1].rows.stop if self._parts else 0

    def _explain(self, *, ended: bool = False) -> None:
        """The tokens since the last block; the answer's last ones if it has ended."""
        n_put = len(self._ids) + (self._end is not None)
        expected = self._prompt_length + n_put - 1, self._prompt_length
        found = self.cache.get_seq_length(), self._seen["inputs_embeds"].shape[1]
        if found != expected:
            raise InputError(
                f"generate: expected a cache of {expected[0]} positions, {expected[1]} of them the prompt's; got "
                f"{found[0]} and {found[1]}. Pass past_key_values=streamer.cache, one prompt, and neither beams, an "
                "assistant model nor use_cache=False."
            )
        engine, rows = self.engine, slice(self._n_explained, len(self._ids))
        ids = torch.tensor(self._ids, device=main_device(engine.model))
        with evaluating(engine.model):  # and not around on_token, which may do with the model what it likes
            with watch_states(engine.decoder) as states:
                ran = Prefill(self.encoded.inputs, written(self.cache), self._seen["inputs_embeds"], self._seen)
                self.encoded = replace(self.encoded, answer_ids=ids, ran=ran)
                self._request, sums = engine.run(self.encoded, self.options, rows=rows)
            if self._parts:
                sums.follow(self._parts[-1])
            self._parts.append(sums)
            if self.grounding is not None:
                log_p = self.grounding.add(torch.cat(states, dim=1), ids, rows)
                self._log_probabilities.append(to_numpy(log_p))
            layout, maps = self._request.layout, aggregate(sums, self._request.layout, self.options.normalization)
            beside = {name: aggregate(each, layout, self.options.normalization) for name, each in sums.beside.items()}
        pieces = self._pieces.add(self._ids[rows], ended=ended)
        token_maps, *other_maps = (
            layout.per_image(to_numpy(each.token_maps)) for each in (maps, *beside.values())
        )  # of each method, of each image, [rows, h, w]
        weights, image_scores, text_scores = map(to_numpy, (maps.token_weights, sums.image_scores, sums.text_scores))
        supported = share(self._log_probabilities[-1]) if self._log_probabilities else None
        for i, index in enumerate(range(rows.start, rows.stop)):
            self.on_token(
                StreamedToken(
                    index=index,
                    token=pieces[i],
                    token_id=self._ids[index],
                    token_map=one_or_tuple([of_image[i] for of_image in token_maps]),
                    token_weight=float(weights[i]),
                    image_scores=image_scores[i],
                    text_scores=text_scores[i],
                    grounding=None if supported is None else float(supported[i]),
                    beside={
                        name: one_or_tuple([of_image[i] for of_image in of_method])
                        for name, of_method in zip(beside, other_maps)
                    },
                    grids=layout.grids,
                )
            )
