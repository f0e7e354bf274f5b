"""The app, used as people use it, in headless Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
pytest.importorskip("gradio", reason="tests of the app need Gradio 6 (pip install dexar-fast[app])")

from dexar_fast import Explainer, InputError
from dexar_fast.app.blocks import create_app
from dexar_fast.app.run import run

from .browsers import browser as chromium
from .browsers import noise

browser = chromium  # the fixture
PATIENCE = 90_000  # milliseconds
READING = "#said textarea"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


@pytest.fixture(scope="module")
def page(browser: Any, explainer: Explainer) -> Iterator[Any]:
    """The app after one answer."""
    address = run(explainer, wait=False)
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    opened.heard = noise(opened, "http://127.0.0.1")
    opened.goto(address)
    opened.click("#scene")
    opened.wait_for_selector("img[src*='/file=']")
    ask(opened)
    yield opened
    opened.close()


def ask(page: Any) -> None:
    page.click("#ask")
    reads(page, "Choose a word")
    page.wait_for_selector("#words .score-token")


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
    words = [text.strip() for text in page.locator("#words .score-token").all_inner_texts()]
    page.click("#compare")
    reads(page, f"“{words[0]}”")
    page.wait_for_function(
        "text => document.querySelector('#maps').innerText.includes(text)", arg=f"{words[-1]}: dexar"
    )
    assert captions(page)[::2] == [f"{word}: dexar-focus" for word in (words[0], words[-1])]


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


def test_the_page_fits_a_phone_and_asks_nobody_else(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert [heard for heard in page.heard if heard.startswith(("request", "error", "dialog"))] == []


def test_an_explainer_without_a_processor_is_refused(explainer):
    with pytest.raises(InputError, match="processor"):
        create_app(Explainer(explainer.model))
