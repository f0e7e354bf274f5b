"""The files of one explanation."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..inputs.tokens import printable
from ..progress import ProgressCallback
from ..render.fit import fit
from ..render.languages import ENGLISH, Language
from ..render.montage import montage
from ..render.overlay import overlay
from ..result.atomic import write_atomically

if TYPE_CHECKING:
    from PIL import Image

    from ..result.explanation import Explanation

WORD_PIXELS = 1024
RECORD = ".dexar-fast.json"
"""What a run wrote into the folder, for the next one."""
FURTHER = {
    "csv": ("words.csv", "tokens.csv"),
    "json": ("explanation.json",),
    "npz": ("explanation.npz",),
}
"""Files that are written when they are asked for, by format."""
_WORD_OVERLAY = re.compile(r"\d{3,}-[\w-]+\.png")


@dataclass(frozen=True)
class Written:
    """Where things are.

    Attributes:
        report: the HTML file.
        overlays: the folder of the PNG images; `n_overlays` their number.
        saved: the file for `Explanation.load`.
        further: files of the formats that were asked for.
    """

    report: Path
    overlays: Path
    n_overlays: int
    saved: Path
    further: tuple[Path, ...] = ()


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


def write_files(
    explanation: Explanation,
    folder: Path,
    progress: ProgressCallback,
    formats: Sequence[str] = (),
    lang: Language = ENGLISH,
) -> Written:
    """Write `report.html`, `explanation.safetensors` and `overlays/*.png`, each replaced as a whole.

    And the files of `FURTHER` for these formats; of the others, those that the last run recorded are removed, because
    they tell of another answer.

    The report's labels are in ``lang``. Several images are shown side by side. The answer's overlay has the image's
    resolution; those of the words are at most `WORD_PIXELS` wide and high. Overlays of words that the last run recorded
    are removed: their numbers would not be this answer's. Any other file stays.
    """
    saved = explanation.save(folder / "explanation.safetensors")
    further = [name for each in formats for name in FURTHER[each]]
    for name in further:
        _WRITERS[name](explanation, folder / name)
    explanation = montage(explanation)
    words = explanation.words()
    progress("saving", 0, len(words))
    report = explanation.to_html(folder / "report.html", lang=lang)
    overlays = make_folder(folder / "overlays")
    names = [overlay_name(index, word.text) for index, word in enumerate(words)]
    earlier = {kind: found - {*names, *further} for kind, found in _recorded(folder).items()}
    # A run that ends here has left some of both.
    _record(folder, [*names, *earlier["overlays"]], [*further, *earlier["further"]])
    _write_png(explanation.overlay(), overlays / "answer.png")
    image, grid = fit(explanation.image, explanation.grid, WORD_PIXELS)
    for index, (name, word) in enumerate(zip(names, words)):
        _write_png(overlay(image, word.map, grid), overlays / name)
        progress("saving", index + 1, len(words))
    for name in earlier["overlays"]:
        _remove(overlays, name)
    for name in earlier["further"]:
        _remove(folder, name)
    _record(folder, names, further)
    return Written(report, overlays, 1 + len(names), saved, tuple(folder / name for name in further))


_WRITERS: dict[str, Callable[[Explanation, Path], Any]] = {
    "words.csv": lambda explanation, path: explanation.to_csv(path),
    "tokens.csv": lambda explanation, path: explanation.to_csv(path, rows="tokens"),
    "explanation.json": lambda explanation, path: explanation.to_json(path, maps="list"),
    "explanation.npz": lambda explanation, path: explanation.save(path),
}


def _record(folder: Path, overlays: list[str], further: list[str]) -> None:
    """Note what a later run may remove, for `_recorded`."""
    record = {"overlays": overlays, "further": further}
    write_atomically(folder / RECORD, json.dumps(record, indent=2).encode())


def _recorded(folder: Path) -> dict[str, set[str]]:
    """Names of the files that the last run wrote, overlays and further ones, if a run recorded any."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        overlays = {name for name in record["overlays"] if _WORD_OVERLAY.fullmatch(name)}
        return {"overlays": overlays, "further": {*record.get("further", ())} & _WRITERS.keys()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # no record, or somebody else's: nothing is ours
        return {"overlays": set(), "further": set()}


def _remove(folder: Path, name: str) -> None:
    """Remove one of ours; nothing through a link, nor a link that has taken its place."""
    path = folder / name
    if not folder.is_symlink() and not path.is_symlink() and path.is_file():
        path.unlink()


def overlay_name(index: int, word: str) -> str:
    """A file name for a word that any file system takes: `007-star.png`."""
    letters = re.sub(r"[\W_]+", "-", word.lower())[:32].strip("-")
    return f"{index:03d}-{letters or 'word'}.png"


def shown_path(path: Path) -> str:
    """For the standard output: as it is to a program, and with nothing that a terminal would obey to a terminal."""
    return printable(str(path)) if sys.stdout.isatty() else str(path)


def _write_png(image: Image.Image, path: Path) -> None:
    png = BytesIO()
    image.save(png, "PNG", compress_level=1)  # five times as fast as the default, for a fifth more bytes
    write_atomically(path, png.getvalue())
