"""The server's page, used as people use it, in headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="tests of the service need FastAPI (pip install dexar-fast[serve])")

from dexar_fast import Explainer
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.layout.grid import to_pixels, whole_image
from dexar_fast.render.drawing import ink, style
from dexar_fast.serve import Limits

from .browsers import browser as chromium
from .browsers import noise
from .serving import png, serving

browser = chromium  # the fixture
PICTURE = {"name": "<img src=x onerror=alert(1)>.png", "mimeType": "image/png", "buffer": png(draw_scene(7).image)}


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


@pytest.fixture(scope="module")
def address(explainer: Explainer) -> Iterator[str]:
    with serving(explainer, Limits(most_tokens=12)) as served:
        yield f"http://127.0.0.1:{served.port}"


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_a_word_shows_its_maps(browser, address, explainer, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    heard = noise(page, address)
    page.goto(address)
    page.set_input_files("#file", PICTURE)
    page.click("#send")
    page.wait_for_selector(".word")
    truth = explainer.explain(draw_scene(7).image, "describe the image", max_new_tokens=12)
    assert page.locator(".word").all_inner_texts() == [word.text for word in truth.words()]
    whole = page.evaluate("document.getElementById('map').toDataURL()")
    page.locator(".word").nth(4).click()
    page.wait_for_function("before => document.getElementById('map').toDataURL() !== before", arg=whole)
    assert re.match(
        f"“{truth.words()[4].text}”: strongest at the {truth.words()[4].place}", page.inner_text("#caption")
    )
    drawn = page.evaluate(
        "() => { const c = document.getElementById('map');"
        " return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    )
    across, down, pixels = drawn[0], drawn[1], np.array(drawn[2:])
    word = truth.words()[4].map
    kept = np.rint(word * 255) / 255
    _, opacity = ink(
        to_pixels(kept, whole_image(word.shape[0], word.shape[1], (across, down))),
        style("highlight"),
        max(across, down),
    )
    assert np.abs(pixels.reshape(down, across, 4)[..., 3] - 255 * opacity).max() <= 6  # as in overlays and reports
    first = page.evaluate("document.getElementById('map').toDataURL()")
    page.select_option("#method", "dexar")
    page.wait_for_function("before => document.getElementById('map').toDataURL() !== before", arg=first)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert heard == []
    page.close()


def test_a_scene_is_drawn_and_an_error_is_text(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.click("#scene")
    page.wait_for_selector("#send:enabled")
    hostile = '{"error": {"type": "InputError", "message": "<b id=bold>no</b>"}}'
    page.route("**/stream", lambda route: route.fulfill(status=422, content_type="application/json", body=hostile))
    page.click("#send")
    page.wait_for_selector("#status.error")
    assert page.inner_text("#status") == "<b id=bold>no</b>"
    assert page.query_selector("#bold") is None
    page.close()


def test_words_that_look_like_markup_are_text(browser, address):
    page = browser.new_page()
    heard = noise(page, address)
    page.goto(address)
    page.set_input_files("#file", PICTURE)
    grid = '{"rows":1,"cols":1,"box":[0,0,8,8],"image_size":[8,8]}'
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    word = f'{{"text":"<img src=x onerror=alert(1)>","grounding":null,"place":"centre","maps":["{pixel}"]}}'
    done = (
        f'{{"methods":["<i>"],"method":"<i>","beside":[],"grids":[{grid}],"words":[{word}],"answer_maps":["{pixel}"]}}'
    )
    body = f"event: done\ndata: {done}\n\n"
    page.route("**/stream", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body))
    page.click("#send")
    page.wait_for_selector(".word")
    assert page.inner_text(".word") == "<img src=x onerror=alert(1)>"
    assert heard == []
    page.close()
