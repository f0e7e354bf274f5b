"""Explaining leaves the user's model, and the caller's modes, exactly as they were; also after an exception."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dexar_fast import Explainer
from dexar_fast.engine.pipeline import Accumulator

from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor


def state(model):
    """Everything that wrapping could leave behind."""
    return {
        "hooks": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for name, m in model.named_modules()
        },
        "own attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "train flags": {name: m.training for name, m in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad is None for name, p in model.named_parameters()},
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "config": copy.deepcopy(model.config.to_dict()) if hasattr(model, "config") else None,
        "attention": {name: m.config._attn_implementation for name, m in model.named_modules() if hasattr(m, "config")},
        "registry": dict(ALL_ATTENTION_FUNCTIONS),
        "local registry": dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
    }


def assert_same(before, after) -> None:
    for name, weight in before.pop("weights").items():
        torch.testing.assert_close(after["weights"][name], weight, rtol=0, atol=0)
    after.pop("weights")
    assert before == after


@pytest.fixture(params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest):
    model = tiny_llava(attention=request.param)
    model.train()
    model.model.vision_tower.eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    model(**tiny_inputs(model))  # transformers notes on the modules that it has run them
    return model


def test_after_success(model) -> None:
    before = state(model)
    Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    assert_same(before, state(model))


def test_after_an_exception_in_the_middle(model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self, gradient, keys) -> None:
        if gradient.attention.layer == 1:
            raise RuntimeError("in the middle")

    before = state(model)
    monkeypatch.setattr(Accumulator, "add", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    assert_same(before, state(model))


def test_after_an_exception_in_a_tail(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """While grad mode is on: behind attention, before the layer ends."""
    before = state(model)

    def fail_with_gradients(*_) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError("in the tail")

    handle = model.model.language_model.layers[1].mlp.register_forward_pre_hook(fail_with_gradients)
    with pytest.raises(RuntimeError, match="in the tail"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    handle.remove()
    assert_same(before, state(model))


def test_after_free_running() -> None:
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID]
    explainer = Explainer(model, tiny_processor())
    explainer.explain(picture(), "what is it?", max_new_tokens=2)
    before, generation = state(model), copy.deepcopy(model.generation_config.to_dict())
    explainer.explain(picture(), "what is it?", max_new_tokens=2)
    assert_same(before, state(model))
    assert model.generation_config.to_dict() == generation


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda m: m.__name__)
def test_works_within_the_callers_mode(mode) -> None:
    model, answer = tiny_llava(), tiny_answer(4)
    inputs = tiny_inputs(model)
    expected = Explainer(model).explain_ids(inputs, answer)
    with mode():
        within = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert (within.token_maps == expected.token_maps).all()


def test_dropout_is_off_while_explaining() -> None:
    model = tiny_llava()
    expected = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert (Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4)).token_maps == expected.token_maps).all()


def test_another_model_runs_beside_it_undisturbed() -> None:
    """The registry entry is wrapped for one model's modules only."""
    model, other = tiny_llava(), tiny_llava(seed=3)
    expected = other(**tiny_inputs(other)).logits
    seen = []
    layer = model.model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(lambda _m, _a: seen.append(other(**tiny_inputs(other)).logits))
    Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    handle.remove()
    assert len(seen) >= 2
    assert all((logits == expected).all() for logits in seen)


def test_two_threads_explain_two_models() -> None:
    registry = dict(ALL_ATTENTION_FUNCTIONS)
    models = [tiny_llava(seed=seed) for seed in (3, 9)]
    expected = [Explainer(m).explain_ids(tiny_inputs(m), tiny_answer(4)).token_maps for m in models]

    def explain(index: int) -> list:
        model = models[index]
        return [Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4)).token_maps for _ in range(12)]

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(explain, (0, 1)))
    for maps, wanted in zip(results, expected, strict=True):
        assert all((m == wanted).all() for m in maps)
    assert dict(ALL_ATTENTION_FUNCTIONS) == registry


def test_autocast_of_the_caller_does_not_reach_in() -> None:
    model = tiny_llava(dtype=torch.float32)
    expected = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    with torch.autocast("cpu", torch.bfloat16):
        within = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    assert (within.token_maps == expected.token_maps).all()


def test_subclass_of_the_attention_works_under_eager() -> None:
    model = tiny_llava(attention="eager")
    expected = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))
    for layer in model.model.language_model.layers:
        layer.self_attn.__class__ = type("Mine", (type(layer.self_attn),), {})
    assert (Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4)).token_maps == expected.token_maps).all()
