"""Explanations and tokens as the JSON that clients get."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..result.explanation import Explanation
from ..result.rows import map_values
from ..runs.stream import StreamedToken

_SHARED = "prompt", "model", "answer", "methods", "layers", "grids", "settings"


def answer_json(explanation: Explanation, maps: str | None) -> bytes:
    """`Explanation.to_dict`, and under ``beside`` what differs of each other method.

    Raises:
        InputError: a number is NaN or infinite.
    """
    answer = explanation.to_dict(maps=maps)
    answer["beside"] = [_without_shared(explanation.of_method(name).to_dict(maps=maps)) for name in explanation.beside]
    return _json(answer)


def token_json(token: StreamedToken, maps: str | None) -> bytes:
    """The token, its numbers and, unless ``maps`` is None, its maps; of other methods by name under ``beside``."""
    answer: dict[str, Any] = {
        "index": token.index,
        "text": token.token,
        "token_id": token.token_id,
        "weight": token.token_weight,
        "grounding": token.grounding,
    }
    if maps is not None:
        answer["maps"] = map_values(token.token_map, maps)
        answer["grids"] = [asdict(grid) for grid in token.grids]
        answer["beside"] = {name: map_values(of_method, maps) for name, of_method in token.beside.items()}
    return _json(answer)


def error_json(error: Exception) -> bytes:
    """``{"error": {"type": ..., "message": ...}}``."""
    return _json({"error": {"type": type(error).__name__, "message": str(error)}})


def _without_shared(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in _SHARED}


def _json(values: Any) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode("ascii")
