"""Ops on the gradient of the attention probabilities, for image keys only. `reference` is the definition of each."""

from .dispatch import accumulate_maps, attention_columns, available_backends, head_scores, resolve_backend
from .keys import KeySets, causal_rows
from .reference import HeadScores, accumulator

__all__ = [
    "HeadScores",
    "KeySets",
    "accumulate_maps",
    "accumulator",
    "attention_columns",
    "available_backends",
    "causal_rows",
    "head_scores",
    "resolve_backend",
]
