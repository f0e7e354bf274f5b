"""What a saved explanation holds: every field checked, its type, its size, and its shape against the others'.

A file may come from anywhere: cut off, changed by a bit, or made to harm. What passes here can be used everywhere; what
does not raises `Damaged`. Each function is named after what it takes out of the header.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..inputs.targets import Foil, Target
from ..layout.grid import Grid

MOST_PIXELS = 178_956_970
"""Of one picture; Pillow itself opens none that has more."""
MOST_CELLS = 2**24
MOST_NESTED = 100
"""Lists and objects within each other in the settings."""
_LARGEST = 2**31 - 1  # of any index, id or side in pixels
_BEYOND_ONE = 1e-3  # maps are in [0, 1], kept as float16

Arrays = Mapping[str, NDArray[Any]]


class Damaged(ValueError):
    """Something is not as it was written; the message says what, and what was expected."""


def parse(text: str) -> dict[str, Any]:
    """The header from its JSON.

    Raises:
        Damaged: it is no JSON object.
    """
    try:
        header = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise Damaged(f"expected an object as header; got {type(header).__name__}")
    return header


def tokens(header: Mapping[str, Any]) -> list[str]:
    found = _sequence(header, "tokens")
    for token in found:
        _text("tokens", token)
    return found


def layers(header: Mapping[str, Any]) -> tuple[int, ...]:
    found = tuple(_whole("layers", layer) for layer in _sequence(header, "layers"))
    if len(set(found)) < len(found):
        raise Damaged(f"expected every layer once; got {found}")
    return found


def settings(header: Mapping[str, Any]) -> dict[str, Any]:
    found = header.get("settings")
    if not isinstance(found, dict):
        raise Damaged(f"expected an object in settings; got {type(found).__name__}")
    todo: list[tuple[Any, int]] = [(found, 1)]
    while todo:
        value, depth = todo.pop()
        if depth > MOST_NESTED:
            raise Damaged(f"expected settings nested at most {MOST_NESTED} deep")
        if isinstance(value, dict):
            todo += [(each, depth + 1) for each in (*value, *value.values())]
        elif isinstance(value, list):
            todo += [(each, depth + 1) for each in value]
        elif isinstance(value, str):
            _text("settings", value)
    for name in ("prompt", "method", "family", "model"):
        if found.get(name) is not None:
            _text(f"settings.{name}", found[name])
    return found


def grids(header: Mapping[str, Any]) -> list[Grid]:
    return [_grid(grid) for grid in _sequence(header, "grids", least=0)]


def targets(header: Mapping[str, Any], n_tokens: int) -> tuple[Target, ...] | None:
    if header.get("targets") is None:
        return None
    found = []
    for fields in _sequence(header, "targets"):
        _keys("targets", fields, ("text", "start", "stop", "token_id", "probability"))
        start, stop = (_whole(f"targets.{name}", fields[name], most=n_tokens) for name in ("start", "stop"))
        if start >= stop:
            raise Damaged(f"expected a target with tokens; got {start} to {stop}")
        token_id, probability = fields["token_id"], fields["probability"]
        if token_id is not None:
            _whole("targets.token_id", token_id)
        if probability is not None and not 0 <= _number("targets.probability", probability) <= 1:
            raise Damaged(f"expected a probability in targets; got {probability!r}")
        found.append(Target(_text("targets.text", fields["text"]), start, stop, token_id, probability))
    return tuple(found)


def foils(header: Mapping[str, Any], n_tokens: int) -> tuple[Foil | None, ...] | None:
    if header.get("foils") is None:
        return None
    found: list[Foil | None] = []
    for fields in _sequence(header, "foils"):
        if fields is None:
            found.append(None)
            continue
        _keys("foils", fields, ("token_id", "text"))
        found.append(Foil(_whole("foils.token_id", fields["token_id"]), _text("foils.text", fields["text"])))
    if len(found) != n_tokens:
        raise Damaged(f"expected {n_tokens} foils, one for each token; got {len(found)}")
    return tuple(found)


def methods(header: Mapping[str, Any]) -> list[Any]:
    """Names of the methods whose maps are there; before format version 3 there was one, in the settings."""
    if "methods" not in header:
        return [settings(header).get("method")]
    found = _sequence(header, "methods")
    if len({_text("methods", name) for name in found}) < len(found):
        raise Damaged(f"expected every method once; got {found}")
    return found


def check_tokens(arrays: Arrays, n_tokens: int) -> None:
    """Check what there is for each of T tokens, whatever the rows are.

    Raises:
        Damaged: an array is missing, or of another type or shape, or not finite.
    """
    ids = arrays.get("token_ids")
    if ids is None:
        raise Damaged("it lacks token_ids")
    if ids.dtype.kind not in "iu" or ids.shape != (n_tokens,) or (ids < 0).any() or (ids > _LARGEST).any():
        raise Damaged(f"expected token_ids of {n_tokens} integers from 0 on; got {ids.dtype} {ids.shape}")
    if "log_probabilities" in arrays:
        check_floats(arrays, "log_probabilities", (n_tokens, 2), most=_BEYOND_ONE)


def check_scores(scores: Mapping[str, NDArray[Any] | None], n_rows: int, n_layers: int) -> None:
    """Check a method's arrays that are none of an image.

    Args:
        scores: by name, None where it is missing.
        n_rows, n_layers: number of targets (or T), and L.

    Raises:
        Damaged: as for `check_tokens`.
    """
    check_floats(scores, "token_weights", (n_rows,))
    check_floats(scores, "token_map_ranges", (n_rows, 2))
    image_scores = scores.get("image_scores")
    n_heads = image_scores.shape[-1] if image_scores is not None and image_scores.ndim == 3 else 1
    for name in ("image_scores", "text_scores"):
        check_floats(scores, name, (n_rows, n_layers, max(1, n_heads)))


def check_maps(maps: Mapping[str, Sequence[NDArray[Any]] | None], placed: Sequence[Grid], n_rows: int) -> None:
    """Check the maps of every image.

    Args:
        maps: for each kind its arrays, one an image; None where there are none.
        placed: the grids; without any, all maps are over the same number of queries.
        n_rows: as for `check_scores`.

    Raises:
        Damaged: as there, or a value outside [0, 1].
    """
    unfiltered = [maps["unfiltered_token_maps"] is None, maps["unfiltered_answer_map"] is None]
    if any(unfiltered) and not all(unfiltered):
        raise Damaged("expected both unfiltered maps or neither; got one of them")
    shapes: list[tuple[int, ...]] = [(grid.rows, grid.cols) for grid in placed]
    if not placed:
        n_queries = np.size((maps["answer_map"] or [np.zeros(1)])[0])
        shapes = [(n_queries,)]
    for name, of_images in maps.items():
        if of_images is None and name.startswith("unfiltered"):
            continue
        if of_images is None or len(of_images) != len(shapes):
            raise Damaged(f"expected {len(shapes)} {name}, one for each grid; got {len(of_images or ())}")
        for values, shape in zip(of_images, shapes):
            whole = shape if name.endswith("answer_map") else (n_rows, *shape)
            check_floats({name: values}, name, whole, least=-_BEYOND_ONE, most=1 + _BEYOND_ONE)


def check_floats(
    arrays: Mapping[str, NDArray[Any] | None],
    name: str,
    shape: tuple[int, ...],
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Refuse what is no array of this shape, of finite numbers within these limits."""
    values = arrays.get(name)
    if values is None:
        raise Damaged(f"it lacks {name}")
    if values.dtype.kind != "f" or values.shape != shape or 0 in shape:
        raise Damaged(f"expected floating point {name} of shape {shape}; got {values.dtype} {values.shape}")
    if not np.isfinite(values).all() or values.min() < least or values.max() > most:
        raise Damaged(f"expected finite {name} from {least:g} to {most:g}")


