"""The languages of the report: complete tables, refusals by name, and the way from the faces to the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dexar_fast.errors import InputError
from dexar_fast.render.html import render_html
from dexar_fast.render.languages import labels, languages, read_labels

from .explanations import make_explanation
from .test_cli import StubExplainer, call, picture, stub

__all__ = ["picture", "stub"]  # fixtures

ENGLISH = labels("en")


def test_english_and_more_come_with_the_package() -> None:
    assert {"en", "de", "fr", "es", "zh"} <= {*languages()}


@pytest.mark.parametrize("lang", languages())
def test_a_table_is_complete_and_fills_in_what_english_does(lang: str) -> None:
    """As a user's own table it would be refused otherwise."""
    table = labels(lang)
    assert labels(table) == table
    assert table["lang"].startswith(lang)


@pytest.mark.parametrize("lang", languages())
def test_no_label_was_forgotten(lang: str) -> None:
    """Other languages share a few short words and names with English, no sentence."""
    if lang == "en":
        return
    same = {name for name, text in labels(lang).items() if text == ENGLISH[name]}
    assert all(len(re.findall(r"\w+", re.sub(r"\{\w+\}", "", ENGLISH[name]))) <= 2 for name in same), same
    assert len(same) < 15


@pytest.mark.parametrize("lang", languages())
def test_the_page_is_in_its_language(lang: str) -> None:
    page = render_html(make_explanation(), lang=lang)
    assert f'<html lang="{labels(lang)["lang"]}">' in page
    assert page.isascii()
    assert "{{" not in page.partition('<script type="application/json"')[0]


def test_an_unknown_language_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"lang: expected one of de, en, es, fr, zh.*got 'xx'"):
        render_html(make_explanation(), lang="xx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.pop("answer"), "lacks answer"),
        (lambda table: table.update(anser="Reply"), "has unknown anser"),
        (lambda table: table.update(kept="{kin}, kept"), r"kept fills in other values than '\{kind\}, kept'"),
        (lambda table: table.update(kept="{kind, kept"), "kept has a single brace"),
        (lambda table: table.update(answer=3), "answer is 3"),
        (lambda table: table.update(lang='en"><script>'), "tag of a language"),
    ],
)
def test_a_table_that_would_not_do_is_refused(change: Callable[[dict[str, str]], None], message: str) -> None:
    table = labels("en")
    change(table)
    with pytest.raises(InputError, match=message):
        labels(table)


def test_a_table_of_ones_own_is_used_and_escaped() -> None:
    table = labels("en") | {"answer": "<i>Reply</i> & more", "note_page": "**Bold** `code` <b>not</b>", "lang": "en-GB"}
    page = render_html(make_explanation(), lang=table)
    assert '<html lang="en-GB">' in page
    assert "&lt;i&gt;Reply&lt;/i&gt; &amp; more" in page
    assert "<b>Bold</b> <code>code</code> &lt;b&gt;not&lt;/b&gt;" in page


def test_a_table_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(labels("de") | {"answer": "Erwiderung"}))
    assert read_labels(path)["answer"] == "Erwiderung"
    path.write_text("{")
    with pytest.raises(InputError, match=r"lang: .*mine\.json is no readable JSON file"):
        read_labels(path)


@pytest.mark.parametrize("own", [False, True], ids=["german", "own"])
def test_the_command_line_writes_the_report_in_a_language(
    stub: StubExplainer, picture: Path, tmp_path: Path, own: bool
) -> None:
    lang = "de"
    if own:
        lang = str(tmp_path / "mine.json")
        Path(lang).write_text(json.dumps(labels("de")))
    for command in (["explain", picture, "-p", "What?", "-m", "demo"], ["demo"]):
        result = call(*command, "--out", tmp_path / "out", "--lang", lang)
        assert result.exit_code == 0, result.output
        report = (tmp_path / "out" / "report.html").read_text()
        assert '<html lang="de">' in report
        assert ">Antwort<" in report


def test_the_command_line_refuses_a_language_before_the_model_is_loaded(
    stub: StubExplainer, picture: Path, tmp_path: Path
) -> None:
    for command in (["explain", picture, "-p", "What?", "-m", "demo"], ["demo"]):
        result = call(*command, "--out", tmp_path / "out", "--lang", "xx")
        assert result.exit_code == 2
        assert "lang: expected one of de, en" in result.output
    assert stub.loaded is None
