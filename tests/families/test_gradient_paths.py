"""The ways to run that no family's declaration above takes: rows "whole", and the tap between projections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dexar_fast.models.decoder import Decoder
from dexar_fast.models.family import Family

from .case import all_cases, answer, picture
from .oracle import DoubleThroughout
from .test_families import assert_close, encode, explainer_of, run


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llava", {"rows": "whole", "gradient_path": "replay"}),
        ("bakllava", {"rows": "whole", "gradient_path": "replay"}),
        ("qwen2_vl", {"rows": "whole", "gradient_path": "replay"}),
        ("idefics3", {"rows": "whole", "gradient_path": "replay"}),
        ("florence2", {"tap": "projections", "gradient_path": "replay"}),
    ],
    ids=["whole, llava", "whole, sliding window", "whole, M-RoPE", "whole, tiles", "projections, cross-attention"],
)
def test_gives_the_same(name: str, changes: dict[str, Any]) -> None:
    case = all_cases()[name]
    explainer = explainer_of(case)
    inputs, _ = encode(explainer, case, list(case.prompts)[-1])
    ids = answer(6)
    with DoubleThroughout():
        _, usual = run(explainer, inputs, ids)
        explainer.decoder = Decoder(explainer.model, replace(explainer.family, **changes))
        explainer.checked_layers.clear()
        _, other = run(explainer, inputs, ids)
    assert float(usual.maps.max()) > 0
    assert_close(other.maps, usual.maps, 1e-12, "maps")
    assert_close(other.image_scores, usual.image_scores, 1e-12, "S_img")
    assert_close(other.text_scores, usual.text_scores, 1e-12, "S_text")


@pytest.mark.parametrize("changes", [{"rows": "whole"}, {"tap": "projections"}], ids=str)
def test_needs_the_replay(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"family 'mine': .* need gradient_path='replay'; got 'leaf'"):
        Family(name="mine", model_types=("mine",), layout=lambda prompt, tokens: None, **changes)


def test_model_of_another_build_is_named() -> None:
    """A path that the family declares and the model does not have."""
    from dexar_fast import UnsupportedModelError

    model = all_cases()["llava"].model("sdpa")
    family = replace(explainer_of(all_cases()["llava"], dtype=torch.float32).family, final_norm="model.nowhere")
    with pytest.raises(UnsupportedModelError, match=r"family 'llava' expects a module 'model.nowhere'"):
        Decoder(model, family)
    with pytest.raises(UnsupportedModelError, match=r"no layer of .* has an attention 'cross'"):
        Decoder(model, replace(family, final_norm=None, attention="cross"))


def test_image_at_the_end_is_refused_where_the_text_model_embeds_it() -> None:
    from dexar_fast import InputError

    explainer = explainer_of(all_cases()["phi4_multimodal"])
    inputs, _ = explainer.encode([picture()], "two blue stars<|image|>", "a")
    with pytest.raises(InputError, match=r"prompt: ends in an image, and a phi4_multimodal model .* Put text behind"):
        run(explainer, inputs, answer(3))
