"""Omni models: the thinker writes the answer; a whole model is explained by it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dexar_fast import Explainer, InputError
from dexar_fast.models.registry import family_of

from .case import all_cases, picture
from .qwen_vl import IMAGE


def test_of_a_whole_model_the_thinker_is_explained() -> None:
    thinker = all_cases()["qwen2_5_omni"].model("sdpa")

    class Whole(torch.nn.Module):  # as Qwen2_5OmniForConditionalGeneration: a talker stands beside it
        def __init__(self) -> None:
            super().__init__()
            self.thinker = thinker
            self.config = SimpleNamespace(model_type="qwen2_5_omni")

    explainer = Explainer(Whole())
    assert explainer.model is thinker
    assert explainer.family.name == "qwen2_5_omni"
    assert family_of(Whole().config) is explainer.family


def test_answer_ends_as_the_whole_model_would_end_it() -> None:
    """The end token is known to the `generate` of the whole model alone."""
    case = all_cases()["qwen3_omni_moe"]
    explainer = Explainer(case.model("sdpa"), case.processor())
    explainer.model.generation_config.eos_token_id = None
    prompt = f"{IMAGE} two blue stars"
    written = explainer.explain(picture(), prompt, max_new_tokens=3)
    assert len(written.token_ids) == 3
    explainer.decoder.family = replace(explainer.family, end_ids=(int(written.token_ids[0]),))
    with pytest.raises(InputError, match="the model ended its answer at once"):
        explainer.explain(picture(), prompt, max_new_tokens=3)
