"""The method "dexar-focus" against its equations as they stand, and what must not move it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dexar_fast import Explainer
from dexar_fast.cli.app import DEMO_PROMPT, DEMO_SCALE, DEMO_SEED
from dexar_fast.demo.language import COLOURS, SHAPES
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.engine import focus
from dexar_fast.engine.answer_pass import LayerGradient, run_rows
from dexar_fast.engine.encoded import Encoded
from dexar_fast.engine.logit_lens import token_lens
from dexar_fast.engine.prefill import prefill
from dexar_fast.inputs.methods import FOCUS
from dexar_fast.models.state import evaluating
from dexar_fast.result.explanation import Explanation

from .tiny import picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor

T = 7


def explain(model: Any, *, tokens: int = T, **options: Any) -> Explanation:
    return Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(tokens), method=FOCUS, **options)


def signals(model: Any, tokens: int = T) -> tuple[Tensor, Tensor, Tensor]:
    """P, x and dS of every layer and head on the image keys, ``(L, T, H, N)``, from the layers' own tensors."""
    engine = Explainer(model)
    encoded = Encoded(tiny_inputs(model), tiny_answer(tokens))
    request = engine.request(encoded, engine.options())
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def visit(gradient: LayerGradient) -> None:
        call, d_out = gradient.attention, gradient.d_out  # [T, H, D]
        groups = d_out.shape[1] // len(call.key)
        key, value = (of.repeat_interleave(groups, 0) for of in (call.key, call.value))  # [H, K, D]
        logits = call.scale * torch.einsum("thd,hkd->thk", call.query, key)
        seen = torch.arange(key.shape[1]) <= request.row_positions[:, None]
        P = logits.masked_fill(~seen[:, None], -math.inf).softmax(dim=-1)
        G = torch.einsum("thd,hkd->thk", d_out, value)
        D = (P * G).sum(dim=-1, keepdim=True)
        P, G = P[..., request.image_keys], G[..., request.image_keys]
        found.append((P, P * (G - G.mean(dim=-1, keepdim=True)), P * (G - D)))

    with evaluating(model):
        ids = encoded.answer_ids
        run_rows(
            engine.decoder, prefill(engine.decoder, encoded.inputs), ids, slice(0, tokens), range(3),
            token_lens(engine.decoder, ids), visit,
        )  # fmt: skip
    P, x, dS = (torch.stack(parts) for parts in zip(*found))
    return P, x, dS


def focus_of(maps: Tensor) -> Tensor:
    return 1 - maps.sum(dim=-1) ** 2 / (maps.shape[-1] * (maps**2).sum(dim=-1))


