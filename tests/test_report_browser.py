"""The report in a real browser: choosing words by pointer, keys and taps."""

from __future__ import annotations

import numpy as np

from .browsers import Open, browser, open_report
from .explanations import make_explanation, pieces

__all__ = ["browser", "open_report"]  # fixtures


def test_loads_quietly_and_shows_the_answer(open_report: Open) -> None:
    explanation = make_explanation()
    report = open_report(explanation)
    assert report.text("answer") == explanation.answer
    assert report.text("prompt") == explanation.prompt
    assert report.text("model") == "example/llava-tiny"
    assert report.text("shown") == "Whole answer"
    assert report.page.locator("#picture").evaluate("image => image.naturalWidth") == 640
    assert report.noise == []


def test_hover_switches_the_overlay_and_leaving_brings_the_answer_map_back(open_report: Open) -> None:
    report = open_report(make_explanation())
    answer = report.overlay()
    report.unit(5).hover()
    red = report.overlay()
    report.unit(16).hover()
    assert report.text("shown") == "“tree”"
    assert len({answer, red, report.overlay()}) == 3
    report.away()
    assert report.overlay() == answer
    assert report.text("shown") == "Whole answer"


def test_click_pins_and_escape_unpins(open_report: Open) -> None:
    report = open_report(make_explanation())
    answer = report.overlay()
    report.unit(5).click()
    red = report.overlay()
    report.unit(16).hover()
    assert report.overlay() != red  # a pinned token still lets others be looked at
    report.away()
    assert report.overlay() == red != answer
    assert report.pinned() == ["red"]
    assert "kept" in report.text("kind")
    report.press("Escape")
    assert report.overlay() == answer
    assert report.pinned() == []


def test_the_line_lies_under_what_is_looked_at_on_every_line_and_after_a_resize(open_report: Open) -> None:
    report = open_report(make_explanation([*pieces(), " " + "unbroken" * 20, " end"]))
    lines = """() => [...document.querySelectorAll('.underline i:not([hidden])')].map(line => {
      const { left, top, width } = line.getBoundingClientRect();
      return [left, top, width];
    })"""
    boxes = "e => [...e.getClientRects()].map(({ left, bottom, width }) => [left, bottom, width])"
    assert report.page.evaluate(lines) == []
    for index, width in ((16, 1280), (34, 1280), (34, 800)):
        report.page.set_viewport_size({"width": width, "height": 900})
        report.unit(index).hover()
        report.settle()
        expected = report.unit(index).evaluate(boxes)
        assert len(expected) == 1 or index == 34
        np.testing.assert_allclose(report.page.evaluate(lines), expected, atol=0.1)
    report.away()
    assert report.page.evaluate(lines) == []


def test_a_second_click_unpins_and_the_button_too(open_report: Open) -> None:
    report = open_report(make_explanation())
    report.unit(5).click()
    report.unit(5).click()
    report.away()
    assert report.text("shown") == "Whole answer"
    report.unit(16).click()
    report.away()
    report.page.locator("#reset").click()
    assert report.text("shown") == "Whole answer"
    assert report.pinned() == []
    assert report.page.locator("#reset").is_hidden()


def test_arrow_keys_step_enter_pins(open_report: Open) -> None:
    report = open_report(make_explanation())
    answer = report.overlay()
    report.press("ArrowRight")  # nothing has the focus yet
    assert report.focused() == "unit-0"
    report.press("ArrowRight", "ArrowRight")
    left = report.overlay()
    assert (report.focused(), report.text("shown")) == ("unit-2", "“left”")
    report.press("ArrowLeft")
    assert report.focused() == "unit-1"
    assert report.overlay() not in (left, answer)
    report.press("ArrowRight", "Enter", "End")
    assert report.focused() == "unit-33"
    assert report.pinned() == ["left"]
    report.press("Escape")
    assert report.overlay() == answer
    assert report.pinned() == []
    report.press("Home")
    assert report.focused() == "unit-0"
    assert report.page.locator(".unit[tabindex='0']").count() == 1
    report.press("ArrowLeft")
    assert report.focused() == "unit-0"


def test_up_and_down_move_by_lines(open_report: Open) -> None:
    report = open_report(make_explanation())
    report.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown")
    here, there = (report.unit(index).bounding_box() for index in (2, int(report.focused().split("-")[1])))
    assert there["y"] > here["y"] + here["height"] / 2
    assert abs(there["x"] - here["x"]) < 60
    report.press("ArrowUp")
    assert report.focused() == "unit-2"


