"""The explanation methods: what each reads off a key (``docs/method.md``, "Variants")."""

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
