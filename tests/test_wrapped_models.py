"""Models that are compiled, adapted, offloaded or quantised: each works, or is refused with the reason."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dexar_fast import Explainer, Explanation, UnsupportedModelError

from .test_untouched import assert_same, state
from .tiny import picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor


def explain(model: Any) -> Explanation:
    plain = tiny_llava(dtype=torch.float32)
    return Explainer(model).explain_ids(tiny_inputs(plain), tiny_answer(5))


def assert_equal(actual: Explanation, wanted: Explanation, tolerance: float = 0) -> None:
    np.testing.assert_allclose(actual.token_maps, wanted.token_maps, rtol=0, atol=tolerance)
    np.testing.assert_allclose(actual.image_scores, wanted.image_scores, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def plain() -> Explanation:
    return explain(tiny_llava(dtype=torch.float32))


class TestCompiled:
    """Compiled graphs know nothing of hooks: they are run uncompiled while explaining, and left compiled."""

    @pytest.mark.parametrize("what", ["model", "in place", "layers", "text model"])
    def test_gives_the_same(self, plain: Explanation, what: str) -> None:
        model: Any = tiny_llava(dtype=torch.float32)
        if what == "model":
            model = torch.compile(model)
        elif what == "in place":
            model.compile()
        elif what == "layers":
            for layer in model.model.language_model.layers:
                layer.compile()
        else:
            model.model.language_model = torch.compile(model.model.language_model)
        e = explain(model)
        assert_equal(e, plain)
        assert e.settings["model_class"] == "LlavaForConditionalGeneration"

    def test_other_models_are_left_to_compile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Flex attention compiles itself: uncompiled, it would hold every probability."""
        compiled = tiny_llava(dtype=torch.float32)
        compiled.model.language_model.layers[0].mlp.compile()
        stances: list[str] = []
        original = torch.compiler.set_stance

        def noted(stance: str) -> Any:
            stances.append(stance)
            return original(stance)

        monkeypatch.setattr(torch.compiler, "set_stance", noted)
        explain(tiny_llava(dtype=torch.float32))
        assert stances == []
        explain(compiled)
        assert set(stances) == {"force_eager"}


class TestInstrumented:
    """Every module has a forward of its own that passes for the function of its class, as nnsight leaves it."""

    def model(self) -> Any:
        def instrument(module: nn.Module) -> None:
            own = type(module).forward
            module.forward = functools.wraps(own)(lambda *args, **kwargs: own(module, *args, **kwargs))

        return tiny_llava(dtype=torch.float32).apply(instrument)

    def test_gives_the_same(self, plain: Explanation) -> None:
        assert_equal(explain(self.model()), plain)

    def test_is_left_instrumented(self) -> None:
        model = self.model()
        before = {name: module.forward for name, module in model.named_modules()}
        explain(model)
        assert {name: module.forward for name, module in model.named_modules()} == before


class TestAdapters:
    @pytest.fixture(autouse=True)
    def _peft(self) -> None:
        pytest.importorskip("peft", reason="peft is not installed")

    def lora(self, dtype: torch.dtype = torch.float64) -> Any:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
        config = LoraConfig(target_modules=targets, r=4, init_lora_weights=False, lora_dropout=0.5)
        return get_peft_model(tiny_llava(dtype=dtype), config)

    def test_lora_is_part_of_the_layer(self, plain: Explanation) -> None:
        """The same as with the adapter merged into the weights, and not the same as without it."""
        adapted, merged = explain(self.lora()), explain(self.lora().merge_and_unload())
        assert_equal(adapted, merged, 1e-5)  # norms compute in float32
        assert np.abs(adapted.token_maps - plain.token_maps).max() > 0.1

    def test_model_inside_gives_the_same(self) -> None:
        assert_equal(explain(self.lora().base_model.model), explain(self.lora()))

    def test_leaves_the_adapter_as_it_was(self) -> None:
        model = self.lora(torch.float32)
        inner = model.get_base_model()
        inner(**tiny_inputs(inner))
        before = state(inner)
        explain(model)
        assert_same(before, state(inner))

    def test_virtual_tokens_are_refused(self) -> None:
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=32, num_layers=3)
        model = get_peft_model(tiny_llava(dtype=torch.float32), config)
        with pytest.raises(UnsupportedModelError, match=r"adapter inside the layers .*; got .*PROMPT_TUNING"):
            Explainer(model)


