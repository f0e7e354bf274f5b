"""In which language the report speaks: tables of labels, ours and those that a user brings."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from string import Formatter

from ..errors import InputError

Language = str | Mapping[str, str]
"""A name of `languages()`, or a table of one's own: see `labels`."""

ENGLISH = "en"
_PLACE = re.compile(r"\{\{(\*?)(\w+)\}\}")
_TABLES = resources.files("dexar_fast.render").joinpath("labels")


@cache
def languages() -> tuple[str, ...]:
    """Names of the languages that come with the package."""
    return tuple(sorted(path.name.removesuffix(".json") for path in _TABLES.iterdir() if path.name.endswith(".json")))


def labels(lang: Language = ENGLISH) -> dict[str, str]:
    """The labels of a language by name.

    Args:
        lang: one of `languages()`, or a table of one's own, which says everything that ``labels("en")`` says:
            ``labels("en") | {"answer": "Reply"}``. Its ``lang`` is the tag of the language (BCP 47: "pt-BR"). Texts are
            plain; those that begin with ``note_`` or ``hint`` may mark ``**bold**`` and `` `code` ``. Values in
            braces, such as ``{count}``, are filled in.

    Raises:
        InputError: no such language; a table that lacks labels, has unknown ones or other values in braces than ours.
    """
    if isinstance(lang, str):
        if lang not in languages():
            raise InputError(
                f"lang: expected one of {', '.join(languages())}, or a table of labels "
                f"(dexar_fast.render.languages.labels); got {lang!r}"
            )
        return _ours(lang)
    if not isinstance(lang, Mapping):
        raise InputError(f"lang: expected the name of a language or a table of labels; got {lang!r}")
    _check(lang)
    return dict(lang)


def fill(template: str, parts: Mapping[str, str], said: Mapping[str, str]) -> str:
    """A page of its template: parts as they are, labels escaped, those of ``{{*label}}`` with their markup.

    One pass: what is filled in is never searched for places again.
    """
    return _PLACE.sub(
        lambda place: parts[place[2]] if place[2] in parts else (_markup if place[1] else html.escape)(said[place[2]]),
        template,
    )


def for_script(template: str, said: Mapping[str, str], *, index: bool = False) -> dict[str, str]:
    """The labels that a page's script fills in: of the report, or of a data set's index."""
    on_page = {place[2] for place in _PLACE.finditer(template)}
    return {name: text for name, text in said.items() if name.startswith("index_") == index and name not in on_page}


def _markup(text: str) -> str:
    """A label as HTML, with its ``**bold**`` and `` `code` `` as elements."""
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)


def read_labels(path: Path) -> dict[str, str]:
    """A table of one's own from a JSON file.

    Raises:
        InputError: no readable JSON file, or as `labels`.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"lang: {path} is no readable JSON file ({reason})") from error
    return labels(table)


def _ours(lang: str) -> dict[str, str]:
    table: dict[str, str] = json.loads(_TABLES.joinpath(f"{lang}.json").read_text(encoding="utf-8"))
    return table


def _check(table: Mapping[str, str]) -> None:
    english = _ours(ENGLISH)
    for problem, names in (("lacks", english.keys() - table.keys()), ("has unknown", table.keys() - english.keys())):
        if names:
            raise InputError(
                "lang: expected a table with the labels of dexar_fast.render.languages.labels('en'); this one "
                f"{problem} {', '.join(sorted(map(str, names)))}"
            )
    for name, text in table.items():
        if not isinstance(text, str):
            raise InputError(f"lang: expected texts; the label {name} is {text!r}")
        if _values(name, text) != _values(name, english[name]):
            raise InputError(f"lang: the label {name} fills in other values than {english[name]!r}; got {text!r}")
    if not re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", table["lang"]):
        raise InputError(f"lang: expected the tag of a language as its 'lang', such as 'pt-BR'; got {table['lang']!r}")


def _values(name: str, text: str) -> set[str]:
    """What stands in braces."""
    try:
        return {value for _, value, _, _ in Formatter().parse(text) if value is not None}
    except ValueError as error:
        raise InputError(f"lang: the label {name} has a single brace ({error}); got {text!r}") from error
