"""An explanation as rows, one per word (or target) or one per token, and as JSON values."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..layout.per_image import as_tuple, one_or_tuple
from .values import Floats
from .word import Word

if TYPE_CHECKING:
    from .explanation import Explanation

ROWS = "words", "tokens"
MAP_FORMS = "list", "png"


def table(explanation: Explanation, rows: str = "words") -> list[dict[str, Any]]:
    """One dict for each of `words()` (the targets, where there are any), or for each token.

    Both have ``grounding`` (None if it was not asked for), ``place``, ``peak`` and ``box``, where the map is strongest,
    in words, as ``(x, y)`` and as ``(left, top, right, bottom)`` in pixels, and ``image``, the index of the image that
    they are on (None where there is no 2-D map); ``weight``, with which the row enters the answer map, which does not
    tell whether a word rests on the image; ``rather_than``, the foils (None without). Words also have ``word``,
    ``start`` and ``stop`` (its tokens), and ``probability`` (of an alternative, else None); tokens ``token``,
    ``token_id``, ``word`` (its index, or None), ``log_probability`` and ``log_probability_blank``, with the image and
    with a blank one (None without grounding). Tokens have no place and no weight where the rows are targets.

    Args:
        rows: "words" or "tokens".

    Raises:
        InputError: neither.
    """
    if rows not in ROWS:
        raise InputError(f"rows: expected one of {', '.join(ROWS)}; got {rows!r}")
    if rows == "words":
        return _words(explanation, explanation.words())
    return _tokens(explanation, _token_words(explanation))


def to_dict(explanation: Explanation, *, maps: str | None = None) -> dict[str, Any]:
    """What came out, as JSON values, of the method in front; `of_method` takes another one there.

    `save` and `load` keep more: the scores of all heads, the picture, the other methods.

    Args:
        maps: None leaves the maps out; "list" gives nested lists of numbers in [0, 1], rounded to 4 decimals; "png"
            gives base64 of grey PNG files with a pixel for each cell, 255 for 1.

    Returns:
        ``answer``, ``prompt``, ``model``, ``method``, ``methods``, ``layers``, ``grids`` (one for each image: rows,
        cols, box, image_size), ``settings``; ``words`` and ``tokens``, the rows of `to_table` with ``text`` for the
        word or token. With maps also ``answer_maps``, and ``maps`` of every row, lists with one for each image (None
        for tokens where the rows are targets).

    Raises:
        InputError: ``maps`` is none of these.
    """
    if maps is not None and maps not in MAP_FORMS:
        raise InputError(f"maps: expected None or one of {', '.join(MAP_FORMS)}; got {maps!r}")
    words, tokens = explanation.words(), _token_words(explanation)
    result: dict[str, Any] = {
        "answer": explanation.answer,
        "prompt": explanation.prompt,
        "model": explanation.settings.get("model"),
        "method": explanation.method,
        "methods": explanation.methods,
        "layers": explanation.layers,
        "grids": [asdict(grid) for grid in explanation.grids],
        "words": [{"text": row.pop("word"), **row} for row in _words(explanation, words)],
        "tokens": [{"text": row.pop("token"), **row} for row in _tokens(explanation, tokens)],
        "settings": explanation.settings,
    }
    if maps is not None:
        result["answer_maps"] = map_values(explanation.answer_map, maps)
        for row, word in zip([*result["words"], *result["tokens"]], [*words, *tokens]):
            row["maps"] = None if word.map is None else map_values(word.map, maps)
    return _json_values(result)


def _words(explanation: Explanation, words: Sequence[Word]) -> list[dict[str, Any]]:
    targets = explanation.targets
    return [
        {
            "word": word.text,
            "start": word.start,
            "stop": word.stop,
            **_seen_in(word),
            "rather_than": explanation.rather_than(word.start, word.stop) or None,
            "probability": None if targets is None else targets[index].probability,
        }
        for index, word in enumerate(words)
    ]


def _tokens(explanation: Explanation, tokens: Sequence[Word]) -> list[dict[str, Any]]:
    in_word = {token: index for index, word in enumerate(explanation.words()) for token in range(word.start, word.stop)}
    log_p = explanation.log_probabilities
    return [
        {
            "token": token.text,
            "token_id": int(explanation.token_ids[index]),
            "word": in_word.get(index),
            **_seen_in(token),
            "rather_than": explanation.rather_than(index, index + 1) or None,
            "log_probability": None if log_p is None else float(log_p[index, 0]),
            "log_probability_blank": None if log_p is None else float(log_p[index, 1]),
        }
        for index, token in enumerate(tokens)
    ]


def _token_words(explanation: Explanation) -> list[Word]:
    """Each token as if it were a word; without map and weight where the rows are targets."""
    grounding, targets = explanation.grounding, explanation.targets
    words: list[Word] = []
    nothing: Any = None
    for index, text in enumerate(explanation.tokens):
        supported = None if grounding is None else float(grounding[index])
        if targets is not None:
            words.append(Word(text, index, index + 1, nothing, nothing, supported))
            continue
        own = one_or_tuple([of_image[index] for of_image in as_tuple(explanation.token_maps)])
        weight = float(explanation.token_weights[index])
        words.append(Word(text, index, index + 1, own, weight, supported, explanation.grids))
    return words


def _seen_in(word: Word) -> dict[str, Any]:
    """What words and tokens have in common."""
    placed = bool(word.grids)
    return {
        "grounding": word.grounding,
        "weight": word.weight,
        "place": word.place if placed else None,
        "peak": word.peak if placed else None,
        "box": word.box() if placed else None,
        "image": word.image if placed else None,
    }


def map_values(maps: Any, form: str) -> list[Any]:
    """The map of each image as `to_dict` gives it.

    Args:
        maps: ``(h, w)`` in [0, 1]; of several images a tuple.
        form: "list" or "png".
    """
    return [(_as_list if form == "list" else _as_png)(of_image) for of_image in as_tuple(maps)]


def _as_list(cell_map: Floats) -> list[Any]:
    rounded: list[Any] = np.round(cell_map.astype(np.float64), 4).tolist()
    return rounded


def _as_png(cell_map: Floats) -> str:
    png = BytesIO()
    steps = np.rint(np.atleast_2d(cell_map).clip(0, 1) * 255).astype(np.uint8)
    Image.fromarray(steps).save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode("ascii")


def _json_values(value: Any) -> Any:
    """With lists for tuples, as JSON reads them back."""
    if isinstance(value, dict):
        return {key: _json_values(each) for key, each in value.items()}
    return [_json_values(each) for each in value] if isinstance(value, list | tuple) else value
