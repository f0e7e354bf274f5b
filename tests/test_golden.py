"""`compat.DexarWrapper` gives the released code's outputs."""

import pytest
import torch

from dexar_fast.compat import DexarWrapper

from .golden_files import load_golden

OUTPUTS = (
    "per_token_heatmaps",
    "per_token_heatmaps_unfiltered",
    "token_weights",
    "sentence_heatmap",
    "sentence_heatmap_unfiltered",
)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 5e-6), (torch.float32, 2e-4)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("name", ["llava_all", "bakllava_last2"])
def test_released_outputs(name: str, dtype: torch.dtype, tolerance: float, attention: str) -> None:
    golden = load_golden(name, dtype, attention)
    wrapper = DexarWrapper(golden.model, None, layer_index=golden.case["layer_index"])
    result = wrapper.compute_dexar_ids(golden.inputs, golden.target_ids)
    for output in OUTPUTS:
        actual, expected = getattr(result, output).double(), golden.outputs[output]
        assert actual.shape == expected.shape, output
        assert float((actual - expected).abs().max()) <= tolerance, output


def test_quirks_are_what_makes_the_difference() -> None:
    """Without the released code's habits the result is another one, so the switch does something."""
    golden = load_golden("llava_all", torch.float64)
    wrapper = DexarWrapper(golden.model, None, layer_index=0, reference_quirks=False)
    result = wrapper.compute_dexar_ids(golden.inputs, golden.target_ids)
    difference = (result.token_weights.double() - golden.outputs["token_weights"]).abs().max()
    assert float(difference) > 1e-2
