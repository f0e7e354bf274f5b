"""What a notebook shows of an explanation: the report in a sandboxed frame, that still answers the pointer."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dexar_fast import InputError
from dexar_fast.render.notebook import PICTURE_PIXELS
from dexar_fast.render.overlay import overlay

from .browsers import browser, playwright  # noqa: F401, a fixture and a mark
from .explanations import make_explanation, scene


def test_hover_works_in_the_frame_and_nothing_leaves_it(browser, tmp_path: Path) -> None:  # noqa: F811
    """As notebooks show it: HTML in their page, whose own scripts and address the frame must not reach."""
    explanation = make_explanation(["a", " <b>red</b>", " tree", ' "quoted"'])
    page = browser.new_page()
    noise: list[str] = []
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("console", lambda message: noise.append(message.text))
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><p id=outside>cell</p><div>{explanation._repr_html_()}</div>", encoding="utf-8")
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    assert frame.locator("#answer").text_content() == explanation.answer
    before = frame.locator("#overlay").evaluate("canvas => canvas.toDataURL()")
    frame.locator("#unit-2").hover()
    assert frame.locator("#shown").text_content() == "“tree”"
    page.wait_for_timeout(100)
    assert frame.locator("#overlay").evaluate("canvas => canvas.toDataURL()") != before
    reached = frame.locator("body").evaluate(
        "() => { try { return parent.document.body.textContent } catch (error) { return error.name } }"
    )
    assert reached == "SecurityError"
    assert page.locator("iframe").evaluate("frame => frame.getBoundingClientRect().width") > 1000
    assert noise == []
    page.close()


def test_a_report_in_another_language_is_asked_for_in_the_cell() -> None:
    explanation = make_explanation(["a", " red", " tree"])
    shown = explanation.to_notebook(lang="de")
    assert "&lt;html lang=&quot;de&quot;&gt;" in (shown._repr_html_() or "")
    assert explanation.to_notebook()._repr_html_() == explanation._repr_html_()
    assert (shown._repr_png_(), repr(shown)) == (explanation._repr_png_(), repr(explanation))
    with pytest.raises(InputError, match="lang: expected one of de, en"):
        explanation.to_notebook(lang="xx")


def test_picture_is_the_answer_map_and_not_too_large() -> None:
    explanation = make_explanation()
    small = Image.open(BytesIO(explanation._repr_png_() or b""))
    np.testing.assert_array_equal(small, overlay(explanation.image, explanation.answer_map, explanation.grid))
    large = make_explanation(image=scene(3000, 1500))
    assert Image.open(BytesIO(large._repr_png_() or b"")).size == (PICTURE_PIXELS, PICTURE_PIXELS // 2)


def test_without_a_map_there_is_text_alone() -> None:
    one = make_explanation(["a"], rows=2, cols=2)
    flat = replace(
        one, grid=None, image=None, token_maps=one.token_maps.reshape(1, 4), answer_map=one.answer_map.ravel()
    )
    assert flat._repr_html_() is None
    assert flat._repr_png_() is None
    assert "4 queries without a place" in repr(flat)


@pytest.mark.parametrize("several", [False, True])
def test_several_images_are_side_by_side(several: bool) -> None:
    one = make_explanation(["a", " dog"], rows=3, cols=4)
    if several:
        one = replace(
            one,
            grid=(one.grid, one.grid),
            image=(one.image, one.image),
            token_maps=(one.token_maps, one.token_maps),
            answer_map=(one.answer_map, one.answer_map),
        )
    width, height = Image.open(BytesIO(one._repr_png_() or b"")).size
    assert (width / height > 2) == several
