"""The names of the methods, and what each of our own reads off a key (``docs/method.md``, "Variants")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError

MethodSelection = str | Sequence[str] | None


@dataclass(frozen=True)
class Method:
    """Signals of `dexar_fast.ops`: one for the head scores of Eq. 4, which weigh the maps of Eq. 5, and theirs.

    `filters_heads`: weights are ``relu(S_img - S_text)``; else they are ``S_img``, and there is no text set.
    `beside`: another such pair that the method takes from the same products, of values less their mean; an explanation
    keeps its head scores.
    """

    score_signal: str
    map_signal: str
    filters_heads: bool = True
    beside: tuple[str, str] | None = None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Of scores and of maps, all that one call of the ops takes."""
        own = (self.score_signal, self.map_signal)
        return (own,) if self.beside is None else (own, self.beside)


FOCUS = "dexar-focus"

METHODS = {
    FOCUS: Method("score_gradient", "contribution", filters_heads=False, beside=("contribution", "attention")),
    "dexar": Method("gradient", "gradient"),
    "dexar-scores": Method("score_gradient", "score_gradient"),
    "dexar-contribution": Method("contribution", "contribution"),
    "dexar-attention": Method("score_gradient", "attention"),
}

COMPARISONS = (
    "attention",
    "attention-contrast",
    "attention-gradient",
    "dexar-unfiltered",
    "gradient-input",
    "grad-cam",
    "tam",
    "occlusion",
    "random",
    "uniform",
    "centre",
)
"""Methods to compare with; `dexar_fast.methods.comparisons` computes them."""

SLOW = ("gradient-input", "grad-cam", "occlusion")
"""Methods whose cost grows: a backward pass for every answer token, or a forward pass for every cell."""

DEFAULT = (FOCUS, "dexar")
"""Without ``method=``: the map of a word that points best, and the published one beside it."""

MEANINGS = {
    FOCUS: "what the model looked at for this word, and what that did",
    "dexar": "what would have moved this word, as published",
}
"""One plain phrase for each method of `DEFAULT`."""


def check_methods(method: MethodSelection, default: Sequence[str]) -> tuple[str, ...]:
    """The methods of one run, the first of which is shown first.

    Args:
        method: a name, several, or None for the default.

    Raises:
        InputError: an unknown name, none at all, or one twice.
    """
    names = tuple(default) if method is None else (method,) if isinstance(method, str) else tuple(method)
    known = (*METHODS, *COMPARISONS)
    for name in names:
        if name not in known:
            raise InputError(f"method: expected one of {', '.join(known)}, or a list of these; got {name!r}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"method: expected one method, or several, each once; got {list(names)}")
    return names
