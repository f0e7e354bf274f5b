"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .failures import failures_as_exit_codes
from .options import Debug


def compare(
    explanations: Annotated[
        list[Path],
        typer.Argument(help="Saved explanations, as explain writes them.", metavar="FILES...", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure: .png, .svg or .pdf.", metavar="FILE")] = Path(
        "comparison.png"
    ),
    words: Annotated[
        str | None,
        typer.Option(
            help="Words to show, between commas; of one that repeats, red:1 is the second. By default those that rest "
            "most on the image.",
            metavar="WORDS",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods to show, each in the files; repeat it. By default all of one file, and of several the first.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Name of a row, from the top; repeat it. By default what differs.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw saved explanations in one figure: a row for each explanation and method, words across.

    \b
    Examples:
      dexar-fast compare dexar-fast-report/explanation.safetensors
      dexar-fast compare small.safetensors large.safetensors --words red,circle --out models.png
      dexar-fast compare answer.safetensors --method dexar-focus --method dexar --words red:1

    \b
    Exit codes: 0 done, 1 the run failed, 2 bad input.
    """
    with failures_as_exit_codes(debug):
        if out.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise InputError(f"--out: expected a name that ends in .png, .svg or .pdf; got {out.name!r}")
        from ..render.compare import compare as draw
        from ..result.explanation import Explanation
        from .output import make_folder, shown_path

        asked = parse_words(words)
        figure = draw([Explanation.load(path) for path in explanations], words=asked, methods=method, labels=label)
        make_folder(out.parent)
        figure.savefig(out)
        print(shown_path(out))


def parse_words(text: str | None) -> list[str | tuple[str, int]] | None:
    """What `--words` names: words between commas, each with its occurrence from 0 behind a colon where it has one.

    Raises:
        InputError: an empty word.
    """
    if text is None:
        return None
    found: list[str | tuple[str, int]] = []
    for part in text.split(","):
        word, colon, nth = part.strip().rpartition(":")
        found.append((word, int(nth)) if colon and word and nth.isdecimal() else part.strip())
    if not all(found):
        raise InputError(f"--words: expected words between commas, such as red,circle; got {text!r}")
    return found
