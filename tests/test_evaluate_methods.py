"""Every comparison method against another computation of it, on tiny float64 models with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import naive
from dexar_fast import Explainer, InputError, UnsupportedModelError
from dexar_fast.engine.request import lay_out, make_request
from dexar_fast.engine.teacher_forcing import with_answer
from dexar_fast.inputs.methods import COMPARISONS
from dexar_fast.methods.comparisons import relevance
from dexar_fast.methods.forward import Case, picture_log_probabilities
from dexar_fast.methods.subject import Subject
from dexar_fast.methods.tam import rank_gaussian_filter

from .tiny import picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor, with_float64_norms

T = 5
TEXT = "all_non_image"


@pytest.fixture(scope="module")
def model() -> Any:
    return with_float64_norms(tiny_llava(attention="eager"))


def make_subject(model: Any, *, strategy: str = "default", length: int = T, **given: Any) -> Subject:
    explainer = Explainer(model, tiny_processor(strategy=strategy))
    inputs, answer = tiny_inputs(model), tiny_answer(length)
    request = make_request(
        explainer.decoder, inputs, answer, lay_out(explainer.decoder, None, inputs, None), TEXT, None
    )
    return Subject(explainer, request, given.pop("layers", (0, 1, 2)), images=None, prompt=None)


@pytest.fixture
def subject(model: Any) -> Subject:
    return make_subject(model)


def matrices(subject: Subject) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Per token: the last row of every layer's probabilities ``(H, keys)``, and the gradient to it, by autograd."""
    model, request = subject.explainer.model, subject.request
    for t in range(T):
        ids = torch.cat((request.inputs["input_ids"][0], request.answer_ids[:t]))[None]
        decoder: Any = model.get_submodule("model.language_model")
        residuals: dict[int, Tensor] = {}
        handles = [
            layer.register_forward_hook(
                lambda _m, _a, out, index=index, residuals=residuals: residuals.update({index: out})
            )
            for index, layer in enumerate(decoder.layers)
        ]
        with naive._keep_attention(decoder) as kept:
            model.model(input_ids=ids, pixel_values=request.inputs["pixel_values"], use_cache=False)
        for handle in handles:
            handle.remove()
        probabilities = {layer: kept[layer][1] for layer in subject.layers}
        gradients = []
        for layer in subject.layers:
            logit = decoder.norm(residuals[layer])[0, -1] @ model.lm_head.weight[request.answer_ids[t]]
            (gradient,) = torch.autograd.grad(logit, probabilities[layer], retain_graph=True)
            gradients.append(gradient[0, :, -1])
        yield [probabilities[layer][0, :, -1].detach() for layer in subject.layers], gradients


def total(layers: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(layers)).sum(0)


def test_attention(subject):
    image = subject.request.image_keys
    expected = torch.stack([total(p[:, image].mean(0) for p in rows) for rows, _ in matrices(subject)])
    torch.testing.assert_close(relevance("attention", subject).double(), expected, atol=1e-6, rtol=1e-5)


def test_attention_contrast(subject):
    maps = relevance("attention", subject)
    for t in range(T):
        others = torch.cat((maps[:t], maps[t + 1 :])).mean(0)
        torch.testing.assert_close(relevance("attention-contrast", subject)[t], (maps[t] - others).relu())


def test_contrast_of_one_token(model):
    """Nothing to be compared with: attention itself."""
    subject = make_subject(model, length=1)
    assert torch.equal(relevance("attention-contrast", subject), relevance("attention", subject))


@pytest.mark.parametrize("layers", [(0, 1, 2), (1,)], ids=["all layers", "one layer"])
def test_attention_gradient(model, layers):
    subject = make_subject(model, layers=layers)
    image = subject.request.image_keys
    expected = torch.stack(
        [
            total((p * g)[:, image].sum(0).relu() for p, g in zip(rows, gradients, strict=True))
            for rows, gradients in matrices(subject)
        ]
    )
    torch.testing.assert_close(relevance("attention-gradient", subject).double(), expected, atol=1e-5, rtol=1e-5)


def test_dexar_unfiltered(subject):
    image = subject.request.image_keys
    expected = torch.stack([total(g[:, image].relu().sum(0) for g in gs) for _, gs in matrices(subject)])
    torch.testing.assert_close(relevance("dexar-unfiltered", subject).double(), expected, atol=1e-5, rtol=1e-5)


def test_gradient_input_by_differences():
    """Scaling one image embedding by 1 + h moves the logit by h < x, ds/dx >: no autograd needed."""
    subject = make_subject(with_float64_norms(tiny_llava()))  # sdpa, all in float64
    found = relevance("gradient-input", subject)
    h = 1e-5
    for number in (0, 4, 8):
        key = int(subject.request.image_keys[number])
        up, down = (answer_logits(subject, key, 1 + sign * h) for sign in (1, -1))
        expected = ((up - down) / (2 * h)).clamp(min=0)
        torch.testing.assert_close(found[:, number].double(), expected, atol=1e-6, rtol=1e-5)
    assert (found > 0).any()


