"""Faces of other tools that explain: the numbers are those of the tool itself, or of its equations."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dexar_fast import Explainer, InputError, UnsupportedModelError
from dexar_fast.compat import requires, torchcam
from dexar_fast.compat.captum import DexarLLMAttribution
from dexar_fast.compat.inseq import to_inseq
from dexar_fast.compat.pipeline import ExplainingPipeline
from dexar_fast.compat.servers import answer_ids

from .explanations import make_explanation
from .peers import peer
from .test_untouched import assert_same, state
from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor

PROMPT = "USER: <image>\nwhat is it? ASSISTANT:"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID]  # random weights would write it
    return Explainer(model, tiny_processor())


def processed(explainer: Explainer, image: Any) -> Any:
    assert explainer.processor is not None
    return explainer.processor(images=image, text=PROMPT, return_tensors="pt")


# --- Captum


@pytest.fixture
def captum() -> Any:
    return peer("captum.attr", "pip install captum")


def segments(width: int, height: int, across: int, down: int) -> Tensor:
    """``(height, width)`` int: a chequer of segments with ids that are no indices."""
    x, y = torch.arange(width) * across // width, torch.arange(height)[:, None] * down // height
    return 10 * (y * across + x) + 5


def test_captum_segments_share_out_the_maps(explainer: Explainer, captum: Any) -> None:
    image = picture(24, 24)  # as the model sees it: each of the 3 x 3 cells is 8 x 8 pixels
    inp = captum.ImageMaskInput(image, segments(24, 24, 3, 3), processor_fn=lambda one: processed(explainer, one))
    result = DexarLLMAttribution(explainer).attribute(inp, " a red star", method="dexar", grounding=True)
    ids = explainer.tokenizer.encode(" a red star", add_special_tokens=False)
    e = explainer.explain_ids(processed(explainer, image), ids, method="dexar", grounding=True)
    np.testing.assert_allclose(result.token_attr, e.token_maps.reshape(len(ids), 9), atol=1e-6)
    np.testing.assert_allclose(result.seq_attr, e.answer_map.ravel(), atol=1e-6)
    pixels = inp.format_pixel_attr(result.seq_attr[None])[0]  # Captum's own way back to the image
    np.testing.assert_allclose(pixels, np.kron(e.answer_map, np.ones((8, 8))), atol=1e-6)
    assert e.log_probabilities is not None
    np.testing.assert_allclose(result.output_probs, np.exp(e.log_probabilities[:, 0]))


def test_captum_itself_reads_the_same_answer(explainer: Explainer, captum: Any) -> None:
    """Feature ablation by the real LLMAttribution: the same answer, tokens, features and shapes."""
    inp = captum.ImageMaskInput(picture(), segments(40, 30, 2, 2), processor_fn=lambda one: processed(explainer, one))
    gen_args = {"max_new_tokens": 3, "do_sample": False}
    theirs = captum.LLMAttribution(captum.FeatureAblation(explainer.model), explainer.tokenizer).attribute(
        inp, gen_args=dict(gen_args), forward_in_tokens=False
    )
    ours = DexarLLMAttribution(explainer).attribute(inp, gen_args=gen_args)
    assert type(ours) is type(theirs)
    assert (ours.input_tokens, len(ours.output_tokens)) == (theirs.input_tokens, len(theirs.output_tokens))
    assert (ours.seq_attr.shape, ours.token_attr.shape) == (theirs.seq_attr.shape, theirs.token_attr.shape)
    assert (ours.seq_attr.dtype, ours.token_attr.dtype) == (theirs.seq_attr.dtype, theirs.token_attr.dtype)


def test_captum_plots_it(explainer: Explainer, captum: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    left, all_of_it = torch.zeros(30, 40), torch.ones(30, 40)
    left[:, :20] = 1
    inp = captum.ImageMaskInput(
        picture(), mask_list=[left, all_of_it], processor_fn=lambda one: processed(explainer, one)
    )
    result = DexarLLMAttribution(explainer).attribute(inp, torch.tensor([40, 50, 60]))
    assert (result.token_attr[:, 0] <= result.token_attr[:, 1]).all()  # segments may lie on each other
    for shown in (
        result.plot_image_heatmap(show=False),
        result.plot_image_heatmap(show=False, target_token_pos=(0, 2)),
        result.plot_token_attr(show=False),
        result.plot_seq_attr(show=False),
    ):
        shown[0].canvas.draw()


def test_captum_mistakes_are_named(explainer: Explainer, captum: Any) -> None:
    with pytest.raises(InputError, match=r"inp: expected captum.attr.ImageMaskInput; got str"):
        DexarLLMAttribution(explainer).attribute("text")
    inp = captum.ImageMaskInput(picture(), processor_fn=lambda one: processed(explainer, one))
    with pytest.raises(InputError, match="gen_args: go with an answer that the model writes"):
        DexarLLMAttribution(explainer).attribute(inp, "a", gen_args={"max_new_tokens": 3})


# --- torch-cam


def dexar_of_one_token(scores: list[Tensor], attentions: tuple[Tensor, ...], visual: Tensor) -> tuple[Tensor, Tensor]:
    """torch-cam's ``DEXAR`` from its equations: gradients of each layer's logit in its own attention probabilities.

    Args:
        scores: per layer, the token's logit.
        attentions: per layer ``(1, heads, queries, keys)``, which the logits depend on.
        visual: ``(keys,)`` bool.

    Returns:
        The map ``(cells,)`` before normalisation, and the token's weight.
    """
    gradients = [
        torch.autograd.grad(score, attention, retain_graph=True)[0][0, :, -1].relu()  # (heads, keys)
        for score, attention in zip(scores, attentions, strict=True)
    ]
    g = torch.cat(gradients)
    of_image, of_text = g[:, visual].amax(dim=1), g[:, ~visual].amax(dim=1)
    token_map = ((of_image - of_text).relu()[:, None] * g[:, visual]).sum(dim=0)
    return token_map, (of_image.max() - of_text.max()).relu()


def rescaled(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


def test_torchcam_maps_and_weights_are_those_of_its_class() -> None:
    model, answer = tiny_llava(attention="eager"), tiny_answer(5)
    inputs, decoder = tiny_inputs(model), model.model.language_model
    maps, weights = torchcam.explain_vlm(model, inputs, answer[None])
    assert (maps.shape, weights.shape) == ((5, 3, 3), (5,))

    expected_maps, expected_weights = [], []
    for step, token in enumerate(answer):  # as its example does: every prefix ends before the token that it predicts
        ids = torch.cat([inputs["input_ids"], answer[None, :step]], dim=1)
        prefix = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        output = model(**prefix, output_attentions=True, output_hidden_states=True, use_cache=False)
        n_layers = len(decoder.layers)
        states = [output.hidden_states[layer + 1][0, -1] for layer in range(n_layers)]
        normed = [*(decoder.norm(state) for state in states[:-1]), states[-1]]
        scores = [model.lm_head.weight[token] @ state for state in normed]
        token_map, weight = dexar_of_one_token(scores, output.attentions, ids[0] == IMAGE_TOKEN_ID)
        expected_maps.append(rescaled(token_map))
        expected_weights.append(weight)
    expected = torch.stack(expected_maps)
    torch.testing.assert_close(maps.flatten(1), expected, atol=1e-5, rtol=0, check_dtype=False)
    torch.testing.assert_close(weights, torch.stack(expected_weights), atol=1e-7, rtol=1e-4, check_dtype=False)
    whole = rescaled((expected * torch.stack(expected_weights)[:, None]).sum(dim=0))
    torch.testing.assert_close(torchcam.aggregate(maps, weights).flatten(), whole, atol=1e-5, rtol=0, check_dtype=False)


def test_torchcam_aggregate_of_nothing_and_of_other_shapes() -> None:
    assert not torchcam.aggregate(torch.rand(2, 3, 4), torch.zeros(2)).any()
    assert not torchcam.aggregate(torch.ones(2, 3, 4), torch.ones(2)).any()  # constant maps
    with pytest.raises(InputError, match=r"expected \(N, h, w\) and \(N,\); got \(2, 3, 4\) and \(3,\)"):
        torchcam.aggregate(torch.rand(2, 3, 4), torch.zeros(3))


# --- Inseq


def test_inseq_shows_and_saves_it(explainer: Explainer, tmp_path: Path) -> None:
    inseq = peer("inseq", "make test-peers")
    e = explainer.explain(picture(), "what?", " a red star", grounding=True)
    out = to_inseq(e)
    (sequence,) = out.sequence_attributions
    np.testing.assert_array_equal(sequence.source_attributions.T.reshape(e.token_maps.shape), e.token_maps)
    assert [token.id for token in sequence.target] == e.token_ids.tolist()
    assert e.grounding is not None
    np.testing.assert_allclose(sequence.step_scores["grounding"], e.grounding, rtol=1e-6)
    assert "1,2" in (out.show(display=False, return_html=True) or "")
    out.save(str(tmp_path / "e.json"), overwrite=True)
    again = inseq.FeatureAttributionOutput.load(str(tmp_path / "e.json"))
    torch.testing.assert_close(again.sequence_attributions[0].source_attributions, sequence.source_attributions)


# --- tools that look inside


@pytest.fixture
def eager() -> Explainer:
    """Attention that returns its probabilities, for tools to read."""
    return Explainer(tiny_llava(dtype=torch.float32, attention="eager"), tiny_processor())


def with_answer(inputs: dict[str, Tensor], answer: Tensor) -> dict[str, Tensor]:
    ids = torch.cat([inputs["input_ids"], answer[None]], dim=1)
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def attention_maps(probabilities: list[Tensor], ids: Tensor, length: int) -> Tensor:
    """The method "attention" from what a tool read, per layer ``(1, heads, queries, keys)``: ``(length, cells)``."""
    rows = torch.cat(probabilities)[:, :, -length - 1 : -1, ids[0] == IMAGE_TOKEN_ID]
    return torch.stack([rescaled(row) for row in rows.mean(dim=1).sum(dim=0)])


METHODS = ["dexar", "attention"]


def test_nnsight_traces_the_model_that_is_explained(eager: Explainer) -> None:
    nnsight = peer("nnsight", "make test-peers")
    inputs, answer = tiny_inputs(eager.model), tiny_answer(4)
    plain = eager.explain_ids(inputs, answer, method=METHODS)
    traced = nnsight.NNsight(eager.model)
    forwards = {name: module.forward for name, module in eager.model.named_modules()}
    e = Explainer(traced._module, eager.processor).explain_ids(inputs, answer, method=METHODS)
    assert {name: module.forward for name, module in eager.model.named_modules()} == forwards
    np.testing.assert_array_equal(e.token_maps, plain.token_maps)

    full = with_answer(inputs, answer)
    with traced.trace(**full):
        read = [layer.self_attn.output[1].detach() for layer in traced.model.language_model.layers]
        nnsight.save(read)
    maps = attention_maps(read, full["input_ids"], len(answer))
    np.testing.assert_allclose(e.maps("attention").reshape(maps.shape), maps, atol=1e-5)


def test_transformer_lens_reads_a_twin_with_the_same_weights(eager: Explainer) -> None:
    sources = peer("transformer_lens.model_bridge.sources", "make test-peers")
    model, inputs, answer = eager.model, tiny_inputs(eager.model), tiny_answer(4)
    full = with_answer(inputs, answer)
    expected = model(**full).logits
    before = state(model)
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    bridge = sources.build_bridge_from_module(twin, type(twin).__name__, hf_config=twin.config)
    logits, cache = bridge.run_with_cache(full["input_ids"], pixel_values=inputs["pixel_values"])
    e = eager.explain_ids(inputs, answer, method=METHODS)
    assert_same(before, state(model))
    torch.testing.assert_close(logits, expected)
    read = [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in e.layers]
    maps = attention_maps(read, full["input_ids"], len(answer))
    np.testing.assert_allclose(e.maps("attention").reshape(maps.shape), maps, atol=1e-5)
    with pytest.raises(UnsupportedModelError, match=r"attention of layers .* was not seen"):
        Explainer(twin, eager.processor).explain_ids(inputs, answer)  # its attention is the bridge's own


# --- transformers


def test_pipeline_answers_as_the_real_one_and_explains(explainer: Explainer) -> None:
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=explainer.model, processor=explainer.processor)
    chat = [{"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "what?"}]}]
    (theirs,) = pipe(text=chat, max_new_tokens=4, return_full_text=False, generate_kwargs={"do_sample": False})
    (ours,) = ExplainingPipeline(pipe, grounding=True)(text=chat, generate_kwargs={"max_new_tokens": 4})
    assert ours["generated_text"] == theirs["generated_text"]
    assert ours["explanation"].answer == ours["generated_text"]
    assert ours["explanation"].grounding is not None
    (again,) = ExplainingPipeline(explainer)(picture(), "what?", max_new_tokens=4)
    assert (again["input_text"], again["generated_text"]) == ("what?", ours["generated_text"])


# --- the released code


def test_a_script_of_the_released_code_runs_unmodified(explainer: Explainer, tmp_path: Path, run_python: Any) -> None:
    explainer.model.save_pretrained(tmp_path / "model")
    assert explainer.processor is not None
    explainer.processor.save_pretrained(tmp_path / "model")
    picture().save(tmp_path / "image.png")
    (tmp_path / "script.py").write_text(
        "import torch\n"
        "from PIL import Image\n"
        "import dexar\n"
        "from dexar import DexarWrapper, visualize, visualize_multi\n"
        "image = Image.open('image.png').convert('RGB')\n"
        "wrapper = DexarWrapper.from_pretrained('model', device='cpu', layer_index=-2)\n"
        "result = wrapper.compute_dexar(image, target_sentence='a red star')\n"
        "visualize(image, result.sentence_heatmap, title='sentence', save_path='sentence.png')\n"
        "visualize_multi(image, result.per_token_heatmaps, result.tokens, save_path='tokens.png')\n"
        "print(len(result.tokens), tuple(result.sentence_heatmap.shape), dexar.DexarWrapper.__module__)\n"
    )
    said = run_python(
        "import runpy; from dexar_fast import compat; compat.install(); compat.install(); runpy.run_path('script.py')",
        cwd=tmp_path,
    )
    count = len(explainer.tokenizer.encode("a red star", add_special_tokens=False))
    assert said.splitlines()[-1] == f"{count} (3, 3) dexar_fast.compat.dexar"
    assert (tmp_path / "sentence.png").stat().st_size > 1000
    assert (tmp_path / "tokens.png").stat().st_size > 1000


def test_another_package_that_is_imported_already_stays(tmp_path: Path, run_python: Any) -> None:
    (tmp_path / "dexar.py").write_text("mine = True\n")
    said = run_python(
        "import sys; sys.path.insert(0, '.'); import dexar\n"
        "from dexar_fast import InputError\nfrom dexar_fast.compat import install\n"
        "try:\n    install()\nexcept InputError as error:\n    print(error, dexar.mine)",
        cwd=tmp_path,
    )
    assert "is imported already. Call install() before the first import. True" in said


# --- servers

VLLM = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": " a red star"},
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": [269, 290, 291],
        },
        {"index": 1, "message": {"role": "assistant", "content": " a"}, "finish_reason": "length", "token_ids": [269]},
    ],
    "prompt_token_ids": [1, 3, 40],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
SGLANG = {
    "text": " a red star",
    "output_ids": [269, 290, 291],
    "meta_info": {
        "id": "1",
        "finish_reason": {"type": "stop", "matched": 2},
        "prompt_tokens": 3,
        "completion_tokens": 3,
    },
}
"""In the shapes that their manuals give: vLLM with return_token_ids, SGLang's /generate."""


