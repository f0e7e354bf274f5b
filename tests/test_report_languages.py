"""The report in a real browser, in a language in which every label is marked: what is not marked is no label."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from dexar_fast.inputs.targets import Foil
from dexar_fast.layout.grid import Grid, whole_image
from dexar_fast.render.languages import labels, languages
from dexar_fast.render.reading import reading
from dexar_fast.result.explanation import Explanation

from .browsers import Open, Report, browser, open_report
from .explanations import from_maps, make_explanation, one_cell_maps, scene

__all__ = ["browser", "open_report"]  # fixtures

MARKED = {name: f"⟦{text}⟧" for name, text in labels("en").items()} | {"lang": "en-XA"}
# Text of what is seen or read out, but for what says of itself that it is in no language, and symbols.
TEXTS = """() => {
  const texts = [];
  const data = '[lang=""], var, sub, kbd, script, noscript, style';
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) if (!node.parentElement.closest(data)) texts.push(node.data);
  for (const element of document.querySelectorAll("body *")) {
    if (element.matches("svg, svg *")) continue;
    for (const name of ["title", "alt", "aria-label", "aria-roledescription", "placeholder"]) {
      if (element.hasAttribute(name)) texts.push(element.getAttribute(name));
    }
  }
  return texts;
}"""
NAMES = r"dexar-focus|dexar|w|[\d.]+(e[+-]?\d+)?"
"""What may stand beside labels: names of methods, numbers."""


def unmarked(report: Report) -> list[str]:
    """Texts with letters outside all labels."""
    report.settle()
    rest, before = "\n".join(report.page.evaluate(TEXTS)), None  # a label with markup is several nodes
    while rest != before:
        before, rest = rest, re.sub(r"⟦[^⟦⟧]*⟧", "", rest)
    lines = [re.sub(rf"\b({NAMES})\b", "", line).strip() for line in rest.split("\n")]
    return [line for line in lines if re.search(r"[^\W\d_]", line)]


def full() -> Explanation:
    """With all that a report can show: two methods, grounding, foils, a part that the model never saw, odd tokens."""
    words = ["ab", " cd", "ef", "\n", "", " \u200b", " gh", "\t"]
    grid = Grid(3, 4, (100.0, 0.0, 540.0, 480.0), (640, 480))
    both = [make_explanation(words, seed=seed, rows=3, cols=4, image=scene()) for seed in (1, 2)]
    first, other = (replace(one, grid=grid) for one in both)
    log_p = np.log(np.tile([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.5, 0.5]], (2, 1)))
    foils: list[Foil | None] = [None] * len(words)
    foils[1] = Foil(3, "ij")
    first.settings["method"] = "dexar-focus"
    return replace(first.with_beside("dexar", other), log_probabilities=log_p, foils=tuple(foils))


def test_every_label_is_that_of_the_language(open_report: Open) -> None:
    report = open_report(full(), lang=MARKED, link="#word=0&with=1&with-method=dexar")
    assert report.page.evaluate("document.documentElement.lang") == "en-XA"
    for summary in report.page.locator("summary").all():
        summary.click()
    report.page.locator(".heads-grid").focus()
    report.press("ArrowRight")
    assert unmarked(report) == []
    for index in range(report.page.locator(".unit").count()):
        report.unit(index).click()
        assert unmarked(report) == []
    report.step_through("words")
    report.unit(0).hover()
    assert unmarked(report) == []
    report.page.locator("#frame").hover()
    assert unmarked(report) == []
    report.press("Escape", "ArrowRight")
    assert unmarked(report) == []


def test_a_report_without_grounding_or_heads_has_marked_labels_too(open_report: Open) -> None:
    explanation = make_explanation(["ab", " cd"])
    none = np.zeros((2, 6, 1), dtype=np.float32)
    report = open_report(replace(explanation, image_scores=none, text_scores=none, image=None), lang=MARKED)
    report.unit(1).click()
    assert unmarked(report) == []


@pytest.mark.parametrize("lang", languages())
def test_python_says_the_sentence_of_the_report(open_report: Open, lang: str) -> None:
    """A word in every ninth of the image, of every degree of grounding, by each method and by one without a name."""
    grid = whole_image(3, 3, (90, 90))
    maps = one_cell_maps(3, 3, *(divmod(cell, 3) for cell in range(9)))
    share = np.linspace(0.06, 0.94, 9)  # in steps of 0.11: nothing between two roundings
    explanation = from_maps(maps, [f" word{cell}" for cell in range(9)], grid, image=scene(90, 90))
    explanation = replace(explanation, log_probabilities=np.log(np.stack([share, 1 - share], axis=1)))
    for method in ("dexar-focus", "dexar", "attention"):
        one = replace(explanation, settings={**explanation.settings, "method": method})
        report = open_report(one, lang=lang)
        assert report.text("reading") == reading(None, method, lang)
        for index, word in enumerate(one.words()):
            report.unit(index).hover()
            assert report.text("reading") == word.reading_in(lang)


def test_the_walk_finds_what_is_not_marked(open_report: Open) -> None:
    report = open_report(make_explanation(["ab", " cd"]), lang=MARKED | {"save": "Save", "theme_dark": "To the dark"})
    assert {*unmarked(report)} == {"Save", "To the dark"}


@pytest.mark.parametrize("lang", languages())
@pytest.mark.parametrize("width", [320, 1280])
def test_every_language_has_room(open_report: Open, lang: str, width: int) -> None:
    report = open_report(
        full(),
        lang=lang,
        units="words",
        link="#word=1&with=1&with-method=dexar",
        viewport={"width": width, "height": 900},
    )
    assert report.page.evaluate("document.documentElement.scrollWidth") <= width
    within = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    assert report.page.locator("button:visible, .switch label span, dt:visible").evaluate_all(within) == []