def answer_logits(subject: Subject, key: int, factor: float) -> Tensor:
    """Logits ``(T,)`` of the answer with the embedding at one key scaled."""
    model, request = subject.explainer.model, subject.request

    def scale(_: Any, args: Any, kwargs: Any) -> Any:
        embeddings = kwargs["inputs_embeds"].clone()
        embeddings[:, key] *= factor
        return args, {**kwargs, "inputs_embeds": embeddings}

    handle = model.get_submodule("model.language_model").register_forward_pre_hook(scale, with_kwargs=True)
    with torch.no_grad():
        logits = model(**with_answer(request.inputs, request.answer_ids)).logits[0]
    handle.remove()
    return logits[request.row_positions, request.answer_ids]


def test_grad_cam(subject):
    """With the graph of the whole model and the features taken from the vision tower's own hidden states."""
    model, request = subject.explainer.model, subject.request
    states: list[Tensor] = []
    layer = model.get_submodule("model.vision_tower.encoder.layers")[
        -2
    ]  # vision_feature_layer=-2, the last that counts
    handle = layer.register_forward_hook(lambda _m, _a, out: states.append(out[0] if isinstance(out, tuple) else out))
    with torch.enable_grad():
        logits = model(**with_answer(request.inputs, request.answer_ids)).logits[0]
    handle.remove()
    expected = []
    for row, token in zip(request.row_positions, request.answer_ids, strict=True):
        (gradient,) = torch.autograd.grad(logits[row, token], states[0], retain_graph=True)
        features, slopes = states[0].reshape(-1, 32)[1:], gradient.reshape(-1, 32)[1:]  # without the class token
        expected.append((features * slopes.mean(0)).sum(1).relu())
    found = relevance("grad-cam", subject)
    torch.testing.assert_close(found.double(), torch.stack(expected).detach(), atol=1e-4, rtol=1e-4)
    assert (found > 0).any()


def test_grad_cam_needs_a_projector(subject):
    layer = torch.nn.Linear(1, 1)
    family = SimpleNamespace(keys="sequence", rows="cached", prompt_sees_itself=False)
    explainer = SimpleNamespace(decoder=SimpleNamespace(base=layer), model=layer, family=family)
    with pytest.raises(UnsupportedModelError, match="multi_modal_projector"):
        relevance("grad-cam", Subject(explainer, subject.request, (0,), None, None))  # type: ignore[arg-type]


def test_tam_token_by_token(subject):
    """Loops and scipy's minimiser, as the paper has it."""
    from scipy.optimize import minimize_scalar

    model, request = subject.explainer.model, subject.request
    ids = with_answer(request.inputs, request.answer_ids)
    with torch.no_grad():
        logits = model(**ids).logits[0].clamp(min=0).numpy()
    prompt = request.inputs["input_ids"][0].tolist()
    image = request.image_keys.tolist()
    texts = [(i, token) for i, token in enumerate(prompt) if i not in image]
    for t, token in enumerate(request.answer_ids.tolist()):
        row = len(prompt) - 1 + t
        own = logits[image, token]
        others = [(place, other) for place, other in texts if other != token]
        weights = np.array([logits[place, token] for place, _ in others])
        maps = np.array([logits[image, other] for _, other in others])
        interference = (maps * (weights / (weights.sum() + 1e-8))[:, None]).sum(0)
        scale = minimize_scalar(lambda x, a=own, b=interference: ((a - b * x) ** 2).sum()).x
        expected = filter_by_loops(np.clip(own - scale * interference, 0, None).reshape(3, 3))
        np.testing.assert_allclose(relevance("tam", subject)[t].reshape(3, 3), expected, atol=1e-4)
        texts.append((row, token))


def filter_by_loops(image: np.ndarray) -> np.ndarray:
    padded, filtered = np.pad(image, 1, mode="reflect"), np.zeros_like(image)
    for i, j in np.ndindex(image.shape):
        window = np.sort(padded[i : i + 3, j : j + 3].ravel())
        if window.mean() > 0 and window.std() > 0:
            kernel = np.exp(-((np.arange(9) - 4) ** 2) / (2 * (window.std() / window.mean()) ** 2))
            filtered[i, j] = (window * kernel / kernel.sum()).sum()
        else:
            filtered[i, j] = window[4]
    return filtered


