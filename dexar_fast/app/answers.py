"""A question of the app's user, and the answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image

from ..demo import MODELS
from ..errors import InputError
from ..explainer import Explainer
from ..inputs.methods import METHODS
from ..result.explanation import Explanation
from ..runs.stream import StreamedToken

Turns = Sequence[tuple[str, str]]
"""Questions with their answers."""


class Stopped(Exception):
    """Nobody wants the answer any more, and there is nothing of it to show."""


def takes_chats(explainer: Explainer) -> bool:
    """Whether a question may go on from the one before.

    It needs a chat template; and the embedded models, which have one, were trained on one question at a time.
    """
    return bool(getattr(explainer.processor, "chat_template", None)) and explainer.model_name not in MODELS


def first_question(explainer: Explainer) -> str:
    """To begin with; empty for a model that takes a picture and no words."""
    return "describe the image" if explainer.family.prompt_needed else ""


def _never() -> bool:
    return False


def answers(
    explainer: Explainer,
    picture: Image.Image | None,
    turns: Turns,
    prompt: str,
    *,
    methods: Sequence[str],
    contrast: str,
    max_new_tokens: int,
    stopped: Callable[[], bool] = _never,
) -> Iterator[StreamedToken | Explanation]:
    """Tokens as the model writes them, then the explanation; that alone where a choice needs the whole answer.

    An answer that is stopped ends with the token that was being written, and is explained so far.

    Args:
        picture: what is asked about.
        turns: what was said before.
        methods: the first is shown first; empty for the default.
        contrast: explain each word rather than this one; empty for no contrast.
        max_new_tokens: of the answer, at most.
        stopped: asked again and again meanwhile.

    Raises:
        Stopped: before there was anything to explain.
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

        def heed(*progress: object) -> None:
            if stopped():
                raise Stopped

        yield explainer.explain(contrast=contrast.strip() or None, progress=heed, **asked)
        return
    written = 0
    with explainer.stream(block=1, **asked) as stream:
        for token in stream:
            written += 1
            yield token
            if stopped():
                break
        else:
            assert stream.explanation is not None
            yield stream.explanation
            return
    yield explainer.explain(**{**asked, "max_new_tokens": written})  # greedy: the same tokens


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
