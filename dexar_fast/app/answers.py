"""A question of the app's user, and the answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from ..errors import InputError
from ..explainer import Explainer
from ..inputs.methods import METHODS
from ..result.explanation import Explanation
from ..runs.stream import StreamedToken

Turns = Sequence[tuple[str, str]]
"""Questions with their answers."""


def answers(
    explainer: Explainer,
    picture: Image.Image | None,
    turns: Turns,
    prompt: str,
    *,
    methods: Sequence[str],
    contrast: str,
    max_new_tokens: int,
) -> Iterator[StreamedToken | Explanation]:
    """Tokens as the model writes them, then the explanation; that alone where a choice needs the whole answer.

    Args:
        picture: what is asked about.
        turns: what was said before.
        methods: the first is shown first; empty for the default.
        contrast: explain each word rather than this one; empty for no contrast.

    Raises:
        InputError: no picture, or as `Explainer.explain` and `Explainer.stream`.
    """
    if picture is None:
        raise InputError("image: expected a picture; choose one, or draw a scene")
    asked: dict[str, Any] = {
        "image": picture,
        "method": list(methods) or None,
        "grounding": True,
        "max_new_tokens": max_new_tokens,
        **({"messages": chat(turns, prompt)} if turns else {"prompt": prompt}),
    }
    own = all(method in METHODS for method in methods)
    if contrast.strip() or not own or explainer.family.rows != "cached":
        yield explainer.explain(contrast=contrast.strip() or None, **asked)
        return
    with explainer.stream(block=1, **asked) as stream:
        yield from stream
        assert stream.explanation is not None
        yield stream.explanation


def chat(turns: Turns, prompt: str) -> list[dict[str, Any]]:
    """Messages with the picture in the first of them."""
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        messages += [_asked(question), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    messages.append(_asked(prompt))
    messages[0]["content"].insert(0, {"type": "image"})
    return messages


def _asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}