def by_the_equations(P: Tensor, x: Tensor, dS: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(T, N)`` and h ``(T,)``, every sum written out; see `dexar_fast.engine.focus`."""
    L, n_tokens, _, N = P.shape
    E = (dS.clamp(min=0).amax(dim=-1, keepdim=True) * x.clamp(min=0)).sum(dim=2)  # [L, T, N]
    E = (focus_of(E)[..., None] * E).sum(dim=0)
    E = E / E.sum(dim=1, keepdim=True)
    A = P.sum(dim=2)  # [L, T, N]
    a = x.abs().amax(dim=-1).sum(dim=2)  # [L, T]
    d = (torch.arange(L, dtype=A.dtype) / (L - 1))[:, None]
    M = A.log().mean(dim=1, keepdim=True).exp()
    R = ((a * focus_of(A) * d)[..., None] * (A - (1 - 1 / n_tokens) * M)).sum(dim=0).clamp(min=0) * (E + 2 / N)
    R = R / R.sum(dim=1, keepdim=True)
    h = (a * focus_of(A) * d).sum(dim=0) / a.sum(dim=0)
    u = 1 - x.clamp(min=0).amax(dim=-1).sum(dim=(0, 2)) / a.sum(dim=0)
    odds = (3 * h / (1 - h)) ** 2 * u / (1 - u)
    g = (odds / (1 + odds))[:, None]
    return (1 - g) * E + g * R, h


def before_minmax(e: Explanation) -> np.ndarray:
    low, high = e.token_map_ranges.T[..., None, None]
    return (low + e.token_maps * (high - low)).reshape(len(e.tokens), -1)


@pytest.mark.parametrize("tokens", [1, 2, T])
@pytest.mark.parametrize("row_chunk", ["auto", 2])
def test_maps_are_those_of_the_equations(tokens: int, row_chunk: int | str) -> None:
    model = tiny_llava()
    expected, h = by_the_equations(*signals(model, tokens))
    found = explain(model, tokens=tokens, row_chunk=row_chunk)
    np.testing.assert_allclose(before_minmax(found), expected.numpy(), atol=1e-12)
    np.testing.assert_allclose(before_minmax(found).sum(axis=1), 1)
    np.testing.assert_allclose(found.token_weights, h.numpy(), atol=1e-12)
    answer_map = h @ expected
    answer_map = (answer_map - answer_map.min()) / (answer_map.max() - answer_map.min())
    np.testing.assert_allclose(found.answer_map.ravel(), answer_map.numpy(), atol=1e-10)


def test_head_weights_are_what_one_image_key_says_for_the_token() -> None:
    model = tiny_llava()
    _, x, _ = signals(model)
    found = explain(model)
    np.testing.assert_allclose(found.head_weights, x.clamp(min=0).amax(dim=-1).transpose(0, 1).numpy(), atol=1e-12)


def attentions(model: Any) -> list[Any]:
    return [layer.self_attn for layer in model.model.language_model.layers]


def shift_values(model: Any) -> None:
    """Add a vector to every value, and take what it does out behind the output projection."""
    for number, attention in enumerate(attentions(model)):
        generator = torch.Generator().manual_seed(number)
        v, o = attention.v_proj, attention.o_proj
        shift = torch.randn(v.out_features, generator=generator, dtype=torch.float64)
        of_heads = shift.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten()  # 4 heads read 2
        v.bias = nn.Parameter(shift)
        o.bias = nn.Parameter(-(o.weight @ of_heads).detach())


def permute_heads(model: Any) -> None:
    """Exchange the two heads of a key/value head, and the two key/value heads."""
    order = torch.tensor([3, 2, 1, 0])
    for attention in attentions(model):
        rows = (order[:, None] * 16 + torch.arange(16)).flatten()
        kv_rows = (torch.tensor([1, 0])[:, None] * 16 + torch.arange(16)).flatten()
        with torch.no_grad():
            for name, chosen in (("q_proj", rows), ("k_proj", kv_rows), ("v_proj", kv_rows)):
                weight = getattr(attention, name).weight
                weight.copy_(weight[chosen].clone())
            attention.o_proj.weight.copy_(attention.o_proj.weight[:, rows].clone())


def scale_scores(model: Any) -> None:
    """Every logit four times as large: a power of two, which rounds nothing in the model's float32 norms."""
    with torch.no_grad():
        model.lm_head.weight.mul_(4)


@pytest.mark.parametrize("change", [shift_values, permute_heads, scale_scores])
def test_unmoved_by(change: Callable[[Any], None]) -> None:
    before = explain(tiny_llava())
    model = tiny_llava()
    change(model)
    after = explain(model)
    np.testing.assert_allclose(after.token_maps, before.token_maps, atol=1e-9)


def test_small_scores_are_no_zeros() -> None:
    """Products of two of them are squared for the focus of a map: in float32 that would vanish."""
    before = explain(tiny_llava(dtype=torch.float32))
    model = tiny_llava(dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0**-37)
    np.testing.assert_allclose(explain(model).token_maps, before.token_maps, atol=1e-3)


def test_the_shift_of_values_moves_the_published_maps() -> None:
    """Or the test above would show nothing."""
    model = tiny_llava()
    shift_values(model)
    moved, unmoved = (
        Explainer(each).explain_ids(tiny_inputs(each), tiny_answer(T), method="dexar") for each in (model, tiny_llava())
    )
    assert np.abs(moved.token_maps - unmoved.token_maps).max() > 0.1


def test_beside_the_published_method_in_one_pass() -> None:
    model = tiny_llava()
    both = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(T))
    assert both.methods == (FOCUS, "dexar")
    published = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(T), method="dexar")
    for name in ("token_maps", "answer_map", "token_weights", "image_scores", "text_scores", "token_map_ranges"):
        np.testing.assert_array_equal(getattr(both.of_method("dexar"), name), getattr(published, name), err_msg=name)
    np.testing.assert_array_equal(both.token_maps, explain(model).token_maps)
    np.testing.assert_array_equal(both.maps("dexar"), published.token_maps)


