"""What the app asks and shows, without a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.app.answers import Stopped, answers, chat, first_question, takes_chats
from dexar_fast.app.demos import about, draw
from dexar_fast.app.pictures import (
    coloured_token,
    coloured_words,
    readings,
    token_maps,
    two_words,
    word_choices,
    word_maps,
    write_files,
)
from dexar_fast.demo.pages import draw_page
from dexar_fast.demo.scenes import draw_scene, draw_sized_scene
from dexar_fast.render.languages import labels
from dexar_fast.runs.stream import StreamedToken

PROMPT = "describe the image"
SCENE = draw_scene(7).image


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


def asked(explainer: Explainer, methods: tuple[str, ...] = (), contrast: str = "") -> list[StreamedToken | Explanation]:
    return list(answers(explainer, SCENE, [], PROMPT, methods=methods, contrast=contrast, max_new_tokens=6))


@pytest.fixture(scope="module")
def explained(explainer: Explainer) -> Explanation:
    return explainer.explain(SCENE, PROMPT, max_new_tokens=6, grounding=True)


def test_an_answer_comes_token_by_token_and_ends_with_that_of_explain(explainer, explained):
    *tokens, last = asked(explainer)
    assert isinstance(last, Explanation)
    assert last.methods == explained.methods == ("dexar-focus", "dexar")
    np.testing.assert_allclose(last.token_maps, explained.token_maps, atol=1e-4)
    assert [coloured_token(token)[0] for token in tokens if isinstance(token, StreamedToken)] == explained.tokens
    assert isinstance(tokens[0], StreamedToken)
    ((picture, _),) = token_maps(tokens[0], SCENE)
    assert picture.size == SCENE.size


@pytest.mark.parametrize(
    "choice", [{"contrast": " small "}, {"methods": ("attention", "dexar")}], ids=["contrast", "comparison"]
)
def test_what_needs_the_whole_answer_comes_at_once(explainer, choice):
    (only,) = asked(explainer, **choice)
    assert isinstance(only, Explanation)
    if "contrast" in choice:
        assert only.rather_than(0, 1) == "small"
    else:
        assert only.methods == choice["methods"]


def test_what_is_stopped_is_explained_so_far(explainer, explained):
    looks = iter([False, False, True])
    *tokens, last = answers(
        explainer, SCENE, [], PROMPT, methods=(), contrast="", max_new_tokens=6, stopped=lambda: next(looks)
    )
    assert len(tokens) == 3
    assert isinstance(last, Explanation)
    assert last.tokens == explained.tokens[:3]


def test_what_comes_at_once_ends_at_once_when_it_is_stopped(explainer):
    looks = iter([False, False, True])
    with pytest.raises(Stopped):
        next(
            answers(
                explainer, SCENE, [], PROMPT, methods=("attention",), contrast="", max_new_tokens=6,
                stopped=lambda: next(looks),
            )
        )  # fmt: skip
    assert len(asked(explainer)) == 7  # nothing is left of it


def test_no_picture_is_told(explainer):
    with pytest.raises(InputError, match="draw a scene"):
        next(answers(explainer, None, [], PROMPT, methods=(), contrast="", max_new_tokens=6))


def test_a_later_question_takes_the_earlier_ones_along():
    messages = chat([("what is it?", "a star")], "which colour?")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]
    assert [part["type"] for part in messages[2]["content"]] == ["text"]


def test_questions_go_on_where_the_model_knows_chats(explainer):
    assert not takes_chats(explainer)  # trained on one question at a time
    own = Explainer(explainer.model, explainer.processor)
    assert takes_chats(own)
    (*_, second) = answers(
        own, SCENE, [("is there a star ?", "yes")], PROMPT, methods=(), contrast="", max_new_tokens=4
    )
    assert isinstance(second, Explanation)
    texts = [message["content"][-1]["text"] for message in second.settings["messages"]]
    assert texts == ["is there a star ?", "yes", PROMPT]


def test_a_reader_is_asked_nothing_and_reads_a_page():
    reader = Explainer.from_pretrained("demo-reader", device="cpu", self_test=False)
    assert (first_question(reader), takes_chats(reader)) == ("", False)
    page = draw(reader.model_name, 3)
    assert page == draw_page(3).image
    (read,) = answers(reader, page, [], first_question(reader), methods=(), contrast="", max_new_tokens=20)
    assert isinstance(read, Explanation)
    assert read.answer.strip()


def test_a_model_is_shown_what_it_was_trained_on():
    assert draw("demo-qwen", 5) == draw_sized_scene(5).image
    assert draw("demo-paligemma", 5) == draw("some/model", 5) == draw_scene(5, scale=4).image
    assert "drawn scenes, and no photos" in about("demo-qwen")
    assert "reads drawn words" in about("demo-reader")
    assert about("some/model") == about(None) == ""


def test_the_words_to_compare_first_rest_on_the_image(explained):
    first, second = two_words(explained)
    least = sorted(word.grounding for word in explained.words())[-2]
    assert first < second
    assert all(explained.words()[index].grounding >= least for index in (first, second))


def test_words_are_coloured_by_what_the_image_says_to_them(explained):
    words = explained.words()
    coloured = coloured_words(explained)
    assert [text.strip() for text, _ in coloured] == [word.text for word in words]
    assert [(1 - score) / 2 for _, score in coloured] == pytest.approx([word.grounding for word in words])
    assert [index for _, index in word_choices(explained)] == list(range(len(words)))


def test_a_word_is_shown_with_both_lenses(explained):
    maps = word_maps(explained, 1, 2)
    assert [caption for _, caption in maps] == [
        f"{explained.words()[word].text}: {method}" for word in (1, 2) for method in ("dexar-focus", "dexar")
    ]
    expected = explained.of_method("dexar").overlay(word=1)
    np.testing.assert_array_equal(np.asarray(maps[1][0]), np.asarray(expected))


def test_report_and_sentences_are_in_the_language(explained, tmp_path):
    assert readings(explained, None, lang="de") == labels("de")["whole_dexar-focus"]
    assert readings(explained, 1, 2, lang="de").split("\n") == [explained.words()[i].reading_in("de") for i in (1, 2)]
    report, *_ = write_files(explained, None, tmp_path / "page", "de")
    assert '<html lang="de">' in Path(report).read_text()


def test_files_take_the_place_of_the_last_ones(explained, tmp_path):
    before = Path(write_files(explained, None, tmp_path / "page")[2]).read_bytes()
    report, table, picture = map(Path, write_files(explained, 1, tmp_path / "page"))
    assert report.read_text().lower().startswith("<!doctype html>")
    assert table.read_text().splitlines()[1].startswith(explained.words()[0].text)
    assert picture.read_bytes() != before
    assert len(list((tmp_path / "page").iterdir())) == 3