def test_everything_is_reached_and_worked_by_keyboard(open_report: Open) -> None:
    report = open_report(make_explanation())
    reached = []
    for _ in range(14):
        report.press("Tab")
        reached.append(report.focused())
    for name in ("theme", "opacity", "colormap", "highlight", "tokens", "unit-0"):
        assert name in reached
    assert "unit-1" not in reached  # one stop for the whole answer
    report.page.locator("#opacity").focus()
    report.press("Home")
    assert report.page.locator("#overlay").evaluate("one => getComputedStyle(one).opacity") == "0"
    assert report.text("opacity-value") == "0%"
    before = report.overlay()
    report.page.locator("#colormap").focus()
    report.press("v")
    viridis = report.overlay()
    report.page.locator("[value=heat]").focus()
    report.press("ArrowRight")
    assert len({before, viridis, report.overlay()}) == 3
    assert report.page.locator("#overlay").evaluate("one => [one.width, one.height]") == [24, 18]
    report.page.locator("[value=tokens]").focus()
    report.press("ArrowRight")
    assert report.page.locator(".unit", has_text="pagoda,").count() == 1


def test_focus_can_be_seen(open_report: Open) -> None:
    report = open_report(make_explanation())
    report.press("ArrowRight")
    style = "one => { const s = getComputedStyle(one); return [s.outlineStyle, s.outlineWidth]; }"
    assert report.unit(0).evaluate(style) == ["solid", "2px"]
    assert report.unit(1).evaluate(style)[0] == "none"


def test_screen_readers_hear_tokens_reached_by_keyboard(open_report: Open) -> None:
    report = open_report(make_explanation())
    assert report.page.get_by_role("listbox", name="Answer").count() == 1
    assert report.page.get_by_role("listbox").get_by_role("option").count() == 34
    assert report.page.get_by_role("option", name="line break").count() == 2
    report.press("ArrowRight", "End")
    assert "Strongest: " in report.text("status")
    assert report.page.locator("#status[role=status]").count() == 1
    said = report.text("status")
    report.unit(5).hover()
    assert report.text("status") == said  # the pointer does not talk


def test_hostile_text_stays_text(open_report: Open) -> None:
    hostile = [
        "<img src=x onerror=alert(1)>",
        " </script><script>alert(2)</script>",
        " <!--<script>",
        " &lt;b&gt;",
        " \u2028{{data}}",
        " <svg/onload=alert(3)>",
    ]
    explanation = make_explanation(hostile, prompt="</p><script>alert(4)</script><b id=evil>")
    explanation.settings["<img src=x onerror=alert(5)>"] = "<script>alert(6)</script>"
    explanation.settings["model"] = "<i id=evil>"
    report = open_report(explanation)
    for index in range(len(hostile)):
        report.unit(index).hover()
        report.settle()
    assert report.text("answer") == "".join(hostile)
    assert report.text("prompt") == explanation.prompt
    assert report.page.locator("img").count() == 1
    assert report.page.locator("script").count() == 2
    assert report.page.locator("svg").count() == 2  # of the buttons for theme and comparison
    assert report.page.locator("#evil").count() == 0
    assert report.noise == []


def test_two_thousand_tokens_stay_quick_and_still(open_report: Open) -> None:
    tokens = (pieces() * 60)[:2000]
    report = open_report(make_explanation(tokens, rows=24, cols=24, layers=2, heads=2))
    assert report.page.locator(".unit").count() == 2000
    frame = report.page.locator("#frame").bounding_box()
    place = report.unit(1000).bounding_box()
    milliseconds = report.page.evaluate(
        """async () => {
          const spent = [];
          for (let i = 0; i < 200; i++) {
            const start = performance.now();
            const unit = document.getElementById(`unit-${i * 10}`);
            unit.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" }));
            document.getElementById("stage").getBoundingClientRect(); // pay for any layout here
            spent.push(performance.now() - start);
            if (i % 20 === 0) await new Promise(requestAnimationFrame);
          }
          return spent.sort((a, b) => a - b)[100];
        }"""
    )
    assert milliseconds < 8  # the median is half a frame even on a busy machine; usually it is near 1
    assert report.text("kind") == "token 1991 of 2000"
    assert report.page.locator("#frame").bounding_box() == frame
    assert report.unit(1000).bounding_box() == place
