"""`DexarWrapper` as code written for the released package uses it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, InputError
from dexar_fast.compat import DexarWrapper, visualize, visualize_multi

from .tiny import IMAGE_TOKEN_ID, picture, tiny_llava, tiny_processor

PROMPT = "USER: <image>\nwhat is it? ASSISTANT:"


@pytest.fixture(scope="module")
def wrapper() -> DexarWrapper:
    return DexarWrapper(tiny_llava(dtype=torch.float32), tiny_processor(), layer_index=-2)


def test_result_has_the_released_shapes(wrapper: DexarWrapper) -> None:
    result = wrapper.compute_dexar(picture(), "a red star", PROMPT)
    T = len(result.tokens)
    assert result.tokens[0] == "a"
    assert result.per_token_heatmaps.shape == result.per_token_heatmaps_unfiltered.shape == (T, 3, 3)
    assert result.sentence_heatmap.shape == result.sentence_heatmap_unfiltered.shape == (3, 3)
    assert result.token_weights.shape == (T,)


def test_without_quirks_it_is_the_engines_reference_normalisation(wrapper: DexarWrapper) -> None:
    plain = DexarWrapper(wrapper.model, wrapper.processor, layer_index=-2, reference_quirks=False)
    result = plain.compute_dexar(picture(), "a red star", PROMPT)
    e = Explainer(wrapper.model, wrapper.processor).explain(
        picture(), PROMPT, "a red star", layers=-2, normalization="reference", unfiltered=True
    )
    np.testing.assert_array_equal(result.per_token_heatmaps.numpy(), e.token_maps)
    np.testing.assert_array_equal(result.sentence_heatmap.numpy(), e.answer_map)
    np.testing.assert_array_equal(result.sentence_heatmap_unfiltered.numpy(), e.unfiltered_answer_map)


def test_free_running_and_loading(wrapper: DexarWrapper, tmp_path: Path) -> None:
    wrapper.model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID]  # random weights would write it
    wrapper.model.save_pretrained(tmp_path)
    assert wrapper.processor is not None
    wrapper.processor.save_pretrained(tmp_path)
    loaded = DexarWrapper.from_pretrained(tmp_path, device="cpu", layer_index=-2)
    result = loaded.compute_dexar(picture(), "a star", PROMPT)
    expected = wrapper.compute_dexar(picture(), "a star", PROMPT)
    torch.testing.assert_close(result.sentence_heatmap, expected.sentence_heatmap, atol=1e-5, rtol=0)
    assert len(loaded.compute_dexar(picture(), None, PROMPT).tokens) > 0


def test_image_at_the_end_of_the_prompt_has_no_key_behind_it(wrapper: DexarWrapper) -> None:
    """The quirk leaves out the first answer token then; it must not run off the end."""
    result = wrapper.compute_dexar(picture(), "a", "what is it? <image>")
    assert result.token_weights.isfinite().all()


def test_mistakes_are_named(wrapper: DexarWrapper) -> None:
    with pytest.raises(InputError, match=r"layers: 9 is out of range"):
        DexarWrapper(wrapper.model, wrapper.processor, layer_index=9).compute_dexar(picture(), "a", PROMPT)


def test_figures_are_written(wrapper: DexarWrapper, tmp_path: Path) -> None:
    maps = torch.rand(8, 12, 16)
    figure = visualize_multi(picture(), maps, [f"${i}" for i in range(8)], save_path=tmp_path / "all.png")
    assert len(figure.axes) == 8
    assert figure.axes[3].get_title() == "$3"
    visualize(picture(), maps[0], "title", save_path=tmp_path / "one.png")
    assert (tmp_path / "all.png").stat().st_size > (tmp_path / "one.png").stat().st_size > 1000
