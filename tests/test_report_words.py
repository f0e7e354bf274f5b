"""The report in a real browser: tokens, words, targets, and what is said about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dexar_fast.inputs.targets import Foil, Target
from dexar_fast.layout.grid import whole_image

from .browsers import Open, browser, open_report
from .explanations import from_maps, make_explanation, scene, with_targets

__all__ = ["browser", "open_report"]  # fixtures


def test_targets_stand_in_the_answer_and_are_stepped_through(open_report: Open) -> None:
    explanation = make_explanation()
    foil = "<b>tower</b>"
    foils: list[Foil | None] = [None] * len(explanation.tokens)
    foils[6:9] = [Foil(7, f" {foil}")] * 3
    targets = Target("red pagoda", 5, 9), Target("tree", 16, 17), Target("boat", 29, 30)
    assert "".join(explanation.tokens[5:9]).strip() == "red pagoda"
    report = open_report(replace(with_targets(explanation, *targets), foils=tuple(foils)))
    assert report.text("answer") == explanation.answer
    assert report.page.locator("#answer .unit").all_text_contents() == [
        "red pagoda",
        "tree",
        explanation.tokens[29].strip(),
    ]
    assert report.page.locator("#units-switch").is_hidden()
    assert report.page.locator("#targets-note").is_visible() is False  # in a closed section
    assert report.page.locator("#foil-note").get_attribute("hidden") is None
    assert report.page.locator("#foil-entry").is_visible()
    assert (report.text("kind"), report.text("foil")) == ("all 3 targets", "–")
    assert report.text("foil-aside") == "choose a word"
    assert report.text("hint").startswith("Point at a part of the answer")
    report.toggle_heads()
    assert report.page.locator(".heads-of").text_content() == "mean over the whole answer"
    assert "% of the targets" in (report.page.locator(".heads-list").text_content() or "")
    report.toggle_heads()
    answer = report.overlay()
    report.unit(0).click()
    red = report.overlay()
    assert report.text("shown") == "\u201cred pagoda\u201d"
    assert report.text("foil") == f"\u201c{foil}\u201d"
    assert report.text("kind") == "tokens 6\u20139 of 34, kept"
    assert float(report.page.locator("#weight").get_attribute("title") or 0) == float(str(explanation.token_weights[5]))
    assert report.text("high-raw"), "a target has its own range"
    report.press("ArrowRight")
    assert report.text("shown") == "\u201ctree\u201d"
    assert report.text("foil") == "–"
    assert len({answer, red, report.overlay()}) == 3


def test_alternatives_stand_below_the_answer(open_report: Open) -> None:
    explanation = make_explanation()
    found = [("red", 0.5), ("dark", 0.25), ("<i>", 0.0125)]
    targets = [Target(text, 5, 6, 100 + i, share) for i, (text, share) in enumerate(found)]
    report = open_report(with_targets(explanation, *targets))
    assert report.page.locator("#foil-entry").is_hidden()
    lines = (report.page.locator("#answer").text_content() or "").rstrip("\n").split("\n")
    assert lines[-3:] == ["red  50.0%", "dark  25.0%", "<i>  1.25%"]
    assert "\n".join(lines[:-4]) == explanation.answer
    assert report.text("kind") == "3 alternatives for token 6 of 34"
    report.unit(2).hover()
    assert (report.text("shown"), report.text("kind")) == ("\u201c<i>\u201d", "in place of token 6 of 34")


def test_foils_of_tokens_and_words(open_report: Open) -> None:
    explanation = make_explanation()
    foils: list[Foil | None] = [None] * len(explanation.tokens)
    foils[6], foils[7] = Foil(1, " tem"), Foil(2, "ple")
    report = open_report(replace(explanation, foils=tuple(foils)))
    report.unit(6).hover()
    assert report.text("foil") == "\u201ctem\u201d"
    report.page.get_by_label("Words").check()
    report.unit(6).hover()
    assert report.text("shown") == "\u201cpagoda,\u201d"
    assert report.text("foil") == "\u201ctem / ple\u201d"
    report.unit(0).hover()
    assert report.text("foil") == "–"


def test_words_join_their_tokens_and_keep_the_pin(open_report: Open) -> None:
    explanation = make_explanation()
    report = open_report(explanation)
    report.unit(7).click()  # "od" of "pagoda,"
    report.page.get_by_label("Words").check()
    assert report.pinned() == ["pagoda,"]
    assert report.text("kind") == "word 7 of 27, kept"
    assert report.text("answer") == explanation.answer
    word = next(word for word in explanation.words() if word.text == "pagoda,")
    assert float(report.text("weight")) == pytest.approx(word.weight, rel=5e-3)
    report.page.get_by_label("Tokens").check()
    assert report.pinned() == ["pag"]


def test_the_legend_gives_exact_range_weight_and_scores(open_report: Open) -> None:
    explanation = make_explanation()
    report = open_report(explanation)
    report.unit(16).hover()
    weight = report.page.locator("#weight")
    assert np.float32(weight.get_attribute("title")) == explanation.token_weights[16]
    assert float(report.text("weight")) == pytest.approx(float(explanation.token_weights[16]), rel=5e-3)
    assert np.float32(report.page.locator("#high-raw").get_attribute("title")) == explanation.token_map_ranges[16, 1]
    assert report.page.locator("#low-raw").get_attribute("title") == str(
        float(str(explanation.token_map_ranges[16, 0]))
    )
    scores = explanation.image_scores[16]
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    assert report.text("image-aside") == f"layer {explanation.layers[layer]}, head {head}"
    row, col = np.unravel_index(explanation.token_maps[16].argmax(), explanation.token_maps[16].shape)
    assert report.text("peak-aside") == f"row {row + 1}, column {col + 1}"


def test_grounding_of_tokens_and_words(open_report: Open) -> None:
    """Shown where it was asked for; the answer as a whole has none."""
    plain = make_explanation()
    assert not open_report(plain).page.locator("#grounding-entry").is_visible()
    log_p = np.log(np.stack((np.full(len(plain.tokens), 0.9), np.full(len(plain.tokens), 0.3)), axis=1))
    log_p[3] = np.log((0.01, 0.5))
    explanation = replace(plain, log_probabilities=log_p)
    report = open_report(explanation)
    tops = report.page.locator(".readout > div:visible").evaluate_all("all => all.map(e => e.offsetTop)")
    assert len(set(tops)) == 1, "all in one line"
    bottom = report.page.locator("#controls").evaluate("e => e.getBoundingClientRect().bottom")
    assert bottom <= 900, "the controls are in sight"
    assert report.text("grounding") == "–"
    assert report.whole("grounding-aside")
    report.unit(2).hover()
    report.settle()
    assert (report.text("grounding"), report.text("grounding-aside")) == ("0.750", "the image changes little")
    report.unit(3).hover()
    report.settle()
    assert (report.text("grounding"), report.text("grounding-aside")) == ("0.0196", "the image speaks against it")
    assert report.whole("grounding-aside")


ODD = {
    "": ("no text of its own, before “🦊”", "·"),
    "🦊": ("“🦊”", None),
    "\n\n": ("line break", "↵"),
    "\t": ("tab", "⇥"),
    "  ": ("space", "␣"),
    "\u200b": ("invisible U+200B", "U+200B"),
    "\ufeff": ("invisible U+FEFF", "U+FEFF"),
    "\x1b": ("invisible U+001B", "U+001B"),
    "\u0301": ("mark U+0301", "◌"),
    "\u202eback": ("“\u202eback”", None),
    " שלום": ("“שלום”", None),
    "\ufffd": ("“\ufffd”", None),
}


def test_odd_tokens_are_seen_and_named(open_report: Open) -> None:
    report = open_report(make_explanation([*ODD, "end"]))
    assert report.page.locator("#answer").evaluate("e => e.textContent") == "".join([*ODD, "end"])
    for index, (name, mark) in enumerate(ODD.values()):
        report.unit(index).click()
        assert report.text("shown") == name
        assert report.unit(index).get_attribute("data-mark") == mark
        box = report.unit(index).bounding_box()
        assert box is not None
        assert box["width"] > 2  # there is something to point at


def test_words_are_shaded_by_grounding_alone(open_report: Open) -> None:
    plain = make_explanation(["a", " red", " dog"])
    shares = "all => all.map(e => [e.style.getPropertyValue('--share'), e.classList.contains('against')])"
    unshaded = open_report(plain).page.locator(".unit").evaluate_all(shares)
    assert unshaded == [["0.0000", False]] * 3
    log_p = np.log(np.array([(0.5, 0.5), (0.9, 0.1), (0.1, 0.3)]))
    report = open_report(replace(plain, log_probabilities=log_p))
    shaded = report.page.locator(".unit").evaluate_all(shares)
    assert shaded == [["0.0000", False], ["0.8000", False], ["0.5000", True]]
    report.unit(1).hover()
    assert report.text("reading").startswith("“red” rests on the image (0.90). The ")
    report.unit(2).hover()
    assert report.text("reading").startswith("“dog” hardly rests on the image (0.25).")


def test_a_direction_control_does_not_turn_what_follows(open_report: Open) -> None:
    report = open_report(make_explanation(["a", " \u202eback", " b", " c"]))
    left = [report.unit(i).bounding_box()["x"] for i in range(4)]
    assert left == sorted(left)


def test_an_answer_that_rests_on_nothing_says_so(open_report: Open) -> None:
    grid = whole_image(2, 2, (40, 30))
    report = open_report(from_maps(np.zeros((2, 2, 2)), ["a", " b"], grid, weights=np.zeros(2), image=scene(40, 30)))
    assert report.text("legend") == "not coloured: explain with grounding=True"
    assert report.text("peak-aside") == "the same everywhere"
    report.unit(1).hover()
    assert report.text("weight") == "0"


def test_a_word_is_whole_where_there_is_little_room(open_report: Open) -> None:
    """What is said of its place gives way."""
    size = {"width": 320, "height": 700}
    report = open_report(make_explanation(), units="words", viewport=size, has_touch=True, is_mobile=True)
    report.unit(6).tap()
    assert report.text("shown") == "“pagoda,”"
    assert report.whole("shown")
