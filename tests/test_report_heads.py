"""The report in a real browser: the panel of heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from .browsers import Open, Report, browser, open_report
from .explanations import make_explanation

__all__ = ["browser", "open_report"]  # fixtures


def panel(report: Report, part: str) -> str:
    report.settle()
    return (report.page.locator(f".heads-{part}").text_content() or "").strip()


def test_heads_follow_the_answer_a_token_and_a_word(open_report: Open) -> None:
    explanation = make_explanation()
    report = open_report(explanation)
    report.toggle_heads()

    def first() -> tuple[str, float]:
        report.settle()
        item = report.page.locator(".heads-list li").first.text_content() or ""
        place, weight = item.split(": w ")
        return place, float(weight.split(",")[0])

    def strongest(**selection: int) -> tuple[str, Any]:
        head = explanation.top_heads(1, **selection)[0]
        return f"layer {head.layer}, head {head.head}", pytest.approx(head.weight, rel=0.01)

    assert first() == strongest()
    assert panel(report, "of") == "mean over the whole answer"
    report.unit(16).click()
    report.away()
    assert first() == strongest(token=16)
    assert panel(report, "of") == "“tree”"
    report.page.get_by_label("Words").check()
    report.unit(6).click()
    assert panel(report, "of") == "“pagoda,”"
    assert first() == strongest(word=6)


def brightest_cell(report: Report, layers: int, heads: int) -> tuple[int, int]:
    """Layer and head of the brightest pixel of the panel's canvas."""
    report.settle()
    pixels = report.page.locator(".heads-map").evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    assert pixels[:2] == [layers, heads]
    light = np.array(pixels[2:]).reshape(heads, layers, 4)[..., :3].sum(axis=2)
    head, layer = np.unravel_index(light.argmax(), light.shape)
    return int(layer), int(head)


@pytest.mark.parametrize(("layers", "heads"), [(6, 4), (80, 64), (1, 1)])
def test_pointer_and_keys_read_a_head(open_report: Open, layers: int, heads: int) -> None:
    explanation = make_explanation(layers=layers, heads=heads)
    report = open_report(explanation)
    report.toggle_heads()
    report.unit(16).click()
    best = explanation.top_heads(1, token=16)[0]
    layer = explanation.layers.index(best.layer)
    assert brightest_cell(report, layers, heads) == (layer, best.head)
    box = report.page.locator(".heads-grid").bounding_box()
    assert box is not None
    x = box["x"] + box["width"] * (layer + 0.5) / layers
    report.page.mouse.move(x, box["y"] + box["height"] * (best.head + 0.5) / heads)
    pointed = panel(report, "readout")
    place, numbers = pointed.split(": ")
    assert place == f"layer {best.layer}, head {best.head}"
    found = [float(part.split()[-1]) for part in numbers.split(", ")]
    assert found == pytest.approx([best.weight, best.image_score, best.text_score], abs=0.01 * best.image_score)
    report.away()
    assert panel(report, "readout").startswith("Point at a cell")
    report.page.locator(".heads-grid").focus()
    report.press("ArrowDown", *["ArrowRight"] * layer, *["ArrowDown"] * best.head)
    assert panel(report, "readout") == pointed == report.text("status")
    report.press("Escape")
    assert report.text("shown") == "Whole answer"


def test_a_tap_reads_a_head(open_report: Open) -> None:
    report = open_report(make_explanation(), viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    report.toggle_heads("tap")
    report.page.locator(".heads-grid").evaluate("grid => grid.scrollIntoView({ block: 'center' })")
    report.page.locator(".heads-grid").tap(position={"x": 20, "y": 60})
    assert panel(report, "readout").startswith("layer 6, head 1: w ")


def test_a_closed_panel_of_heads_draws_nothing(open_report: Open) -> None:
    report = open_report(make_explanation())
    report.unit(5).hover()
    assert panel(report, "of") == ""


def test_heads_that_were_left_out_or_never_scored_are_said_to_be(
    open_report: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    explanation = make_explanation()
    none = np.zeros((len(explanation.tokens), 6, 1), dtype=np.float32)
    report = open_report(replace(explanation, image_scores=none, text_scores=none))
    report.toggle_heads()
    assert panel(report, "note") == "This method scores no heads."
    assert not report.page.locator(".heads-body").is_visible()
    monkeypatch.setattr("dexar_fast.render.heads_payload.MOST_BYTES", 1000)
    report = open_report(explanation)
    report.toggle_heads()
    report.unit(5).click()
    assert panel(report, "note").startswith("Single tokens are left out")
    assert panel(report, "of") == "mean over the whole answer"
