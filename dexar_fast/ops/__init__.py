"""Ops on the gradient of the attention probabilities, for image keys only. `reference` is the definition of each.

Import them from here, not from the package's files.
"""

from .api import (
    accumulate_maps,
    attention_columns,
    attention_lse,
    head_scores,
    score_and_accumulate,
    score_and_accumulate_all,
)
from .backends import available_backends, check_backend, missing_backends, resolve_backend
from .keys import KeySets, causal_rows
from .reference import accumulator
from .signals import SIGNALS, Attention, HeadScores, MapSums

__all__ = [
    "SIGNALS",
    "Attention",
    "HeadScores",
    "KeySets",
    "MapSums",
    "accumulate_maps",
    "accumulator",
    "attention_columns",
    "attention_lse",
    "available_backends",
    "causal_rows",
    "check_backend",
    "head_scores",
    "missing_backends",
    "resolve_backend",
    "score_and_accumulate",
    "score_and_accumulate_all",
]
