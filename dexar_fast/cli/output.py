"""The files of one explanation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..progress import ProgressCallback
from ..render.fit import fit
from ..render.montage import montage
from ..render.overlay import overlay
from ..result.atomic import write_atomically

if TYPE_CHECKING:
    from PIL import Image

    from ..result.explanation import Explanation

WORD_PIXELS = 1024
_WORD_OVERLAY = re.compile(r"\d{3,}-[\w-]+\.png")


@dataclass(frozen=True)
class Written:
    """Where things are.

    Attributes:
        report: the HTML file.
        overlays: the folder of the PNG images; `n_overlays` their number.
        saved: the file for `Explanation.load`.
    """

    report: Path
    overlays: Path
    n_overlays: int
    saved: Path


def make_folder(folder: Path) -> Path:
    """Create the output folder; before the long run, so that a wrong `--out` is known at once.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: cannot create the folder {folder} ({error.strerror})") from error
    return folder


def write_files(explanation: Explanation, folder: Path, progress: ProgressCallback) -> Written:
    """Write `report.html`, `explanation.safetensors` and `overlays/*.png`, each replaced as a whole.

    Several images are shown side by side. The answer's overlay has the image's resolution; those of the words are at
    most `WORD_PIXELS` wide and high. Overlays of words that an earlier run left there are removed: their numbers would
    not be this answer's.
    """
    saved = explanation.save(folder / "explanation.safetensors")
    explanation = montage(explanation)
    words = explanation.words()
    progress("saving", 0, len(words))
    report = explanation.to_html(folder / "report.html")
    overlays = make_folder(folder / "overlays")
    _write_png(explanation.overlay(), overlays / "answer.png")
    names = {"answer.png"}
    image, grid = fit(explanation.image, explanation.grid, WORD_PIXELS)
    for index, word in enumerate(words):
        name = overlay_name(index, word.text)
        _write_png(overlay(image, word.map, grid), overlays / name)
        names.add(name)
        progress("saving", index + 1, len(words))
    for path in overlays.iterdir():
        if path.name not in names and _WORD_OVERLAY.fullmatch(path.name):
            path.unlink()
    return Written(report, overlays, len(names), saved)


def overlay_name(index: int, word: str) -> str:
    """A file name for a word that any file system takes: `007-star.png`."""
    letters = re.sub(r"[\W_]+", "-", word.lower())[:32].strip("-")
    return f"{index:03d}-{letters or 'word'}.png"


def _write_png(image: Image.Image, path: Path) -> None:
    png = BytesIO()
    image.save(png, "PNG", compress_level=1)  # five times as fast as the default, for a fifth more bytes
    write_atomically(path, png.getvalue())
