"""The whole way on an accelerator: maps of every attention implementation and dtype against float64 on the CPU.

``DEXAR_TEST_DEVICE`` names the device; without one the first GPU is taken, and the CPU where there is none.
"""

import importlib.util
import os

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dexar_fast import Explainer

from .tiny import tiny_answer, tiny_inputs, tiny_llava

DEVICE = os.environ.get("DEXAR_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.startswith("cuda")


def explain(dtype: torch.dtype, attention: str, device: str = DEVICE):
    model = tiny_llava(dtype=torch.float32, attention=attention).to(device, dtype)
    return Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(12))


@pytest.fixture(scope="module")
def exact():
    return Explainer(tiny_llava()).explain_ids(tiny_inputs(tiny_llava()), tiny_answer(12))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_float32_maps(exact, attention: str) -> None:
    explanation = explain(torch.float32, attention)
    # TF32 products, where a GPU uses them, keep three digits.
    np.testing.assert_allclose(explanation.token_maps, exact.token_maps, atol=1e-2 if ON_GPU else 1e-4)
    assert explanation.settings["device"].startswith(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_ranks_cells_alike(exact, attention: str, dtype: torch.dtype) -> None:
    explanation = explain(dtype, attention)
    assert spearmanr(explanation.token_maps.ravel(), exact.token_maps.ravel()).statistic > 0.99


@pytest.mark.skipif(not ON_GPU, reason="flash attention needs a GPU")
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="the package flash_attn is not installed")
def test_flash_attention(exact) -> None:
    explanation = explain(torch.bfloat16, "flash_attention_2")
    assert explanation.settings["attention"] == "flash_attention_2"
    assert spearmanr(explanation.token_maps.ravel(), exact.token_maps.ravel()).statistic > 0.99