@pytest.mark.parametrize("kind", ["random", "constant", "zero", "one spike"])
def test_rank_gaussian_filter(kind):
    image = {
        "random": np.random.default_rng(0).random((6, 4)),
        "constant": np.full((6, 4), 0.7),
        "zero": np.zeros((6, 4)),
        "one spike": np.eye(6, 4) * (np.arange(6) == 2)[:, None],
    }[kind]
    found = rank_gaussian_filter(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(found, filter_by_loops(image), atol=1e-9)


def test_occlusion_one_cell_at_a_time(model):
    """Each cell covered by hand, one forward pass each, without batches."""
    image = picture(24, 24)  # one pixel of the model per pixel
    explainer = Explainer(model, tiny_processor())
    inputs, answer = explainer.encode([image], "what is it?", "a red square")
    layout = lay_out(explainer.decoder, explainer.processor, inputs, [image.size])
    request = make_request(explainer.decoder, inputs, answer, layout, TEXT, None)
    subject = Subject(explainer, request, (0, 1, 2), [image], "what is it?")
    found = relevance("occlusion", subject)
    whole = log_p(explainer, inputs, answer)
    for cell in range(9):
        top, left = 8 * (cell // 3), 8 * (cell % 3)
        pixels = np.array(image)
        pixels[top : top + 8, left : left + 8] = np.array(image).mean((0, 1)).round()
        covered, _ = explainer.encode([Image.fromarray(pixels)], "what is it?", "a red square")
        drop = (whole - log_p(explainer, covered, answer)).clamp(min=0)
        torch.testing.assert_close(found[:, cell].double(), drop, atol=1e-5, rtol=1e-4)
    assert (found > 0).any()


def test_occlusion_needs_the_image(subject):
    with pytest.raises(InputError, match="occlusion"):
        relevance("occlusion", subject)


def log_p(explainer: Explainer, inputs: dict[str, Tensor], answer: Tensor) -> Tensor:
    """Log-probabilities ``(T,)`` of the answer from the whole model's own logits."""
    with torch.no_grad():
        logits = explainer.model(**with_answer(inputs, answer)).logits[0].double()
    rows = inputs["input_ids"].shape[1] - 1 + torch.arange(len(answer))
    return logits.log_softmax(-1)[rows, answer]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_change_nothing(batch_size):
    """Cases of several lengths and picture counts in common batches give what each gives alone."""
    explainer = Explainer(tiny_llava(), tiny_processor())
    asked = [(2, "what is it?", 3), (5, "a green circle on the left?", 7), (1, "two?", 1)]
    cases = [
        Case([picture(30 + i, 20) for i in range(n)], prompt, tiny_answer(length, seed=n))
        for n, prompt, length in asked
    ]
    found = picture_log_probabilities(explainer, cases, batch_size=batch_size)
    for case, rows in zip(cases, found, strict=True):
        for image, row in zip(case.images, rows, strict=True):
            inputs, _ = explainer.encode([image], case.prompt, "a")
            torch.testing.assert_close(row, log_p(explainer, inputs, case.answer_ids), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(COMPARISONS) - {"occlusion"}))
def test_maps_of_a_model_with_a_class_token(name):
    """One value per token of image and answer, the same each time, finite, and the class token does no harm."""
    model = tiny_llava(strategy="full", dtype=torch.float32)
    subject = make_subject(model, strategy="full")
    found = relevance(name, subject)
    assert found.shape == (T, 9)
    assert bool(found.isfinite().all() and (found >= 0).all() and (found > 0).any())
    assert torch.equal(found, relevance(name, subject))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("method", "unmoved"),
    [
        ("dexar", False),
        ("dexar-unfiltered", False),
        ("dexar-contribution", False),
        ("dexar-scores", True),
        ("dexar-attention", True),
        ("attention", True),
        ("attention-contrast", True),
    ],
)
def test_a_shift_of_values_that_the_model_does_not_notice(method, unmoved):
    """One vector more on all values of a head, and its image less behind the output projection."""
    model = with_float64_norms(tiny_llava())
    explainer, inputs, answer = Explainer(model), tiny_inputs(model), tiny_answer(T)
    before = explainer.explain_ids(inputs, answer, method=method)
    logits = model(**with_answer(inputs, answer)).logits
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        c = torch.randn(2, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)  # [H_kv, D]
        attention.v_proj.bias = torch.nn.Parameter(c.flatten())
        per_query_head = c.repeat_interleave(2, dim=0).flatten()
        attention.o_proj.bias = torch.nn.Parameter(-attention.o_proj.weight.detach() @ per_query_head)
    torch.testing.assert_close(model(**with_answer(inputs, answer)).logits, logits)
    after = Explainer(model).explain_ids(inputs, answer, method=method)
    moved = np.abs(np.asarray(after.token_maps) - np.asarray(before.token_maps)).max()
    weight_moved = np.abs(after.token_weights - before.token_weights).max()
    if unmoved:
        assert max(moved, weight_moved) < 1e-9
    else:
        assert moved > 1e-2