def test_ids_of_servers_are_explained(explainer: Explainer) -> None:
    inputs = processed(explainer, picture())
    expected = explainer.explain_ids(inputs, [269, 290, 291])
    for response in (VLLM, SGLANG):
        e = explainer.explain_ids(inputs, answer_ids(response))
        np.testing.assert_array_equal(e.token_maps, expected.token_maps)
    assert answer_ids(VLLM, 1) == [269]


@pytest.mark.parametrize(
    "response", [{}, {"choices": [{"message": {"content": "a"}}]}, {"output_ids": []}, {"output_ids": ["a"]}], ids=str
)
def test_answers_without_ids_are_refused(response: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"return_token_ids=true.*explain\(answer=text\)"):
        answer_ids(response)
    with pytest.raises(InputError, match="choice: expected an index below 2; got 2"):
        answer_ids(VLLM, 2)


# --- what is missing


@pytest.mark.parametrize("call", ["captum", "inseq"])
def test_a_missing_tool_is_named(explainer: Explainer, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    monkeypatch.setattr(requires, "import_module", missing)
    calls: dict[str, Any] = {"captum": DexarLLMAttribution(explainer).attribute, "inseq": to_inseq}
    with pytest.raises(ImportError, match=rf"needs {call}: pip install {call}"):
        calls[call](make_explanation(["a"]))


def test_a_tool_that_lacks_something_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'attrs'", name="attrs")

    monkeypatch.setattr(requires, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="attrs"):
        requires.require("captum.attr", "captum", "it")
