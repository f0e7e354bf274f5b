"""Explaining over the cache that generation left: nothing of it is written anew, and the results are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import Explainer
from dexar_fast.engine.encoded import Encoded
from dexar_fast.engine.generation import generate_answer
from dexar_fast.engine.prefill import Prefill
from dexar_fast.engine.written_cache import WrittenLayer
from dexar_fast.models.state import evaluating
from dexar_fast.progress import silent

from .tiny import picture, tiny_inputs, tiny_llava, tiny_processor, with_float64_norms


@pytest.fixture
def explainer() -> Explainer:
    model = with_float64_norms(tiny_llava())
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [3]  # the image token
    return Explainer(model)


@pytest.mark.parametrize("row_chunk", [1, 3, 512])
def test_generations_own_keys_and_values_are_read(explainer: Explainer, row_chunk: int) -> None:
    inputs = tiny_inputs(explainer.model)
    with evaluating(explainer.model):
        ids, ran = generate_answer(explainer.decoder, inputs, 7, silent)
    assert isinstance(ran, Prefill)
    assert ran.cache is not None
    layers = ran.cache.layers
    assert all(isinstance(layer, WrittenLayer) for layer in layers)
    before = [(layer.keys, layer.keys.clone()) for layer in layers]
    options = explainer.options(row_chunk=row_chunk, method="dexar")
    _, sums = explainer.run(Encoded(inputs, ids, ran=ran), options)
    _, expected = explainer.run(Encoded(inputs, ids), options)
    torch.testing.assert_close(sums.maps, expected.maps, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sums.image_scores, expected.image_scores, rtol=1e-10, atol=1e-10)
    for layer, (keys, values_of_keys) in zip(layers, before):
        assert layer.keys is keys
        assert torch.equal(keys, values_of_keys)


@pytest.mark.parametrize("setting", [{"use_cache": False}, {"prompt_lookup_num_tokens": 3}, {"num_beams": 2}], ids=str)
def test_what_a_checkpoint_asks_of_generation(setting: dict[str, Any]) -> None:
    """Each position is written once, by greedy decoding over our cache."""
    explainer = Explainer(tiny_llava(), tiny_processor())
    explainer.model.generation_config.update(**setting, suppress_tokens=[2, 3])
    own = explainer.explain(picture(), "what is it?", max_new_tokens=5)
    assert own.settings["cache"] == "reused"
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    again = explainer.explain_ids(inputs, own.token_ids)
    np.testing.assert_allclose(own.image_scores, again.image_scores, rtol=1e-9, atol=1e-9)


def test_a_cache_that_generation_left_otherwise_is_of_no_use(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dexar_fast.engine import generation

    def one_more(decoder: Any, inputs: Any, limit: int, *further: Any) -> torch.Tensor:
        return write(decoder, inputs, limit + 1, *further)[:, :-1]

    write = generation.write
    monkeypatch.setattr(generation, "write", one_more)
    inputs = tiny_inputs(explainer.model)
    with evaluating(explainer.model), pytest.warns(UserWarning, match=r"generate: expected a cache of .* runs again"):
        ids, ran = generate_answer(explainer.decoder, inputs, 4, silent)
    assert len(ids) == 4
    assert ran is None


def test_rows_get_views_of_what_is_there(explainer: Explainer) -> None:
    inputs = tiny_inputs(explainer.model)
    with evaluating(explainer.model):
        _, ran = generate_answer(explainer.decoder, inputs, 4, silent)
    assert ran is not None
    assert ran.cache is not None
    layer = ran.cache.layers[0]
    whole = layer.get_seq_length()
    layer.crop(-3)
    assert layer.get_seq_length() == whole - 3
    of_two_rows = torch.full_like(layer.keys[..., :2, :], torch.nan)
    keys, values = layer.update(of_two_rows, of_two_rows)
    assert keys.data_ptr() == layer.keys.data_ptr()
    assert torch.equal(keys, layer.keys[..., : whole - 1, :])
    assert torch.equal(values, layer.values[..., : whole - 1, :])
    assert layer.get_seq_length() == whole - 1