def test_in_batches_as_alone() -> None:
    explainer = Explainer(tiny_llava(), tiny_processor())
    answers = [" a small red square", " blue", " at the top"]
    alone = [explainer.explain(picture(), "what is it?", answer) for answer in answers]
    together = explainer.explain_many([(picture(), "what is it?", answer) for answer in answers], batch_size=3)
    for one, of_batch in zip(alone, together, strict=True):
        assert of_batch.settings["batch"] == 3
        for method in (FOCUS, "dexar"):
            np.testing.assert_allclose(of_batch.maps(method), one.maps(method), atol=1e-9)


def test_streamed_maps_are_contrasted_with_what_came_before() -> None:
    explainer = Explainer(tiny_llava(), tiny_processor())
    stream = explainer.stream(picture(), "what is it?", block=3, max_new_tokens=8)
    tokens = list(stream)
    whole = stream.explanation
    assert whole is not None
    expected = explainer.explain(picture(), "what is it?", max_new_tokens=8)
    for method in (FOCUS, "dexar"):
        np.testing.assert_allclose(whole.maps(method), expected.maps(method), atol=1e-9)
    ids = whole.token_ids
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    for stop in (3, 6):  # a block knows the tokens up to its end
        so_far = explainer.explain_ids(inputs, ids[:stop], method=FOCUS)
        live = np.stack([token.token_map for token in tokens[stop - 3 : stop]])
        np.testing.assert_allclose(live, so_far.token_maps[stop - 3 :], atol=1e-9)
    published = np.stack([token.beside["dexar"] for token in tokens])
    np.testing.assert_allclose(published, whole.maps("dexar"), atol=1e-9)


def test_the_default_map_points_at_all_six_objects_words_of_the_demo() -> None:
    """Colour and shape words of the scene that `dexar-fast demo` draws; the published map has three of them right."""
    explainer = Explainer.from_pretrained("demo", self_test=False)
    scene = draw_scene(DEMO_SEED, scale=DEMO_SCALE)
    explanation = explainer.explain(scene.image, DEMO_PROMPT)
    assert explanation.answer.split() == str(scene.description).split()

    def right(method: str) -> list[str]:
        found = []
        for word, refers_to in zip(explanation.of_method(method).words(), scene.description.refers_to, strict=True):
            if word.text in (*COLOURS, *SHAPES) and word.peak is not None:
                x, y = (int(at) for at in word.peak)
                if scene.mask(refers_to)[y, x]:
                    found.append(word.text)
        return found

    assert right(FOCUS) == ["blue", "circle", "white", "square", "red", "triangle"]
    assert len(right("dexar")) < 6


def test_fewer_rows_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the chunk that failed had added already, of one layer here, does not count twice."""
    whole = explain(tiny_llava())
    original, layers = focus.score_and_accumulate_all, []

    def limited(d_out: Tensor, *args: Any, **kwargs: Any) -> Any:
        layers.append(len(d_out))
        if layers == [T, T]:
            raise torch.OutOfMemoryError
        return original(d_out, *args, **kwargs)

    monkeypatch.setattr(focus, "score_and_accumulate_all", limited)
    with pytest.warns(UserWarning, match="out of memory"):
        halved = explain(tiny_llava())
    assert max(layers[2:]) < T
    np.testing.assert_allclose(halved.token_maps, whole.token_maps, atol=1e-9)
