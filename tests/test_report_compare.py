"""The report in a real browser: other methods, two views side by side, links to a view."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dexar_fast.inputs.targets import Target
from dexar_fast.layout.grid import whole_image
from dexar_fast.result.explanation import Explanation

from .browsers import Open, Report, browser, open_report
from .explanations import from_maps, make_explanation, one_cell_maps, with_targets

__all__ = ["browser", "open_report"]  # fixtures


def test_the_maps_of_another_method_are_one_click_away(open_report: Open) -> None:
    """Of the token that was looked at, with its own numbers; one method alone has no switch."""
    first = make_explanation(["a", " red", " dog"], seed=1)
    assert open_report(first).page.locator("#methods").is_hidden()
    other = make_explanation(["a", " red", " dog"], seed=2)
    first.settings["method"] = "dexar-focus"
    report = open_report(first.with_beside("dexar", other))
    report.unit(1).click()
    before, weight = report.overlay(), report.text("weight")
    frame = report.page.locator("#frame").bounding_box()
    report.page.get_by_label("What would have moved it").check()
    assert report.pinned() == ["red"]
    assert report.overlay() != before
    assert report.page.locator("#weight").get_attribute("title") == str(float(str(other.token_weights[1])))
    assert report.page.locator("#frame").bounding_box() == frame, "nothing moves"
    report.page.get_by_label("What it looked at").check()
    assert (report.overlay(), report.text("weight")) == (before, weight)


def test_a_link_opens_at_its_word_and_a_pin_makes_one(open_report: Open) -> None:
    maps = one_cell_maps(2, 2, (0, 0), (0, 1), (1, 0))
    report = open_report(from_maps(maps, ["a", " red", " circle"], whole_image(2, 2, (64, 48))))
    page = report.page
    assert page.evaluate("location.hash") == ""
    page.goto(page.url + "#word=2")
    page.reload()
    report.settle()
    assert page.locator("#shown").inner_text() == "\u201ccircle\u201d"
    assert page.locator("#kind").inner_text() == "word 3 of 3, kept"
    page.locator(".unit").nth(1).click()
    assert page.evaluate("location.hash") == "#word=1"
    page.keyboard.press("Escape")
    assert page.evaluate("location.hash") == ""
    assert not report.noise


WORDS = ["a", " red", " dog", " barks"]


def two_methods(words: list[str] = WORDS) -> Explanation:
    """Maps of two methods, the first the one that the page knows as what the model looked at."""
    first, other = make_explanation(words, seed=1), make_explanation(words, seed=2)
    first.settings["method"] = "dexar-focus"
    return first.with_beside("dexar", other)


def overlays(report: Report) -> list[str]:
    report.settle()
    return report.page.locator(".panel:visible .overlay").evaluate_all("all => all.map(one => one.toDataURL())")


def captions(report: Report) -> list[tuple[str, str]]:
    """The word and the method under each picture."""
    words = report.page.locator(".panel-word").all_text_contents()
    return list(zip(words, report.page.locator(".panel-method").all_text_contents()))


def fragment(report: Report) -> str:
    return report.page.evaluate("location.hash")


def test_a_word_is_compared_with_its_map_by_the_other_method(open_report: Open) -> None:
    report = open_report(two_methods(), units="words")
    assert report.page.locator(".panel-caption").is_hidden(), "nothing more to see before it is asked for"
    report.unit(1).click()
    (alone,) = overlays(report)
    report.page.locator("#compare").click()
    first, second = overlays(report)
    assert first == alone != second
    assert captions(report) == [("“red”", "What it looked at"), ("“red”", "What would have moved it")]
    assert report.page.locator("#compare").get_attribute("aria-pressed") == "true"
    left, right = (panel.bounding_box() for panel in report.page.locator(".frame").all())
    assert left is not None
    assert right is not None
    assert (left["y"], left["width"]) == (right["y"], right["width"])
    assert left["x"] + left["width"] < right["x"]


def test_words_go_to_the_picture_that_was_chosen_and_the_other_keeps_its_own(open_report: Open) -> None:
    report = open_report(two_methods(), units="words")
    report.unit(1).click()
    report.page.locator("#compare").click()
    red, red_by_other = overlays(report)
    report.unit(2).hover()
    assert overlays(report)[0] == red
    assert overlays(report)[1] != red_by_other
    assert [word for word, _ in captions(report)] == ["“red”", "“dog”"]
    report.unit(2).click()
    report.away()
    assert (report.pinned(), report.page.locator(".beside").all_text_contents()) == (["dog"], ["red"])
    report.page.locator(".frame").first.click()
    assert report.text("reading").startswith("The model looked at")
    assert (report.pinned(), report.page.locator(".beside").all_text_contents()) == (["red"], ["dog"])
    report.unit(3).hover()
    assert [word for word, _ in captions(report)] == ["“barks”", "“dog”"]
    report.away()
    assert [word for word, _ in captions(report)] == ["“red”", "“dog”"]
    report.press("Escape")
    assert [word for word, _ in captions(report)] == ["Whole answer", "“dog”"]


def test_the_method_is_that_of_the_chosen_picture(open_report: Open) -> None:
    report = open_report(two_methods(), units="words")
    report.unit(1).click()
    report.page.locator("#compare").click()
    report.page.get_by_label("What it looked at").check()
    assert len(set(overlays(report))) == 1
    report.page.locator(".panel-caption").first.click()
    report.page.get_by_label("What would have moved it").check()
    assert [method for _, method in captions(report)] == ["What would have moved it", "What it looked at"]


def test_pictures_are_chosen_by_keyboard_and_the_last_chosen_one_stays(open_report: Open) -> None:
    report = open_report(two_methods(), units="words")
    report.unit(1).click()
    report.page.locator("#compare").focus()
    report.press("Enter", "Tab", "Enter")
    pressed = report.page.locator(".panel-caption").evaluate_all("all => all.map(one => one.ariaPressed)")
    assert pressed == ["true", "false"]
    report.press("Tab", "Enter")
    report.unit(3).click()
    _, kept = overlays(report)
    report.page.locator("#compare").click()
    report.away()
    assert overlays(report) == [kept]
    assert report.text("shown") == "“barks”"
    assert fragment(report) == "#word=3&method=dexar"


def test_with_one_method_the_second_picture_waits_for_a_word(open_report: Open) -> None:
    report = open_report(make_explanation(WORDS), units="words")
    report.unit(1).click()
    report.page.locator("#compare").click()
    assert [word for word, _ in captions(report)] == ["“red”", "Whole answer"]
    assert fragment(report) == "#word=1&with=answer"
    report.unit(3).click()
    assert fragment(report) == "#word=1&with=3"


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("#word=1&with=2&with-method=dexar", [("“red”", "What it looked at"), ("“dog”", "What would have moved it")]),
        (
            "#method=dexar&with=answer",
            [("Whole answer", "What would have moved it"), ("Whole answer", "What it looked at")],
        ),
        ("#with=3", [("Whole answer", "What it looked at"), ("“barks”", "What it looked at")]),
    ],
)
def test_a_link_opens_both_pictures_and_stays(open_report: Open, link: str, shown: list[tuple[str, str]]) -> None:
    report = open_report(two_methods(), units="words", link=link)
    assert captions(report) == shown
    assert fragment(report) == link
    first, second = overlays(report)
    assert first != second


@pytest.mark.parametrize("link", ["#word=99", "#word=-1", "#word=red&method=occlusion", "#answer", "#%"])
def test_a_link_to_nothing_shows_the_answer(open_report: Open, link: str) -> None:
    report = open_report(two_methods(), units="words", link=link)
    assert report.text("shown") == "Whole answer"
    assert len(overlays(report)) == 1


def test_targets_are_compared_and_linked_by_number(open_report: Open) -> None:
    """Both begin at one token: the number of the token would not tell them apart."""
    explanation = with_targets(make_explanation(WORDS), Target("red dog", 1, 3), Target("red", 1, 2))
    report = open_report(explanation, link="#word=1&with=0")
    assert [word for word, _ in captions(report)] == ["“red”", "“red dog”"]
    report.page.locator(".panel-caption").first.click()
    assert report.pinned() == ["red"]


def test_a_phone_shows_two_pictures_one_below_the_other(open_report: Open) -> None:
    report = open_report(
        two_methods(["unbroken" * 5, *(f" {word}" for word in WORDS)]),
        units="words",
        link="#word=0&with=4&with-method=dexar",
        viewport={"width": 320, "height": 700},
        has_touch=True,
        is_mobile=True,
    )
    assert report.page.evaluate("document.documentElement.scrollWidth") == 320
    first, second = (frame.bounding_box() for frame in report.page.locator(".frame").all())
    assert first is not None
    assert second is not None
    assert first["x"] == second["x"]
    assert first["y"] + first["height"] <= second["y"]
    report.page.locator(".panel").first.tap()
    report.unit(3).tap()
    assert [word for word, _ in captions(report)] == ["“dog”", "“barks”"]


def test_both_pictures_are_saved_side_by_side(open_report: Open) -> None:
    grey = Image.new("RGB", (64, 48), (90, 90, 90))
    maps = one_cell_maps(2, 2, (0, 0), (1, 1))
    report = open_report(
        from_maps(maps, ["red", " dog"], whole_image(2, 2, (64, 48)), image=grey), link="#word=0&with=1"
    )
    with report.page.expect_download() as downloaded:
        report.page.locator("#save").click()
    assert downloaded.value.suggested_filename == "red-dog.png"
    with Image.open(downloaded.value.path()) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int).sum(axis=2)
    assert pixels.shape == (48, 64 + 1 + 64)
    first, second = pixels[:, :64], pixels[:, 65:]
    assert first[11, 15] > 400 > first[36, 47]
    assert second[36, 47] > 400 > second[11, 15]
