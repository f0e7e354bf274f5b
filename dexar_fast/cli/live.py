"""The answer in the terminal while the model writes it, every token in the colour of its grounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.text import Text

from ..errors import InputError
from ..inputs.tokens import printable

if TYPE_CHECKING:
    from ..result.explanation import Explanation
    from ..runs.answer_stream import AnswerStream
    from ..runs.stream import StreamedToken

# Weak and strong backgrounds, under white letters: legible on dark and on light terminals, and apart for all eyes.
_LETTERS = (255, 255, 255)
_AGAINST = (112, 92, 80), (196, 78, 0)
_SUPPORTED = (84, 100, 116), (0, 104, 204)
_PLAIN_BELOW = 0.1  # the image hardly matters


def check_live(
    answer: str | None,
    normalization: str,
    text_set: str,
    targets: str,
    contrast: str | None,
    only: str | None,
    *,
    quiet: bool,
) -> None:
    """Refuse options that have no meaning while an answer is being written.

    Raises:
        InputError: names the option.
    """
    if answer is not None:
        raise InputError("--live: shows the answer as the model writes it; got --answer, with nothing left to write")
    if normalization != "paper":
        raise InputError(f"--live: expected --normalization paper; got {normalization}, which needs the whole answer")
    if text_set == "content_only":
        raise InputError("--live: expected another --text-set; got content_only, which needs the whole answer")
    if only is not None:
        raise InputError(f"--live: explains the answer from its beginning; got --only {only}. Leave one of them out.")
    if targets != "tokens" or contrast is not None:
        option = f"--targets {targets}" if contrast is None else "--contrast"
        raise InputError(f"--live: explains token by token; got {option}. Leave one of them out.")
    if quiet:
        raise InputError("--live: shows the answer; got --quiet, which shows nothing. Leave one of them out.")


def show_live(stream: AnswerStream, console: Console) -> Explanation:
    """Print every token as it comes, and never again: a terminal that scrolls and a pipe are served alike.

    Colours need a terminal; elsewhere, and with NO_COLOR, it is the text alone. What goes wrong, and Ctrl-C, ends the
    stream and its thread before it is raised here.

    Args:
        stream: with grounding.
        console: of the standard output.

    Returns:
        The explanation of the whole answer.
    """
    if console.color_system is not None and not console.no_color:
        console.print(legend(), soft_wrap=True)
        console.print()
    begun = False
    try:
        with stream:
            for token in stream:
                text = coloured(token)
                text = text if begun else text[len(text.plain) - len(text.plain.lstrip()) :]
                begun = begun or bool(text)
                console.print(text, end="", soft_wrap=True)
    finally:
        if begun:
            console.print()
    assert stream.explanation is not None
    return stream.explanation


def coloured(token: StreamedToken) -> Text:
    """A token of a stream with grounding, in its colour; the space before it stays plain."""
    assert token.grounding is not None
    text = printable(token.token.replace("\t", "    "), running=True)
    core = text.lstrip(" ")
    return Text.assemble(" " * (len(text) - len(core)), (core, grounding_style(token.grounding)))


def grounding_style(grounding: float) -> Style:
    """Blue where the image supports a token (to 1), orange where it speaks against it (to 0), plain around 0.5."""
    strength = abs(2 * grounding - 1)
    if strength < _PLAIN_BELOW:
        return Style()
    weak, strong = _SUPPORTED if grounding > 0.5 else _AGAINST
    background = [round(a + strength * (b - a)) for a, b in zip(weak, strong, strict=True)]
    return Style(color=_hex(_LETTERS), bgcolor=_hex(background))


def legend() -> Text:
    """What the colours mean."""
    steps = 10
    scale = [(" ", grounding_style((step + 0.5) / steps)) for step in range(steps)]
    return Text.assemble("against the image ", *scale, " rests on the image (unshaded: the same without it)")


def _hex(rgb: tuple[int, ...] | list[int]) -> str:
    return "#" + bytes(rgb).hex()
