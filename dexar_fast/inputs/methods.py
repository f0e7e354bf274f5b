"""The names of the methods, and what each of our own reads off a key (``docs/method.md``, "Variants")."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """Signals of `dexar_fast.ops`: one for the head scores of Eq. 4, one for the maps of Eq. 5."""

    score_signal: str
    map_signal: str


METHODS = {
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
