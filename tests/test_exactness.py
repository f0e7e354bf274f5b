"""The one-pass engine against the oracle: every number, on float64 models, under every attention implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.naive import NaiveResult
from benchmarks.naive import explain as explain_naively
from dexar_fast import Explainer, Explanation
from dexar_fast.evaluate.data import open_data
from dexar_fast.inputs.methods import METHODS

from .tiny import tiny_answer, tiny_inputs, tiny_llava, with_float64_norms

EXACT = 1e-10  # for models that are float64 throughout
AS_SHIPPED = 2e-6  # transformers' norms compute in float32


def both(
    *,
    attention="sdpa",
    length=5,
    before=3,
    after=4,
    layers=None,
    method="dexar",
    normalization="paper",
    text_set=None,
    pure=True,
    **model,
) -> tuple[Explanation, NaiveResult]:
    """The same answer explained by the engine and by the oracle, on two copies of one model."""
    ours, theirs = tiny_llava(attention=attention, **model), tiny_llava(attention="eager", **model)
    if pure:
        ours, theirs = with_float64_norms(ours), with_float64_norms(theirs)
    inputs, answer = tiny_inputs(ours, before, after), tiny_answer(length)
    mask = torch.cat((inputs["input_ids"][0] != ours.config.image_token_id, torch.ones(length, dtype=torch.bool)))
    if text_set is not None:
        mask &= text_set(mask)
    explanation = Explainer(ours).explain_ids(
        inputs, answer, layers=layers, method=method, normalization=normalization, text_set=mask, unfiltered=True
    )
    oracle = explain_naively(theirs, inputs, answer, list(explanation.layers), normalization, mask, method)
    return explanation, oracle


def assert_equal(explanation: Explanation, oracle: NaiveResult, tolerance: float) -> None:
    for name in NaiveResult.__dataclass_fields__:
        expected = getattr(oracle, name).numpy()
        actual = getattr(explanation, name)
        assert actual.dtype == np.float64, name
        assert np.isfinite(expected).all(), name
        assert np.abs(actual.reshape(expected.shape) - expected).max() <= tolerance, name


@pytest.mark.parametrize("normalization", ["paper", "reference"])
@pytest.mark.parametrize("text", ["llama", "mistral"])
def test_equals_oracle(text: str, normalization: str) -> None:
    explanation, oracle = both(text=text, normalization=normalization)
    assert oracle.token_weights.max() > 0
    assert_equal(explanation, oracle, EXACT)


@pytest.mark.parametrize("method", list(METHODS)[1:])
@pytest.mark.parametrize("text", ["llama", "mistral"])
def test_methods_with_probabilities_equal_oracle(text: str, method: str) -> None:
    explanation, oracle = both(text=text, method=method)
    assert oracle.image_scores.max() > 0
    assert explanation.settings["method"] == method
    assert_equal(explanation, oracle, EXACT)


@pytest.mark.parametrize("normalization", ["paper", "reference"])
def test_equals_oracle_as_shipped(normalization: str) -> None:
    assert_equal(*both(pure=False, normalization=normalization), AS_SHIPPED)


@pytest.mark.parametrize("length", [1, 2, 17])
def test_answer_lengths(length: int) -> None:
    assert_equal(*both(length=length), EXACT)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (7, 2), (0, 0)], ids=lambda n: str(n))
def test_text_around_the_image(before: int, after: int) -> None:
    """Also a prompt that ends in the image, whose last image token predicts the first answer token."""
    assert_equal(*both(before=before, after=after), EXACT)


@pytest.mark.parametrize(
    ("layers", "chosen"), [(-2, (1, 2)), (2, (2,)), ((0, 2), (0, 1)), ([2, 0], (0, 2))], ids=lambda value: str(value)
)
def test_layers(layers, chosen: tuple[int, ...]) -> None:
    explanation, oracle = both(layers=layers)
    assert explanation.layers == chosen
    assert_equal(explanation, oracle, EXACT)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 4, 16), (4, 1, 8), (8, 2, 10)], ids=["MHA", "MQA", "head width 10"]
)
def test_head_layouts(heads: int, kv_heads: int, head_dim: int) -> None:
    assert_equal(*both(heads=heads, kv_heads=kv_heads, head_dim=head_dim), EXACT)


@pytest.mark.parametrize("window", [1, 4, 12], ids=lambda w: f"window {w}")
def test_sliding_window(window: int) -> None:
    """A key behind the window is not visible; with a small one late rows see no image key at all."""
    assert_equal(*both(text="mistral", sliding_window=window, length=6), EXACT)


def test_no_visible_text_key() -> None:
    explanation, oracle = both(text_set=torch.zeros_like)
    assert (explanation.text_scores == 0).all()
    assert_equal(explanation, oracle, EXACT)


def test_class_token_counts_but_has_no_cell() -> None:
    """Strategy "full" puts a class token before the patches: it may set S_img, the map has no cell for it."""
    explanation, oracle = both(strategy="full")
    assert explanation.token_maps.shape == (5, 3, 3)
    np.testing.assert_allclose(explanation.image_scores, oracle.image_scores.numpy(), atol=EXACT)
    from_patches = oracle.token_maps[:, 1:]
    low, high = from_patches.amin(1, keepdim=True), from_patches.amax(1, keepdim=True)
    np.testing.assert_allclose(
        explanation.token_maps.reshape(5, 9), ((from_patches - low) / (high - low)).numpy(), atol=1e-9
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
def test_attention_implementations_agree(attention: str) -> None:
    """In float32, as models run; flex attention compiles for the CPU and has no float64 there."""
    inputs, answer = tiny_inputs(tiny_llava(dtype=torch.float32)), tiny_answer(6)
    exact = Explainer(tiny_llava()).explain_ids(inputs, answer)
    explanation = Explainer(tiny_llava(dtype=torch.float32, attention=attention)).explain_ids(inputs, answer)
    assert explanation.settings["attention"] == attention
    np.testing.assert_allclose(explanation.token_maps, exact.token_maps, atol=1e-4)
    np.testing.assert_allclose(explanation.answer_map, exact.answer_map, atol=1e-4)
    np.testing.assert_allclose(explanation.image_scores, exact.image_scores, rtol=1e-4, atol=1e-5)


def test_bfloat16_ranks_cells_as_float64() -> None:
    sample, found = open_data("demo")[0], []
    for dtype in (torch.float64, torch.bfloat16):
        explainer = Explainer.from_pretrained("demo", device="cpu", dtype=dtype, self_test=False)
        found.append(explainer.explain(sample.image, sample.prompt, sample.answer))
    for method in found[0].methods:
        exact, rounded = (one.of_method(method) for one in found)
        assert spearmanr(exact.token_maps.ravel(), rounded.token_maps.ravel()).statistic > 0.999
        assert spearmanr(exact.answer_map.ravel(), rounded.answer_map.ravel()).statistic > 0.999


def test_same_input_same_bits() -> None:
    model, answer = tiny_llava(dtype=torch.float32), tiny_answer(9)
    first, second = (Explainer(model).explain_ids(tiny_inputs(model), answer) for _ in range(2))
    np.testing.assert_array_equal(first.token_maps, second.token_maps)
    np.testing.assert_array_equal(first.image_scores, second.image_scores)


def test_constant_map_is_zero() -> None:
    """Values that are the same for every image key give constant maps: zero, never NaN."""
    model = tiny_llava()
    for layer in model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.v_proj.weight)
    explanation = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(3))
    assert (explanation.token_maps == 0).all()
    assert (explanation.answer_map == 0).all()
    assert (explanation.words()[0].map == 0).all()


def test_layout_places_each_token_in_its_own_cell() -> None:
    """A family whose image tokens come in another order than the rows of the map."""
    model, answer = tiny_llava(), tiny_answer(3)
    rowwise = Explainer(model).explain_ids(tiny_inputs(model), answer)
    explainer = Explainer(model)

    def upside_down(prompt, tokens) -> None:
        size = tokens.image((24, 24))
        for cell in range(8, -1, -1):
            left, top = cell % 3 * size[0] / 3, cell // 3 * size[1] / 3
            tokens.grid(1, 1, (left, top, left + size[0] / 3, top + size[1] / 3))

    explainer.decoder.family = replace(explainer.family, layout=upside_down)
    flipped = explainer.explain_ids(tiny_inputs(model), answer)
    np.testing.assert_array_equal(flipped.token_maps, rowwise.token_maps[:, ::-1, ::-1])
    np.testing.assert_array_equal(flipped.answer_map, rowwise.answer_map[::-1, ::-1])
