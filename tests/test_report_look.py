"""The report in a real browser: themes, contrast, phones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from .browsers import Open, browser, open_report
from .explanations import make_explanation, pieces

__all__ = ["browser", "open_report"]  # fixtures


CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = getComputedStyle(document.body).backgroundColor;
  const result = {};
  for (const name of [".heaviest", "[aria-selected=true]", ".aside", ".hint", ".switch :checked + span"]) {
    const style = getComputedStyle(document.querySelector(name));
    const [a, b] = [over([paper, style.backgroundColor]), over([paper, style.backgroundColor, style.color])].map(light);
    result[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return { paper: light(over([paper])), contrast: result };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_follow_the_system_and_have_contrast(open_report: Open, scheme: str) -> None:
    plain = make_explanation()
    log_p = np.log(np.full((len(plain.tokens), 2), 0.5))
    heaviest = int(plain.token_weights.argmax())
    log_p[heaviest] = np.log((0.999, 1e-9))
    explanation = replace(plain, log_probabilities=log_p)
    report = open_report(explanation, color_scheme=scheme)
    report.unit(heaviest).evaluate("one => one.classList.add('heaviest')")
    report.unit(0 if heaviest else 1).click()
    measured = report.page.evaluate(CONTRAST)
    assert (measured["paper"] < 0.05) == (scheme == "dark")
    for name, contrast in measured["contrast"].items():
        assert contrast >= 4.5, name
    report.page.locator("#theme").click()
    assert (report.page.evaluate(CONTRAST)["paper"] < 0.05) == (scheme == "light")
    report.page.locator("#theme").click()
    assert (report.page.evaluate(CONTRAST)["paper"] < 0.05) == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_everything_without_sideways_scrolling(open_report: Open, width: int) -> None:
    long = [*pieces() * 6, " " + "unbroken" * 40]
    report = open_report(
        make_explanation(long, prompt="Q" * 200),
        viewport={"width": width, "height": 700},
        has_touch=True,
        is_mobile=True,
    )
    for summary in report.page.locator("summary").all():
        summary.tap()
    wide = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll_width, client_width = report.page.evaluate(wide)
    assert scroll_width <= client_width == width
    report.unit(100).tap()
    assert report.text("kind").startswith("token 101")
    report.page.evaluate("scrollTo(0, 600)")
    report.settle()
    frame = report.page.locator("#frame").bounding_box()
    assert frame is not None
    assert 0 <= frame["y"] < 20  # the image stays while the text goes by
    assert 150 < frame["height"] < 350
