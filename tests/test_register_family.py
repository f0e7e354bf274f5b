"""A family that a user declares: the dozen lines of docs/models.md, guarded by the self-check."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dexar_fast.models.registry as registry
from dexar_fast import Explainer, Family, InputError, SelfCheckError, UnsupportedModelError, register_family
from dexar_fast.engine.request import lay_out
from dexar_fast.models import fixed_grid, grid_thw

from .families.case import all_cases
from .tiny import picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch):
    """A model of a type that nobody has declared; declarations are forgotten after the test."""
    monkeypatch.setattr(registry, "_registered", [])
    model = tiny_llava()
    model.config.model_type = "my_vlm"
    return model


def test_is_refused_with_the_list_and_the_way_out(unknown) -> None:
    with pytest.raises(UnsupportedModelError, match=r"of type .*florence2, .*llava, .*; got 'my_vlm'.*register_family"):
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


@pytest.mark.parametrize("wrong", [None, "model.language_model.layers.2.input_layernorm"])
def test_wrong_norm_is_caught(unknown, wrong: str | None) -> None:
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(3, 3), final_norm=wrong))
    with pytest.raises(SelfCheckError, match=rf"family 'mine': the final norm {wrong!r} differs from the model's"):
        Explainer(unknown).explain_ids(tiny_inputs(unknown), tiny_answer(4), layers=0)


def test_wrong_head_is_caught(unknown) -> None:
    head = "model.language_model.embed_tokens"
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(3, 3), head=head))
    with pytest.raises(UnsupportedModelError, match=rf"declares the head '{head}'; .* gives 'lm_head'"):
        Explainer(unknown)


def test_wrong_grid_is_named(unknown) -> None:
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(4, 4)))
    with pytest.raises(InputError, match=r"has 9 image tokens, but its layout gives 16 .*4 x 4"):
        Explainer(unknown).explain_ids(tiny_inputs(unknown), tiny_answer(4))


def test_built_in_type_is_taken() -> None:
    with pytest.raises(InputError, match=r"without a built-in entry; 'llava' belongs to family 'llava'"):
        register_family(Family(name="mine", model_types=("llava",), layout=fixed_grid(3, 3)))


def test_later_declaration_counts(unknown) -> None:
    """As when a cell of a notebook runs again."""
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(4, 4)))
    register_family(Family(name="other", model_types=("other_vlm",), layout=fixed_grid(3, 3)))
    register_family(Family(name="corrected", model_types=("my_vlm",), layout=fixed_grid(3, 3)))
    assert Explainer(unknown).family.name == "corrected"
    assert [family.name for family in registry._registered] == ["other", "corrected"]


def test_fixed_grid_lies_on_what_the_processor_leaves(unknown) -> None:
    """Cut to the centre; placeholders as the family names them."""
    unknown.config.my_image_token = unknown.config.image_token_id
    unknown.config.image_token_id = 299
    family = Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(3, 3), placeholders=("my_image_token",))
    register_family(family)
    explainer = Explainer(unknown, tiny_processor())
    size = (60, 30)
    ids = tiny_inputs(tiny_llava())
    layout = lay_out(explainer.decoder, explainer.processor, ids, [size])
    assert [grid.box for grid in layout.grids] == [(15, 0, 45, 30)]
    twice = {"input_ids": torch.cat((ids["input_ids"], ids["input_ids"]), dim=1)}
    layout = lay_out(explainer.decoder, explainer.processor, twice, [size, size])
    assert len(layout.grids) == 2


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"projection": "o_prj"}, "declares projection 'o_prj'; LlamaAttention of layer 0 has q_proj, k_proj"),
        ({"constant": ("cross",)}, "declares constant 'cross'; LlamaDecoderLayer of layer 0 has self_attn, mlp"),
        ({"run_state": ("rope_delta",)}, "declares run_state 'rope_delta'; LlavaModel has no such attribute"),
        ({"placeholders": ("image_id",)}, "declares placeholders 'image_id'; LlavaConfig has no such attribute"),
        ({"placeholders": ("text_config.image_id",)}, "declares placeholders 'text_config.image_id'; LlavaConfig has"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_misspelt_declaration_is_named(unknown, declared: dict[str, Any], message: str) -> None:
    register_family(Family(name="mine", model_types=("my_vlm",), layout=fixed_grid(3, 3), **declared))
    with pytest.raises(UnsupportedModelError, match=f"family 'mine' {message}"):
        Explainer(unknown)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"keys": "sequences"}, "keys: expected one of 'sequence', 'encoder', 'vision'; got 'sequences'"),
        ({"rows": "all"}, "rows: expected one of 'cached', 'whole', 'decoder', 'own'; got 'all'"),
        ({"gradient_path": "leave"}, "gradient_path: expected one of 'leaf', 'replay'; got 'leave'"),
        ({"tap": "hooks"}, "tap: expected one of 'registry', 'projections', 'arguments'; got 'hooks'"),
        ({"model_types": "my_vlm"}, r"model_types: expected a tuple, \('my_vlm',\); got the str 'my_vlm'"),
        ({"constant": "self_attn"}, r"constant: expected a tuple, \('self_attn',\); got the str 'self_attn'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_value_that_a_field_cannot_have(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"family 'mine': {message}"):
        Family(**{"name": "mine", "model_types": ("my_vlm",), "layout": fixed_grid(3, 3), **declared})


def test_refused_type_says_why(unknown) -> None:
    unknown.config.model_type = "gemma3n"
    with pytest.raises(UnsupportedModelError, match=r"gemma3n cannot be explained: its residual stream"):
        Explainer(unknown)


def test_checkpoint_with_its_own_code_points_to_one_that_works(unknown) -> None:
    unknown.config.model_type = "internvl_chat"
    with pytest.raises(
        UnsupportedModelError, match=r"code of their own, which is not run\. Load one of type internvl, "
    ):
        Explainer(unknown)


def test_folder_with_its_own_code_points_to_one_that_works(tmp_path: Path) -> None:
    auto = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat", "auto_map": auto}))
    with pytest.raises(UnsupportedModelError, match=r"itself can load\. Checkpoints of type internvl_chat .*InternVL3"):
        Explainer.from_pretrained(tmp_path)


def test_public_layouts_take_ten_lines(unknown) -> None:
    """A Qwen2-VL under another type, declared with what `dexar_fast.models` exports; `base` may be the model itself."""
    model = all_cases()["qwen2_vl"].model("sdpa")
    model.config.model_type = "my_vlm"
    declared: dict[str, Any] = {
        "layout": grid_thw,
        "inputs": ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"),
    }
    maps = []
    for base in ("model", ""):
        register_family(Family(name="mine", model_types=("my_vlm",), base=base, **declared))
        explainer = Explainer(model, all_cases()["qwen2_vl"].processor())
        inputs, _ = explainer.encode([picture(61, 40)], "<|vision_start|><|image_pad|><|vision_end|> a star", "a")
        e = explainer.explain_ids(inputs, tiny_answer(4), image=picture(61, 40))
        assert e.grid.image_size == (61, 40)
        maps.append(e.token_maps)
    np.testing.assert_array_equal(*maps)
