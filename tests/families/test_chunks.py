"""Attention within chunks: declared it is exact (Llama 4 in the table), left out it is caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dexar_fast import SelfCheckError, UnsupportedModelError
from dexar_fast.models.decoder import Decoder
from dexar_fast.ops import causal_rows

from .case import all_cases, answer
from .test_families import encode, explainer_of, run

needs_llama4 = pytest.mark.skipif(not all_cases()["llama4"].available, reason=all_cases()["llama4"].unavailable)


def test_a_row_sees_its_chunk() -> None:
    positions = torch.tensor([0, 3, 4, 9])
    assert causal_rows(positions, chunk=4).tolist() == [[0, 1], [0, 4], [4, 5], [8, 10]]
    assert causal_rows(positions, window=2, chunk=4).tolist() == [[0, 1], [2, 4], [4, 5], [8, 10]]


@needs_llama4
def test_chunks_left_out_are_caught() -> None:
    case = all_cases()["llama4"]
    explainer = explainer_of(case)
    inputs, _ = encode(explainer, case, "image first")
    explainer.decoder = Decoder(explainer.model, replace(explainer.family, chunk_size=None))
    with pytest.raises(SelfCheckError, match="family 'llama4': the attention output of layer 0 differs"):
        run(explainer, inputs, answer(3))


def test_misspelt_chunk_size_is_named() -> None:
    explainer = explainer_of(all_cases()["llama4"])
    with pytest.raises(UnsupportedModelError, match=r"declares chunk_size 'chunk'; Llama4Config has no such attribute"):
        Decoder(explainer.model, replace(explainer.family, chunk_size="chunk"))
