"""A family that a user declares: the dozen lines of docs/models.md, guarded by the self-check."""

import dataclasses

import numpy as np
import pytest

import dexar_fast.models as models
from dexar_fast import Explainer, Family, InputError, SelfCheckError, UnsupportedModelError, register_family
from dexar_fast.models import fixed_grid

from .tiny import tiny_answer, tiny_inputs, tiny_llava


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch):
    """A model of a type that nobody has declared; declarations are forgotten after the test."""
    monkeypatch.setattr(models, "_registered", [])
    model = tiny_llava()
    model.config.model_type = "my_vlm"
    return model


def test_is_refused_with_the_list_and_the_way_out(unknown) -> None:
    with pytest.raises(UnsupportedModelError, match=r"of type .*florence2, .*llava.*; got 'my_vlm'.*register_family"):
        Explainer(unknown)


def test_runs_once_declared(unknown) -> None:
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(3, 3)))
    e = Explainer(unknown).explain_ids(tiny_inputs(unknown), tiny_answer(4))
    assert e.settings["family"] == "mine"
    built_in = Explainer(tiny_llava()).explain_ids(tiny_inputs(unknown), tiny_answer(4))
    np.testing.assert_array_equal(e.token_maps, built_in.token_maps)


def test_wrong_declaration_is_caught(unknown) -> None:
    """A projection that does something else behind the heads than the declaration says."""
    family = Family(
        name="mine",
        model_types=("my_vlm",),
        layout=fixed_grid(3, 3),
        project=lambda attention, family, out, _: attention.get_submodule("o_proj")(out.flip(-1)),
    )
    register_family(family)
    with pytest.raises(SelfCheckError, match=r"family 'mine': the layer output of layer 0 differs"):
        Explainer(unknown).explain_ids(tiny_inputs(unknown), tiny_answer(4))


def test_wrong_grid_is_named(unknown) -> None:
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(4, 4)))
    with pytest.raises(InputError, match=r"has 9 image tokens, but its layout gives 16 .*4 x 4"):
        Explainer(unknown).explain_ids(tiny_inputs(unknown), tiny_answer(4))


def test_taken_type(unknown) -> None:
    family = Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(3, 3))
    register_family(family)
    with pytest.raises(InputError, match=r"'my_vlm' belongs to family 'mine'"):
        register_family(family)
    with pytest.raises(InputError, match=r"'llava' belongs to family 'llava'"):
        register_family(dataclasses.replace(family, model_types=("llava",)))


def test_refused_type_says_why(unknown) -> None:
    unknown.config.model_type = "gemma3n"
    with pytest.raises(UnsupportedModelError, match=r"gemma3n cannot be explained: its residual stream"):
        Explainer(unknown)
