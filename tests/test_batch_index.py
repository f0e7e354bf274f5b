"""The index of a data-set run in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dexar_fast import Explainer

pytest.importorskip("pyarrow")

from dexar_fast import batch
from dexar_fast.batch.index import write_page

from .browsers import browser  # noqa: F401
from .test_batch import table, write_input


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder with 12 scenes, two of them broken, and the reports of three."""
    folder = tmp_path_factory.mktemp("index")
    explainer = Explainer.from_pretrained("demo", device="cpu", self_test=False)
    changes = {"row_3": {"image": "gone.png"}, "row_5": {"id": "<b>x</b>", "answer": "a blue circle"}}
    source = write_input(folder, 12, **changes, row_7={"prompt": None})
    batch.run(explainer, source, folder / "out", grounding=True, reports=3)
    return folder / "out"


@pytest.fixture
def page(browser, results) -> Any:  # noqa: F811
    opened, noise = browser.new_page(), []
    opened.on("console", lambda message: noise.append(message.text))
    opened.on("pageerror", lambda error: noise.append(str(error)))
    opened.goto((results / "index.html").as_uri())
    yield opened
    opened.close()
    assert noise == []


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"#rows tr td:nth-child({number})").all_text_contents()


def test_lowest_grounding_comes_first_and_a_click_turns_it_round(page, results):
    lowest = {row["id"]: min(row["grounding"]) for row in table(results) if row["error"] is None}
    expected = sorted(lowest, key=lambda name: lowest[name])
    assert column(page, 1)[:10] == expected
    page.get_by_role("button", name="lowest grounding").click()
    assert column(page, 1)[:10] == expected[::-1]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_numbers_in_ids_are_sorted_as_numbers(page):
    page.get_by_role("button", name="id").click()
    assert column(page, 1) == ["<b>x</b>", *(f"id {n}" for n in range(12) if n != 5)]


def test_search_and_filter(page):
    page.get_by_label("Search").fill("BLUE circle")
    assert column(page, 1) == ["<b>x</b>"]
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("failed")
    assert sorted(column(page, 1)) == ["id 3", "id 7"]
    assert all(text.startswith("InputError: ") for text in column(page, 3))
    assert page.locator("#count").text_content() == "1 to 2 of 2"
    page.get_by_label("Show").select_option("explained")
    assert len(column(page, 1)) == 10


def test_a_report_opens(page, results):
    links = page.locator("#rows a")
    assert links.all_text_contents() == column(page, 1)[:3]
    name = links.first.text_content()
    links.first.click()
    page.locator("#answer .unit").first.wait_for()  # the report's script has run
    (row,) = (row for row in table(results) if row["id"] == name)
    assert (page.locator("#answer").text_content() or "").strip() == row["answer"].strip()


@pytest.mark.parametrize("n", [1, 100, 101])
def test_pages(n, browser, tmp_path):  # noqa: F811
    lines = [[f"id {i}", "what ?", "a star", i / n, None, 0, None] for i in range(n)]
    write_page(tmp_path, lines)
    opened = browser.new_page()
    opened.goto((tmp_path / "index.html").as_uri())
    assert opened.locator("#count").text_content() == f"1 to {min(n, 100)} of {n}"
    following = opened.get_by_role("button", name="Next")
    assert following.is_disabled() == (n <= 100)
    if n > 100:
        following.click()
        assert column(opened, 1) == ["id 100"]
        assert following.is_disabled()
    opened.close()


def test_the_page_speaks_the_language_that_was_asked_for(browser, tmp_path):  # noqa: F811
    lines = [[f"id {i}", "what ?", "a star", i / 3, None, 0, None] for i in range(3)]
    write_page(tmp_path, lines, 7, "de")
    opened = browser.new_page()
    opened.goto((tmp_path / "index.html").as_uri())
    assert opened.evaluate("document.documentElement.lang") == "de"
    assert opened.locator("#count").text_content() == "1 bis 3 von 3"
    assert "3 von 7 Antworten" in (opened.locator("p").text_content() or "")
    opened.get_by_label("Suchen").fill("id 2")
    assert column(opened, 1) == ["id 2"]
    opened.close()