class TestOffloaded:
    @pytest.fixture(autouse=True)
    def _accelerate(self) -> None:
        pytest.importorskip("accelerate", reason="accelerate is not installed")

    @pytest.fixture(params=["memory", "disk", "some layers on disk"])
    def model(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        import accelerate

        model, cpu = tiny_llava(dtype=torch.float32), torch.device("cpu")
        if request.param == "memory":
            accelerate.cpu_offload(model, execution_device=cpu)
            return model
        if request.param == "disk":
            accelerate.disk_offload(model, tmp_path, execution_device=cpu)
            return model
        places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "disk"}
        text = model.model.language_model
        places |= {f"model.language_model.{name}": "cpu" for name, _ in text.named_children() if name != "layers"}
        places |= {f"model.language_model.layers.{i}": ("cpu", "disk", "cpu")[i] for i in range(3)}
        return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)

    def test_gives_the_same(self, model: Any, plain: Explanation) -> None:
        e = explain(model)
        assert_equal(e, plain)
        assert e.settings["device"] == "cpu"

    def test_weights_are_away_again(self, model: Any) -> None:
        away = {name for name, weight in model.named_parameters() if weight.is_meta}
        assert away
        explain(model)
        assert {name for name, weight in model.named_parameters() if weight.is_meta} == away

    def test_writes_its_own_answer(self, model: Any) -> None:
        explainer = Explainer(model, tiny_processor())
        model.generation_config.suppress_tokens = [3]
        written = explainer.explain(picture(), "what is it?", max_new_tokens=2)
        assert len(written.tokens) == 2
        with explainer.stream(picture(), "what is it?", max_new_tokens=2) as stream:
            assert [step.token_id for step in stream] == written.token_ids.tolist()


class TestTorchao:
    @pytest.fixture(autouse=True)
    def _torchao(self) -> None:
        pytest.importorskip("torchao", reason="torchao is not installed")

    def quantised(self, what: str) -> Any:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

        model = tiny_llava(dtype=torch.float32)
        if what == "activations too":
            quantize_(model.model.language_model.layers, Int8DynamicActivationInt8WeightConfig())
        else:
            quantize_(model if what == "all" else model.model.language_model.layers, Int8WeightOnlyConfig())
        return model

    @pytest.mark.parametrize("what", ["layers", "all"])
    def test_weights_in_int8(self, what: str) -> None:
        """The same as the model whose weights are what the quantised ones stand for."""
        model, rounded = self.quantised(what), tiny_llava(dtype=torch.float32)
        modules = dict(rounded.named_modules())
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and hasattr(module.weight, "dequantize"):
                with torch.no_grad():
                    modules[name].weight.copy_(module.weight.dequantize())
        assert_equal(explain(model), explain(rounded), 1e-4)

    def test_activations_in_int8_have_no_backward(self) -> None:
        with pytest.raises(UnsupportedModelError, match=r"quantised or compiled.* no backward"):
            explain(self.quantised("activations too"))


class TestBitsandbytes:
    @pytest.fixture(autouse=True)
    def _bitsandbytes(self) -> None:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

    def test_8_bits_rank_cells_as_the_weights_do(self) -> None:
        """In bfloat16: activations are rounded too, so in float32 the self-check tells the gradient from the slope."""
        import bitsandbytes as bnb
        from scipy.stats import spearmanr

        model: Any = tiny_llava(dtype=torch.bfloat16)
        layers = model.model.language_model.layers
        for name, module in list(layers.named_modules()):
            if isinstance(module, nn.Linear):
                new = bnb.nn.Linear8bitLt(module.in_features, module.out_features, bias=False, has_fp16_weights=False)
                new.load_state_dict(module.state_dict())
                parent, _, last = name.rpartition(".")
                setattr(layers.get_submodule(parent), last, new.to("cpu"))
        actual, wanted = explain(model), explain(tiny_llava(dtype=torch.bfloat16))
        assert spearmanr(actual.token_maps.ravel(), wanted.token_maps.ravel()).statistic > 0.95
