"""Chats: a system prompt, several turns, images in any of them, as OpenAI's interface and transformers write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

Message = Mapping[str, Any]
Messages = Sequence[Message]

_FORMS = 'messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}]'
_IMAGES = ("image", "image_url", "input_image")
_TEXTS = ("text", "input_text", "output_text")
_PICTURE_KEYS = ("image", "image_url", "url", "path", "base64", "file_path")


@dataclass(frozen=True)
class Conversation:
    """Messages as a chat template takes them, ``{"type": "image"}`` wherever a picture stands.

    Attributes:
        messages: the last one is what the model answers to.
    """

    messages: tuple[dict[str, Any], ...]

    @property
    def n_images(self) -> int:
        """How many pictures the messages hold."""
        return sum(part["type"] == "image" for message in self.messages for part in _parts(message))

    @property
    def question(self) -> str:
        """The text of the last user's message: what people see as the prompt."""
        asked = next((m for m in reversed(self.messages) if m["role"] == "user"), self.messages[-1])
        content = asked.get("content") or ""
        if isinstance(content, str):
            return content
        return "\n".join(part["text"] for part in content if part["type"] == "text")


def read_messages(messages: Any, image: Any = None) -> tuple[Conversation, list[Any]]:
    """A conversation, and its pictures in their order, as they were given.

    Args:
        messages: roles with content, a text or a list of parts. A picture is ``{"type": "image"}`` with the picture
            itself under "image", "url", "path" or "base64", or ``{"type": "image_url", "image_url": {"url": ...}}``.
            Other keys (names, tool calls) are handed to the chat template.
        image: the pictures for parts that hold none, in their order.

    Raises:
        InputError: not messages, an unknown part, more or fewer pictures than parts that hold none, or nothing for the
            model to answer.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError(f"messages: expected a list such as {_FORMS}; got {_kind(messages)}")
    waiting = list(image) if isinstance(image, list | tuple) else [] if image is None else [image]
    n_given = len(waiting)
    read, pictures, n_places = [], [], 0
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"messages: expected messages with a role; number {index} is {_kind(message)}")
        content = message.get("content")
        if content is None or isinstance(content, str):
            read.append(dict(message))
            continue
        if not isinstance(content, Sequence):
            raise InputError(
                f"messages: expected text or a list of parts as content of message {index}; got {_kind(content)}"
            )
        parts: list[dict[str, Any]] = []
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in _TEXTS and isinstance(part.get("text"), str):
                parts.append({**part, "type": "text"})
            elif kind in _IMAGES:
                picture = _picture(part)
                if picture is None:
                    n_places += 1
                    picture = waiting.pop(0) if waiting else None
                pictures.append(picture)
                parts.append({"type": "image"})
            else:
                raise InputError(
                    f"messages: expected parts of type text, image or image_url; message {index} holds "
                    f"{kind if isinstance(kind, str) else _kind(part)!r}. Videos are explained by explain_ids()."
                )
        read.append({**message, "content": parts})
    if n_places != n_given:
        raise InputError(
            f"image: expected {n_places}, one for each image part of messages that holds none; got {n_given}"
        )
    if read[-1]["role"] == "assistant":
        raise InputError(
            "messages: expected to end with what the model answers; the last message is the assistant's. Take it out, "
            "and pass its text as answer=."
        )
    return Conversation(tuple(read)), pictures


def check_prompt_or_messages(prompt: Any, messages: Any) -> None:
    """Refuse both, neither, and a chat in the place of a prompt.

    Raises:
        InputError: says so.
    """
    if isinstance(prompt, list | tuple) and any(isinstance(message, Mapping) for message in prompt):
        raise InputError("prompt: expected text; got a list of messages. Pass it as messages=.")
    if (prompt is None) == (messages is None):
        got = "neither" if prompt is None else "both"
        raise InputError(f"prompt: expected a prompt or messages=, which of them the model answers; got {got}")


def _parts(message: Message) -> Sequence[Message]:
    content = message.get("content")
    return () if content is None or isinstance(content, str) else content


def _picture(part: Message) -> Any:
    """The picture that a part holds, or None."""
    for key in _PICTURE_KEYS:
        found = part.get(key)
        if isinstance(found, Mapping):  # {"image_url": {"url": ...}}
            found = found.get("url")
        if found is None:
            continue
        if key == "base64" and isinstance(found, str) and not found.startswith("data:"):
            return f"data:image/*;base64,{found}"
        return found
    return None


def _kind(value: Any) -> str:
    """What it is, never what is in it."""
    return "an empty list" if isinstance(value, list) and not value else type(value).__name__
