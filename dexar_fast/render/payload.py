"""What the report's script reads: an Explanation as JSON values.

Maps go in as 256 steps (uint8, base64), enough for colour. Weights, ranges and scores go in exactly.
"""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..layout.grid import draw_box
from ..result.values import exact
from .drawing import for_script
from .fit import fit
from .heads_payload import heads_payload
from .overlay import check_size

if TYPE_CHECKING:
    from ..result.explanation import Explanation, Word

LONGEST_SIDE = 2048  # pixels; a larger image is shrunk for the report
_LOSSLESS_BYTES = 600_000  # a PNG up to this size is kept; above it a JPEG is far smaller
_JPEG_QUALITY = 90


def payload(explanation: Explanation) -> dict[str, Any]:
    """Everything the report shows, as JSON values.

    Args:
        explanation: T tokens on a grid of h x w cells.

    The maps of other methods are in ``beside``, a dict for each with ``method`` and what differs.

    Returns:
        A dict whose ``maps`` is base64 of ``(M, h, w)`` uint8: the maps of the T tokens (or of the targets, where there
        are any), the answer map, then those of words that are not just one token's. Every word names its map by index.

    Raises:
        InputError: a number is NaN or infinite, or the image has another size than the grid's.
    """
    return {
        **_of_method(explanation),
        "beside": [_of_method(explanation.of_method(method)) for method in explanation.beside],
        "prompt": explanation.prompt,
        "settings": explanation.settings,
        "layers": list(explanation.layers),
        "grid": {
            "rows": explanation.grid.rows,
            "cols": explanation.grid.cols,
            "box": draw_box(explanation.grid),
        },
        "image": _image(explanation),
        **for_script(),
    }


def _of_method(explanation: Explanation) -> dict[str, Any]:
    """What the method in front fills."""
    words, word_maps = _words(explanation) if explanation.targets is None else ([], [])
    maps = [*explanation.token_maps, explanation.answer_map, *word_maps]
    return {
        "method": explanation.method,
        "tokens": _tokens(explanation),
        "words": words,
        "targets": None if explanation.targets is None else _targets(explanation),
        "heads": heads_payload(explanation),
        "answerMap": len(explanation.token_maps),
        "maps": _base64(np.stack([quantised(one) for one in maps]).tobytes()),
    }


def to_script(values: dict[str, Any]) -> str:
    """JSON that can stand inside a script element: ASCII only, and no character that HTML could act on.

    Raises:
        InputError: a number is NaN or infinite, which JSON cannot say, or a setting is no JSON value.
    """
    try:
        text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise InputError(f"explanation: expected finite numbers and JSON settings ({error})") from error
    # ensure_ascii has already escaped U+2028 and U+2029.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def quantised(cell_map: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """``(h, w)`` in [0, 1] as 256 steps; the largest error is 1/510.

    Raises:
        InputError: a value is NaN or infinite.
    """
    values = np.asarray(cell_map, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("explanation: expected finite maps, got NaN or infinity")
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _tokens(explanation: Explanation) -> dict[str, list[Any] | None]:
    """Columns, one entry per token, or None; a score is ``[value, layer, head]`` at its maximum.

    Weight, range and scores have an entry per row of the explanation, which may be targets.
    """
    ranges, grounding = explanation.token_map_ranges, explanation.grounding
    return {
        "text": list(explanation.tokens),
        "id": [int(one) for one in explanation.token_ids],
        "weight": [exact(one) for one in explanation.token_weights],
        "low": [exact(one) for one in ranges[:, 0]],
        "high": [exact(one) for one in ranges[:, 1]],
        "grounding": None if grounding is None else [_short(one) for one in grounding],
        "foil": _foils(explanation),
        "imageScore": _maxima(explanation.image_scores, explanation.layers),
        "textScore": _maxima(explanation.text_scores, explanation.layers),
    }


def _foils(explanation: Explanation) -> list[str | None] | None:
    if explanation.foils is None:
        return None
    return [explanation.rather_than(i, i + 1) or None for i in range(len(explanation.tokens))]


def _maxima(scores: NDArray[np.floating[Any]], layers: tuple[int, ...]) -> list[list[float | int]]:
    """``(T, L, H)`` to T triples of largest score, its layer (as the model counts) and its head, from 0."""
    heads = scores.shape[2]
    result: list[list[float | int]] = []
    for of_token in scores.reshape(len(scores), -1):
        place = int(of_token.argmax())
        result.append([exact(of_token[place]), int(layers[place // heads]), place % heads])
    return result


def _words(explanation: Explanation) -> tuple[list[dict[str, Any]], list[NDArray[np.floating[Any]]]]:
    """Words, and the maps of those that are not one token's own."""
    words: list[dict[str, Any]] = []
    maps: list[NDArray[np.floating[Any]]] = []
    first = len(explanation.tokens) + 1  # after the token maps and the answer map
    for word in explanation.words():
        index = word.start
        alone = word.stop - word.start == 1
        if not (alone and _look_alike(word.map, explanation.token_maps[index])):
            index = first + len(maps)
            maps.append(word.map)
        words.append(_entry(explanation, word, index))
    return words, maps


def _targets(explanation: Explanation) -> list[dict[str, Any]]:
    """What each row of maps stands for."""
    entries = []
    for index, (target, word) in enumerate(zip(explanation.targets or (), explanation.words())):
        entry = _entry(explanation, word, index) | {
            "text": word.text,
            "weight": exact(explanation.token_weights[index]),
        }
        if target.probability is not None:
            entry["probability"] = _short(target.probability)
        entries.append(entry)
    return entries


def _entry(explanation: Explanation, word: Word, index: int) -> dict[str, Any]:
    """A word and the index of its map."""
    entry: dict[str, Any] = {"start": word.start, "stop": word.stop, "weight": exact(word.weight), "map": index}
    if word.grounding is not None:
        entry["grounding"] = _short(word.grounding)
    foil = explanation.rather_than(word.start, word.stop)
    return {**entry, "foil": foil} if foil else entry


def _short(share: float) -> float:
    """Six digits say all of a share that comes from probabilities in float32."""
    return float(f"{share:.6g}")


def _look_alike(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> bool:
    """Whether two maps differ by rounding only: at most one of the 256 steps."""
    return int(np.abs(quantised(one).astype(int) - quantised(other)).max()) <= 1


def _image(explanation: Explanation) -> dict[str, Any]:
    """Size, and the pixels as a data URI (None without an image)."""
    width, height = explanation.grid.image_size
    uri = None
    if explanation.image is not None:
        check_size(explanation.image, explanation.grid)
        small, _ = fit(explanation.image, explanation.grid, LONGEST_SIDE)
        uri = None if small is None else data_uri(small)
    return {"width": width, "height": height, "uri": uri}


def data_uri(image: Image.Image) -> str:
    """A PNG where that is small, else a JPEG without chroma subsampling."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= _LOSSLESS_BYTES:
        return "data:image/png;base64," + _base64(buffer.getvalue())
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + _base64(buffer.getvalue())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
