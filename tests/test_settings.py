"""The caller's settings: torch's defaults, inputs that do not fit together, and names that a terminal would obey."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dexar_fast import Explainer, InputError
from dexar_fast.cli.app import app
from dexar_fast.inputs.methods import COMPARISONS, SLOW
from dexar_fast.ops import available_backends

from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor

ESCAPE = "\x1b[31mred\x07"


@pytest.fixture
def explainer() -> Explainer:
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]
    return Explainer(model, tiny_processor())


@pytest.fixture(params=["float64", "bfloat16", "meta device"])
def default(request: pytest.FixtureRequest) -> Iterator[str]:
    """Something other than float32 on the CPU is what a tensor becomes that says nothing."""
    if request.param == "meta device":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def inputs(explainer: Explainer) -> dict[str, torch.Tensor]:
    return tiny_inputs(explainer.model)


@pytest.fixture
def expected(explainer: Explainer, inputs) -> dict[str, np.ndarray]:
    """Made before the defaults are changed."""
    methods = ["dexar", "dexar-contribution", *(name for name in COMPARISONS if name not in SLOW)]
    return {name: explainer.explain_ids(inputs, [17, 40, 12], method=name).token_maps for name in methods}


@pytest.mark.parametrize("backend", [name for name in available_backends() if name != "triton"])
def test_default_dtype_and_device(expected, explainer: Explainer, inputs, backend: str, default: str) -> None:
    explainer = Explainer(explainer.model, backend=backend)
    mask = np.ones(inputs["input_ids"].shape[1] + 3, dtype=bool)
    for name, maps in expected.items():
        found = explainer.explain_ids(inputs, [17, 40, 12], method=name, text_set=mask)
        assert found.token_maps.dtype == maps.dtype
        np.testing.assert_allclose(found.token_maps, maps, atol=1e-5)


@pytest.mark.parametrize("default", ["float64", "bfloat16"], indirect=True)
def test_defaults_where_the_processor_and_generation_take_part(explainer: Explainer, default: str) -> None:
    torch.set_default_dtype(torch.float32)
    expected = explainer.explain(picture(), "what is it?", max_new_tokens=3, grounding=True)
    torch.set_default_dtype(getattr(torch, default))
    found = explainer.explain(picture(), "what is it?", max_new_tokens=3, grounding=True)
    np.testing.assert_allclose(found.token_maps, expected.token_maps, atol=1e-5)
    assert found.token_maps.dtype == expected.token_maps.dtype
    steps = list(explainer.stream(picture(), "what is it?", max_new_tokens=3))
    np.testing.assert_allclose([step.token_map for step in steps], expected.token_maps, atol=1e-4)


@pytest.mark.parametrize("name", ["attention_mask", "token_type_ids"])
@pytest.mark.parametrize("change", [-1, 3], ids=["shorter", "longer"])
def test_inputs_along_the_ids_have_their_length(explainer: Explainer, inputs, name: str, change: int) -> None:
    ids = inputs["input_ids"]
    if name == "token_type_ids":
        inputs.pop("attention_mask")
        family = explainer.family
        explainer.family = explainer.decoder.family = replace(family, inputs=(*family.inputs, name))
    along = torch.ones(1, ids.shape[1] + change, dtype=torch.int64)
    with pytest.raises(InputError, match=f"model_inputs: expected {name} of one value for each of the {ids.shape[1]}"):
        explainer.explain_ids({**inputs, name: along}, tiny_answer(3))


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", f"{ESCAPE}.png", "-p", "what is it?", "-m", "demo"],
        ["explain", "{picture}", "-p", "what is it?", "-m", ESCAPE],
        ["explain", "{picture}", "-p", "what is it?", "-m", "{folder}"],
        ["evaluate", "--data", f"{ESCAPE}.jsonl", "-m", "demo"],
        ["evaluate", "--methods", ESCAPE],
    ],
    ids=["file", "model", "type of a model", "data", "method"],
)
def test_no_terminal_obeys_a_name(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "\\u001b[31mred"}')
    picture().save(tmp_path / "picture.png")
    names = {"picture": tmp_path / "picture.png", "folder": tmp_path}
    done = CliRunner().invoke(app, [argument.format(**names) for argument in arguments] + ["-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "red" in done.output
    assert "\x1b" not in done.output
    assert "\x07" not in done.output


def test_no_terminal_obeys_the_path_of_a_result(tmp_path: Path) -> None:
    picture(24, 24).save(tmp_path / "picture.png")
    out = tmp_path / "\x1b[31mred"
    arguments = ["explain", str(tmp_path / "picture.png"), "-p", "is there a red star ?", "-m", "demo", "-o", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "\\x1b[31mred/report.html" in done.output.replace("\n", "")
    assert "\x1b" not in done.output
