"""`Explainer.explain` with a real processor: prompts, free running, text sets, what the result holds."""

import numpy as np
import pytest
import torch

from dexar_fast import Explainer
from dexar_fast.inputs.prompts import PromptEncoder

from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32), tiny_processor())


def test_result_is_complete(explainer: Explainer) -> None:
    e = explainer.explain(picture(), "what is it?", " a small red square", unfiltered=True)
    T, L, H = len(e.tokens), 3, 4
    assert e.unfiltered_token_maps is not None
    assert e.unfiltered_answer_map is not None
    assert e.image is not None
    assert "".join(e.tokens) == e.answer == " a small red square"
    assert e.token_ids.shape == e.token_weights.shape == (T,)
    assert e.token_maps.shape == e.unfiltered_token_maps.shape == (T, 3, 3)
    assert e.answer_map.shape == e.unfiltered_answer_map.shape == (3, 3)
    assert e.image_scores.shape == e.text_scores.shape == (T, L, H)
    assert e.token_map_ranges.shape == (T, 2)
    for maps in (e.token_maps, e.answer_map, e.unfiltered_token_maps, e.unfiltered_answer_map):
        assert maps.dtype == np.float32
        assert maps.min() >= 0
        assert maps.max() <= 1
    assert e.image.size == e.grid.image_size == (40, 30)
    assert e.prompt == "what is it?"


def test_settings_say_how_to_repeat_it(explainer: Explainer) -> None:
    e = explainer.explain(picture(), "what is it?", " a", layers=-2, normalization="reference")
    assert e.settings["layers"] == [1, 2]
    assert e.settings["normalization"] == "reference"
    assert e.settings["versions"]["torch"] == torch.__version__
    assert e.settings["family"] == "llava"
    assert e.settings["attention"] == "sdpa"
    ids = torch.tensor(e.settings["prompt_ids"])[None]
    inputs = PromptEncoder(explainer.processor).encode([picture()], "what is it?")
    assert (ids == inputs["input_ids"]).all()
    again = explainer.explain_ids(inputs, e.token_ids, layers=-2, normalization="reference")
    np.testing.assert_array_equal(again.token_maps, e.token_maps)


def test_chat_template_and_raw_prompt_are_the_same_prompt(explainer: Explainer) -> None:
    templated = explainer.explain(picture(), "what is it?", " a star")
    raw = explainer.explain(picture(), "USER: <image>\nwhat is it? ASSISTANT:", " a star")
    np.testing.assert_array_equal(templated.token_maps, raw.token_maps)
    assert templated.settings["prompt_ids"] == raw.settings["prompt_ids"]


def test_free_running_is_greedy_and_ends_at_the_end_token() -> None:
    model, processor = tiny_llava(dtype=torch.float32), tiny_processor()
    free = Explainer(model, processor).explain(picture(), "what is it?", max_new_tokens=7)
    assert len(free.tokens) == 7
    assert free.settings["generated"]
    inputs = PromptEncoder(processor).encode([picture()], "what is it?")
    with torch.no_grad():
        greedy = model.generate(**inputs, max_new_tokens=7, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert free.token_ids.tolist() == greedy.tolist()
    model.generation_config.eos_token_id = int(greedy[3])
    stop = greedy.tolist().index(int(greedy[3]))
    ended = Explainer(model, processor).explain(picture(), "what is it?", max_new_tokens=7)
    assert ended.token_ids.tolist() == greedy[:stop].tolist()


def test_text_sets_differ_as_they_say(explainer: Explainer) -> None:
    prompt, answer = "what is it?", " a small red square"
    everything, content, generated = (
        explainer.explain(picture(), prompt, answer, text_set=text_set, method="dexar")
        for text_set in ("all_non_image", "content_only", "generated_only")
    )
    assert (generated.text_scores[0] == 0).all()  # before the first token the model has generated nothing
    assert (generated.text_scores[1:] > 0).any()
    rounding = 1e-5
    assert (content.text_scores <= everything.text_scores + rounding).all()
    assert (generated.text_scores <= content.text_scores + rounding).all()
    assert (content.text_scores < everything.text_scores - 0.1).any()
    assert (generated.text_scores < content.text_scores - 0.1).any()
    np.testing.assert_array_equal(content.image_scores, everything.image_scores)


def test_template_tokens_are_those_the_user_did_not_write() -> None:
    encoder = PromptEncoder(tiny_processor())
    ids = encoder.encode([picture()], "two blue stars")["input_ids"][0]
    written = ids[~encoder.template([picture()], "two blue stars", ids)]
    assert encoder.tokenizer.decode(written).strip() == "two blue stars"


def test_text_mask_of_the_users_own(explainer: Explainer) -> None:
    model = tiny_llava()
    inputs, answer = tiny_inputs(model), tiny_answer(4)
    mask = torch.zeros(inputs["input_ids"].shape[1] + 4, dtype=torch.bool)
    mask[0] = True
    only_first = Explainer(model).explain_ids(inputs, answer, text_set=mask, method="dexar")
    everything = Explainer(model).explain_ids(inputs, answer, method="dexar")
    assert (only_first.text_scores <= everything.text_scores + 1e-12).all()
    assert (only_first.text_scores < everything.text_scores - 0.1).any()
    assert only_first.settings["text_set"] == [0]


def test_ids_without_a_processor() -> None:
    model = tiny_llava()
    e = Explainer(model).explain_ids(tiny_inputs(model), [20, 21])
    assert e.tokens == [" 20", " 21"]
    assert e.image is None
    assert e.grid.image_size == (24, 24)
    e.overlay()


def test_progress_reports_every_layer(explainer: Explainer) -> None:
    seen = []
    explainer.explain(
        picture(),
        "what is it?",
        max_new_tokens=3,
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert [(s, d) for s, d, _ in seen if s == "generating"] == [("generating", i) for i in range(4)]
    assert [(d, n) for s, d, n in seen if s == "explaining"] == [(i, 3) for i in range(4)]


def test_crop_of_the_processor_is_on_the_grid(explainer: Explainer) -> None:
    """A 40 x 30 image is resized to 32 x 24 and cropped to 24 x 24: pixels 5 to 35 of the width are seen."""
    e = explainer.explain(picture(40, 30), "what is it?", " a")
    assert e.grid.box == (5.0, 0.0, 35.0, 30.0)


def test_words_combine_their_tokens_before_normalisation(explainer: Explainer) -> None:
    e = explainer.explain(picture(), "what is it?", " stars qqq")
    words = e.words()
    assert [w.text for w in words] == ["stars", "qqq"]
    word = words[-1]
    low, high = e.token_map_ranges[word.start : word.stop].T
    raw = (low[:, None, None] + e.token_maps[word.start : word.stop] * (high - low)[:, None, None]).sum(0)
    expected = (raw - raw.min()) / (raw.max() - raw.min()) if raw.max() > raw.min() else raw * 0
    np.testing.assert_allclose(word.map, expected, atol=1e-6)
    assert word.weight == e.token_weights[word.start : word.stop].max()
    assert word.stop - word.start > 1


def test_image_token_id_is_the_models() -> None:
    assert tiny_processor().image_token_id == IMAGE_TOKEN_ID
