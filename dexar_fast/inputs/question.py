"""What a call asks: its pictures, and a prompt or a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from .images import ImageInput
from .messages import Messages, check_prompt_or_messages, read_messages
from .options import Options
from .prompts import Prompt

if TYPE_CHECKING:
    from PIL import Image


def read_question(
    options: Options,
    image: ImageInput | Sequence[ImageInput] | None,
    prompt: str | None,
    messages: Messages | None,
) -> tuple[list[Image.Image], Prompt]:
    """The pictures, read, and the prompt or the conversation that they belong to.

    Raises:
        InputError: not one of prompt and messages, no picture, or one that cannot be read.
    """
    check_prompt_or_messages(prompt, messages)
    if prompt is not None:
        return options.pictures(image), prompt  # type: ignore[arg-type]  # None is no picture, and is told so
    conversation, given = read_messages(messages, image)
    if not given:
        raise InputError(
            "messages: expected an image in at least one of them; got text alone. An explanation shows which part of "
            "an image an answer rests on."
        )
    return options.pictures(given), conversation
