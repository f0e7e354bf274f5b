"""Captum's face: attributions of image segments, as `captum.attr.LLMAttribution` gives them, from one pass.

Run with Captum 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..explainer import Explainer
from ..layout.grid import to_cells
from .requires import require


class DexarLLMAttribution:
    """`attribute` as of Captum's ``LLMAttribution``; what it returns has Captum's plots.

    An attribution is the part of a map that lies on a segment: its cells, each times the share of it that the segment
    covers, summed. Segments that share out all that the model saw share out the whole map.

    Args:
        explainer: with the model and the processor.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer

    def attribute(
        self,
        inp: Any,
        target: str | Tensor | None = None,
        gen_args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Attribute every token of an answer to the segments of the image.

        Args:
            inp: ``captum.attr.ImageMaskInput``; its ``processor_fn`` gives what the model takes.
            target: the answer, as text or ids ``(T,)``; None lets the model write it.
            gen_args: for the model's ``generate`` where there is no target; by default at most 25 tokens, greedily.
            options: of `Explainer.explain_ids`, `method` and `grounding` among them.

        Returns:
            ``captum.attr.LLMAttributionResult``: ``seq_attr`` ``(segments,)`` of the answer map, ``token_attr``
            ``(T, segments)`` of the token maps, both of maps in [0, 1]; ``output_probs`` ``(T,)`` with grounding.

        Raises:
            ImportError: Captum is not installed.
            InputError: another input, or ``gen_args`` beside a target; and as `Explainer.explain_ids`.
        """
        captum = require("captum.attr", "captum", "DexarLLMAttribution")
        if not isinstance(inp, captum.ImageMaskInput):
            raise InputError(f"inp: expected captum.attr.ImageMaskInput; got {type(inp).__name__}")
        ids = self._target_ids(inp, target, gen_args)
        e = self.explainer.explain_ids(inp.original_model_inputs, ids, image=inp.image, **options)
        e.require_map()
        segments = [to_cells(mask.cpu().numpy(), e.grid) for mask in inp.get_mask_list()]
        shares = np.stack([share.ravel() for share in segments], axis=1)  # (cells, segments)
        log_p = e.log_probabilities
        return captum.LLMAttributionResult(
            input_tokens=inp.values,
            output_tokens=list(e.tokens),
            seq_attr=torch.from_numpy(e.answer_map.reshape(1, -1) @ shares).float()[0],
            token_attr=torch.from_numpy(e.token_maps.reshape(len(e.token_maps), -1) @ shares).float(),
            output_probs=None if log_p is None else torch.from_numpy(np.exp(log_p[:, 0])),
            inp=inp,
        )

    def _target_ids(self, inp: Any, target: str | Tensor | None, gen_args: Mapping[str, Any] | None) -> Tensor:
        if target is not None and gen_args is not None:
            raise InputError("gen_args: go with an answer that the model writes; got them beside a target")
        if isinstance(target, str):
            ids = self.explainer.tokenizer.encode(target, add_special_tokens=False)
            return torch.tensor(ids)
        if target is not None:
            return target
        inputs = inp.original_model_inputs
        with self.explainer.turn(), torch.no_grad():
            model: Any = self.explainer.model
            written = model.generate(**inputs, **(gen_args or {"max_new_tokens": 25, "do_sample": False}))
        answer: Tensor = written[0, inputs["input_ids"].shape[1] :]
        return answer
