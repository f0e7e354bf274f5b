"""The report: one HTML file that needs nothing else and asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..result.atomic import write_atomically
from .languages import ENGLISH, Language, fill, for_script, labels
from .montage import montage, shown_images
from .payload import payload, to_script

if TYPE_CHECKING:
    from ..result.explanation import Explanation

# Joined in this order into one module.
_SCRIPTS = (
    "labels.js", "maps.js", "picture.js", "reading.js", "heads.js", "answer.js", "views.js", "settings.js", "report.js",
)  # fmt: skip


def to_html(explanation: Explanation, path: str | PathLike[str], *, lang: Language = ENGLISH) -> Path:
    """Write the report.

    Args:
        explanation: what to show.
        path: the file to write; its folder must exist. An old file stays as it is unless the new one is complete.
        lang: see `render_html`.

    Returns:
        The path written.

    Raises:
        InputError: the explanation holds NaN, infinity, or settings that are no JSON values; or there is no such
            language.
        OSError: the file cannot be written.
    """
    return write_atomically(path, render_html(explanation, lang=lang).encode("ascii"))


def render_html(explanation: Explanation, *, lang: Language = ENGLISH) -> str:
    """The report as one ASCII string.

    Args:
        explanation: what to show; several images are shown side by side.
        lang: the language of the labels, or a table of one's own: see `dexar_fast.render.languages.labels`.

    Returns:
        A complete HTML document. Its content security policy names the script and the style by their hashes and
        forbids everything else, so text of the answer could not run even if it got out of its place.

    Raises:
        InputError: the explanation holds NaN, infinity, or settings that are no JSON values; or there is no such
            language.
    """
    said = labels(lang)
    grids = explanation.grids
    explanation = montage(explanation)
    style = _ascii_css(_asset("report.css"))
    script = _ascii_js("\n".join(_asset(name) for name in _SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _asset("report.html")
    values = {**payload(explanation), "images": shown_images(grids), "labels": for_script(template, said)}
    parts = {
        "policy": policy,
        "title": html.escape(_title(explanation)),
        "style": style,
        "data": to_script(values),
        "script": script,
    }
    return fill(template, parts, said).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _title(explanation: Explanation) -> str:
    answer = " ".join(explanation.answer.split())
    return f"{answer[:60]}{'…' if len(answer) > 60 else ''} – DEX-AR"


def _asset(name: str) -> str:
    return resources.files("dexar_fast.render").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("ascii")).digest()).decode("ascii")


def _ascii_css(text: str) -> str:
    return re.sub(r"[^\x00-\x7f]", lambda match: f"\\{ord(match[0]):06x}", text)


def _ascii_js(text: str) -> str:
    """Character references mean nothing inside a script element; its own escapes do."""
    return re.sub(r"[^\x00-\x7f]", lambda match: f"\\u{{{ord(match[0]):x}}}", text)
