"""The app, used as people use it, in headless Chromium."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
pytest.importorskip("gradio", reason="tests of the app need Gradio 6 (pip install dexar-fast[app])")

from dexar_fast import Explainer, InputError
from dexar_fast.app.blocks import create_app
from dexar_fast.app.run import run
from dexar_fast.demo.scenes import draw_scene

from .browsers import browser as chromium
from .browsers import noise
from .test_cli import call, stub

__all__ = ["stub"]  # a fixture
browser = chromium  # the fixture
PATIENCE = 90_000  # milliseconds
READING = "#said textarea"
ANSWERS = "#talk [data-testid=bot]"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


@pytest.fixture(scope="module")
def page(browser: Any, explainer: Explainer) -> Iterator[Any]:
    """The app after one answer."""
    opened = opened_app(browser, explainer)
    opened.click("#scene")
    opened.wait_for_selector("img[src*='/file=']")
    ask(opened)
    yield opened
    opened.close()


def opened_app(browser: Any, explainer: Explainer, **options: Any) -> Any:
    address = run(explainer, wait=False, **options)
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    opened.heard = noise(opened, "http://127.0.0.1")
    opened.goto(address)
    return opened


def ask(page: Any) -> None:
    before = page.locator(ANSWERS).count()
    page.click("#ask")
    answered(page, before + 1)


def answered(page: Any, times: int) -> None:
    page.wait_for_function("([answers, n]) => document.querySelectorAll(answers).length === n", arg=[ANSWERS, times])
    reads(page, "Choose a word")
    page.wait_for_selector("#words .score-token")


def shown_words(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#words .score-token").all_inner_texts()]


def reads(page: Any, text: str) -> None:
    page.wait_for_function(f"text => document.querySelector({READING!r}).value.includes(text)", arg=text)


def captions(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#maps .caption-label").all_inner_texts()]


def test_the_demo_is_named_loudly(page):
    assert "It knows drawn scenes, and no photos" in page.inner_text("#demo h2")


def test_a_clicked_word_shows_both_lenses(page):
    word = page.locator("#words .score-token").nth(3)
    text = word.inner_text().strip()
    word.click()
    reads(page, f"“{text}”")
    page.wait_for_function("text => document.querySelector('#maps').innerText.includes(text)", arg=f"{text}: dexar")
    assert captions(page) == [f"{text}: dexar-focus", f"{text}: dexar"]


def test_two_words_are_compared(page):
    first, second = (page.input_value(f"#{name} input").split()[1] for name in ("one", "other"))
    assert {first, second} <= set(shown_words(page))
    page.click("#compare")
    reads(page, f"“{second}”")
    page.wait_for_function("() => document.querySelectorAll('#maps .caption-label').length === 4")
    assert captions(page)[::2] == [f"{word}: dexar-focus" for word in (first, second)]


@pytest.mark.parametrize(
    ("button", "start"), [("report", b"<!doctype html>"), ("csv", b"word,start"), ("png", b"\x89PNG")]
)
def test_files_are_taken_along(page, button, start):
    with page.expect_download() as download:
        page.click(f"#{button}")
    with open(download.value.path(), "rb") as file:
        assert file.read(20).startswith(start)


def test_a_contrast_is_explained_and_an_unusable_one_is_told(page):
    page.click("text=Options")
    page.fill("#contrast textarea", "small")
    ask(page)
    page.fill("#contrast textarea", "\ud7ff" * 3)
    page.click("#ask")
    page.wait_for_selector(".toast-body")
    assert "contrast" in page.inner_text(".toast-body")


def test_a_stopped_answer_is_explained_so_far_and_the_chat_goes_on(browser, explainer):
    slow = explainer.model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    own = Explainer(explainer.model, explainer.processor)  # by its template, a model that knows chats
    page = opened_app(browser, own)
    scene = BytesIO()
    draw_scene(24, scale=4).image.save(scene, "PNG")
    page.set_input_files("input[type=file]", {"name": "scene.png", "mimeType": "image/png", "buffer": scene.getvalue()})
    page.wait_for_selector("img[src*='/file=']")
    page.click("#ask")
    page.wait_for_function("() => document.querySelectorAll('#words .score-token').length > 3")
    assert page.is_disabled("#report")
    page.click("#stop")
    answered(page, 1)
    slow.remove()
    written = shown_words(page)
    whole = own.explain(draw_scene(24, scale=4).image, "describe the image").answer.split()
    assert 3 < len(written) < len(whole)
    assert written == whole[: len(written)]
    page.locator("#words .score-token").nth(2).click()
    reads(page, f"“{written[2]}”")
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), encoding="utf-8") as file:
        assert [line.split(",")[0] for line in file][1:] == written

    page.fill("#prompt textarea", "what colour is the square ?")
    ask(page)
    assert page.locator(ANSWERS).all_inner_texts() == [" ".join(written), " ".join(shown_words(page))]
    page.locator("#words .score-token").nth(0).click()
    reads(page, f"“{shown_words(page)[0]}”")
    page.click("#anew")
    page.wait_for_function("answers => document.querySelectorAll(answers).length === 0", arg=ANSWERS)
    assert shown_words(page) == []
    page.close()


def test_nothing_of_a_dropped_answer_comes_behind_the_clearing(browser, explainer):
    page = opened_app(browser, explainer)
    page.click("#scene")
    page.wait_for_selector("img[src*='/file=']")
    page.click("#ask")
    reads(page, "Writing")
    page.click("#scene")
    page.wait_for_function("() => !document.querySelector('#talk').innerText.includes('describe')")
    page.wait_for_timeout(2000)  # for what must not come
    assert (shown_words(page), captions(page), page.input_value(READING)) == ([], [], "")
    ask(page)
    assert page.locator(ANSWERS).count() == 1
    page.close()


def test_the_page_fits_a_phone_and_asks_nobody_else(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert [heard for heard in page.heard if heard.startswith(("request", "error", "dialog"))] == []


def test_report_and_sentences_are_in_the_language_that_was_asked_for(browser, explainer):
    page = opened_app(browser, explainer, lang="de")
    page.click("#scene")
    page.wait_for_selector("img[src*='/file=']")
    page.click("#ask")
    reads(page, "Markiert ist, wohin das Modell sah.")
    page.locator("#words .score-token").nth(3).click()
    reads(page, "Das Modell sah ")
    with page.expect_download() as download:
        page.click("#report")
    with open(download.value.path(), encoding="ascii") as file:
        assert '<html lang="de">' in file.read()
    page.close()


def test_an_unknown_language_is_refused_before_the_model_is_loaded(stub, explainer):
    result = call("app", "--lang", "xx")
    assert result.exit_code == 2
    assert "lang: expected one of de, en" in result.output
    assert stub.loaded is None
    with pytest.raises(InputError, match="lang: expected one of de, en"):
        create_app(explainer, lang="xx")


def test_an_explainer_without_a_processor_is_refused(explainer):
    with pytest.raises(InputError, match="processor"):
        create_app(Explainer(explainer.model))