def picture(png: NDArray[Any], size: tuple[int, int] | None) -> Image.Image:
    """One of the pictures, RGB.

    Args:
        png: bytes of a PNG file; no other format is read.
        size: ``(width, height)`` that its grid says, or None.

    Raises:
        Damaged: it is none, cut off, too large, or of another size.
    """
    if png.dtype != np.uint8 or png.ndim != 1:
        raise Damaged(f"expected the bytes of a PNG file in image_png; got {png.dtype} {png.shape}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            with Image.open(BytesIO(png.tobytes()), formats=("PNG",)) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise Damaged(f"expected a picture of at most {MOST_PIXELS} pixels; got {opened.size}")
                if size is not None and opened.size != size:
                    raise Damaged(f"expected a picture of {size} pixels, as its grid says; got {opened.size}")
                return opened.convert("RGB")
    except Damaged:
        raise
    except Exception as error:  # Pillow raises what its parsers come across
        raise Damaged(f"image_png is not a readable PNG file ({error})") from error


def _grid(fields: Any) -> Grid:
    _keys("grids", fields, ("rows", "cols", "box", "image_size"))
    rows, cols = (_whole(f"grids.{name}", fields[name], least=1) for name in ("rows", "cols"))
    box = [_number("grids.box", edge) for edge in _sequence(fields, "box", least=4, most=4)]
    width, height = (_whole("grids.image_size", side, least=1) for side in _sequence(fields, "image_size", 2, 2))
    if rows * cols > MOST_CELLS or width * height > MOST_PIXELS:
        raise Damaged(
            f"expected a grid of at most {MOST_CELLS} cells on at most {MOST_PIXELS} pixels; got {rows} x {cols} on "
            f"{width} x {height}"
        )
    if not (-_LARGEST <= box[0] < box[2] <= _LARGEST and -_LARGEST <= box[1] < box[3] <= _LARGEST):
        raise Damaged(f"expected a box (left, top, right, bottom) in pixels; got {box}")
    return Grid(rows, cols, (box[0], box[1], box[2], box[3]), (width, height))


def _sequence(fields: Mapping[str, Any], name: str, least: int = 1, most: int = _LARGEST) -> list[Any]:
    found = fields.get(name)
    if not isinstance(found, list) or not least <= len(found) <= most:
        raise Damaged(f"expected a list in {name}; got {type(found).__name__} {str(found)[:40]}")
    return found


def _keys(name: str, fields: Any, expected: Sequence[str]) -> None:
    if not isinstance(fields, dict) or sorted(fields) != sorted(expected):
        raise Damaged(f"expected {', '.join(expected)} in {name}; got {str(fields)[:80]}")


def _whole(name: str, value: Any, least: int = 0, most: int = _LARGEST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Damaged(f"expected a whole number from {least} to {most} in {name}; got {str(value)[:40]}")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        raise Damaged(f"expected a number in {name}; got {str(value)[:40]}")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Damaged(f"expected text in {name}; got {type(value).__name__}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
