"""Omni models: the thinker writes the answer; a whole model is explained by it."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from dexar_fast import Explainer
from dexar_fast.models.registry import family_of

from .case import all_cases


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
