"""The ways over one model and prompt, each for an answer of a given length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from dexar_fast import Explainer, Explanation
from dexar_fast.engine.encoded import Encoded
from dexar_fast.engine.generation import generate_answer, write
from dexar_fast.engine.prefill import Prefill, prefill
from dexar_fast.engine.teacher_forcing import with_answer
from dexar_fast.models.state import evaluating
from dexar_fast.progress import silent
from dexar_fast.runs.single import explain_encoded

from .. import models, naive
from ..timing import on_gpu
from .cases import SHAPES


def attention_name(attention: str, device: str) -> str | None:
    """What transformers calls an attention of `Case`; None if it finds no kernel of it for the device.

    FlashAttention 3 is the module `flash_attn_interface` of a distribution named `flash-attn-3` to it. The wheel
    `fa3-fwd` of PyPI (0.0.3: forward alone, no float16, no sliding window) holds the same functions in a module
    `fa3_fwd_interface`, which transformers does not take.
    """
    if attention != "flash":
        return attention
    if not on_gpu(device):
        return None
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else None


@dataclass
class Calls:
    """One model and prompt."""

    shape: str
    device: str
    explainer: Explainer
    inputs: dict[str, Tensor]

    @classmethod
    def prepare(cls, shape: str, image_tokens: int, device: str, attention: str = "sdpa") -> Calls:
        model = SHAPES[shape](device=device, attention=attention)
        explainer = Explainer(model)
        models.never_ending(model, explainer.decoder)
        return cls(shape, device, explainer, models.prompt(model, image_tokens=image_tokens))

    @property
    def model(self) -> Any:
        return self.explainer.model

    def plain(self, length: int) -> None:
        """The forward that the model had to do anyway, with the logits of the answer rows."""
        inputs = with_answer(self.inputs, models.answer(self.model, length))
        with torch.no_grad():
            self.model(**inputs, logits_to_keep=length, use_cache=False)

    def explain(
        self, length: int, *, method: str | Sequence[str] = "dexar", unfiltered: bool = False, grounding: bool = False
    ) -> Explanation:
        return self.explainer.explain_ids(
            self.inputs, models.answer(self.model, length), method=method, unfiltered=unfiltered, grounding=grounding
        )

    def generate(self, length: int) -> tuple[Tensor, Prefill]:
        """Greedily, as `explain` without an answer does; the ids, and the prompt as it ran."""
        return self._generate(self.inputs, length)

    def generate_behind(self, length: int, further: int) -> None:
        """Go on behind a longer prompt."""
        self._generate(with_answer(self.inputs, models.answer(self.model, length)), further)

    def _generate(self, inputs: dict[str, Tensor], length: int) -> tuple[Tensor, Prefill]:
        with evaluating(self.model):
            ids, ran = generate_answer(self.explainer.decoder, inputs, length, silent)
        if len(ids) != length or ran is None:
            raise RuntimeError(f"expected an answer of {length} tokens over a cache; got {len(ids)}")
        return ids, ran

    def prefilled(self, length: int) -> tuple[Tensor, Prefill]:
        """An answer as given, and its prompt as it ran: where the model does not write all of it."""
        with evaluating(self.model):
            return models.answer(self.model, length), prefill(self.explainer.decoder, self.inputs)

    def after(self, ids: Tensor, ran: Prefill) -> Explanation:
        """What `explain` does when the model has written its answer: over the cache that it left."""
        return explain_encoded(
            self.explainer, Encoded(self.inputs, ids, ran=ran), self.explainer.options(method="dexar")
        )

    def stream(self, length: int, block: int) -> Explanation:
        """Write an answer and explain it meanwhile."""
        with (
            evaluating(self.model),
            self.explainer.streamer(self.inputs, lambda _: None, block=block, method="dexar") as streamer,
        ):
            write(self.explainer.decoder, self.inputs, length, streamer, streamer.cache)
        if streamer.explanation is None or len(streamer.explanation.tokens) != length:
            raise RuntimeError(f"expected an explanation of {length} tokens")
        return streamer.explanation

    def naive(self, length: int) -> naive.NaiveResult:
        prompt = self.inputs["input_ids"][0]
        text = torch.cat((prompt != models.IMAGE_TOKEN_ID, torch.ones(length, dtype=torch.bool, device=prompt.device)))
        answer = models.answer(self.model, length)
        return naive.explain(self._naive_model, self.inputs, answer, self._layers, "paper", text)

    def naive_last_token(self, length: int) -> None:
        """The naive method's largest step: its last token, with prompt and answer before it."""
        answer = models.answer(self.model, length)
        naive.token_signals(self._naive_model, self.inputs, answer[:-1], int(answer[-1]), self._layers)

    @property
    def _layers(self) -> list[int]:
        return list(range(len(self.explainer.decoder.layers)))

    @cached_property
    def _naive_model(self) -> Any:
        """The same weights under the eager attention that the naive method needs; no second copy in memory."""
        copy = SHAPES[self.shape](device="meta", attention="eager")
        copy.load_state_dict(self.model.state_dict(), assign=True)
        copy.model.language_model.rotary_emb = self.model.model.language_model.rotary_emb
        copy.model.vision_tower = self.model.model.vision_tower
        return copy
