"""A model that is not what its family describes is named, not explained."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from dexar_fast import Explainer, NotFiniteError, SelfCheckError, UnsupportedModelError

from .tiny import tiny_answer, tiny_inputs, tiny_llava


def explain(model):
    return Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(4))


def test_layer_that_mixes_positions() -> None:
    """Behind attention, each position must stand alone."""
    model = tiny_llava()
    model.model.language_model.layers[1].mlp.register_forward_hook(
        lambda _m, _a, out: out - out.mean(dim=1, keepdim=True)
    )
    with pytest.raises(SelfCheckError, match=r"family 'llava': the layer output of layer 1"):
        explain(model)


def test_mask_that_is_not_causal() -> None:
    """A key that the causal rule lets every row see, but the model hides."""
    model = tiny_llava(attention="eager")
    attention = model.model.language_model.layers[2].self_attn
    original = attention.forward

    def without_first_key(hidden_states, attention_mask, **kwargs):
        attention_mask = attention_mask.clone()
        attention_mask[..., 0] = torch.finfo(attention_mask.dtype).min
        return original(hidden_states, attention_mask=attention_mask, **kwargs)

    attention.forward = without_first_key
    with pytest.raises(SelfCheckError, match=r"the attention output of layer 2 differs from the model's"):
        explain(model)
    assert vars(attention)["forward"] is without_first_key


@pytest.mark.parametrize("out_of_memory", [False, True])
def test_states_that_are_not_what_the_norm_gives(out_of_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory ended behind the check of the last layer, and the rows run again as fewer."""
    from dexar_fast.engine import aggregate

    model = tiny_llava()

    def shift(_m: object, _a: object, output: object) -> None:
        output.last_hidden_state = output.last_hidden_state + 1  # type: ignore[attr-defined]

    model.model.language_model.register_forward_hook(shift)
    original, calls = aggregate.score_and_accumulate, []

    def limited(*args, **kwargs):
        calls.append(1)
        if out_of_memory and len(calls) == 3:
            raise torch.OutOfMemoryError
        return original(*args, **kwargs)

    monkeypatch.setattr(aggregate, "score_and_accumulate", limited)
    told = pytest.warns(UserWarning, match="out of memory") if out_of_memory else nullcontext()
    with told, pytest.raises(SelfCheckError, match=r"the final norm 'model\.language_model\.norm'"):
        explain(model)


def test_is_done_once_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    import dexar_fast.engine.pipeline as pipeline

    checked = []
    monkeypatch.setattr(
        pipeline, "check_layer", lambda decoder, gradient, keys, lens: checked.append(gradient.attention.layer)
    )
    model = tiny_llava()
    explainer = Explainer(model)
    explainer.explain_ids(tiny_inputs(model), tiny_answer(4), layers=-1)
    explainer.explain_ids(tiny_inputs(model), tiny_answer(4))
    explainer.explain_ids(tiny_inputs(model), tiny_answer(4))
    assert checked == [2, 0, 1]


@pytest.mark.parametrize("path", ["self_attn.o_proj", "mlp.down_proj", "mlp"])
def test_module_without_backward(path: str) -> None:
    """As a quantised kernel: right values, no gradient. Part of the gradient alone would give wrong maps."""
    model = tiny_llava()
    module = model.model.language_model.layers[1].get_submodule(path)
    original = module.forward
    module.forward = lambda x: original(x.detach()).detach()
    with pytest.raises(
        UnsupportedModelError, match=rf"{path} of layer 1 has no backward|layer 1's output does not depend"
    ):
        explain(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_that_is_not_the_functions(dtype: torch.dtype) -> None:
    """Right values and a gradient, but the wrong one: only moving the output shows it."""
    model = tiny_llava(dtype=dtype)
    mlp = model.model.language_model.layers[1].mlp
    original = mlp.down_proj.forward
    mlp.down_proj.forward = lambda x: original(x.detach()) + 0 * x.sum()
    with pytest.raises(SelfCheckError, match=r"the local gradient of layer 1 differs from the model's"):
        explain(model)


def test_nan_does_not_count_as_checked() -> None:
    model = tiny_llava()
    explainer = Explainer(model)
    weight = model.lm_head.weight.data
    kept = weight.clone()
    weight.fill_(torch.nan)
    with pytest.raises(NotFiniteError):
        explainer.explain_ids(tiny_inputs(model), tiny_answer(4))
    weight.copy_(kept)
    model.model.language_model.layers[1].mlp.register_forward_hook(lambda _m, _a, out: out - out.mean(dim=1))
    with pytest.raises(SelfCheckError):
        explainer.explain_ids(tiny_inputs(model), tiny_answer(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-7, 0.0])
def test_layer_that_hardly_speaks_is_no_mistake(scale: float, dtype: torch.dtype) -> None:
    """Heads that rest on a token of tiny value: the score then moves by less than it is rounded to."""
    model = tiny_llava(dtype=dtype)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.v_proj.weight.mul_(scale)
    explain(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_jump_nearby_is_no_mistake(dtype: torch.dtype) -> None:
    """A mixture of experts gives the row to another expert where the check first moves it to."""
    model = tiny_llava(dtype=dtype)
    rows: list[torch.Tensor] = []

    def jump(_m: object, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        if args[0].shape[1] > 1:  # the prompt
            return out
        rows.append(args[0].detach())
        return out + 5 * (moved(rows[-1]) > 2e-3)

    def moved(row: torch.Tensor) -> float:
        return float((row - rows[0]).norm() / row.norm())

    model.model.language_model.layers[1].mlp.register_forward_hook(jump)
    Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(1))
    moves = [moved(row) for row in rows]
    assert max(moves) > 2e-3 > moves[-1] > 0


class Rounding(nn.Module):
    """A projection with weights of 8 bits that rounds its input, too, and differentiates as if it did not."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.step = float(linear.weight.detach().abs().max() / 127)
        self.weight = nn.Parameter((linear.weight / self.step).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        rounded = x + ((x * 4).round() / 4 - x).detach()
        return rounded @ (self.weight.to(x.dtype) * self.step).T


def test_weights_of_few_bits_in_float32_are_named() -> None:
    """The model is what its family says: only its own rounding hides the slope."""
    model = tiny_llava(dtype=torch.float32)
    attention = model.model.language_model.layers[1].self_attn
    attention.o_proj = Rounding(attention.o_proj)
    with pytest.raises(UnsupportedModelError, match=r"layer 1 has quantised weights.*dtype=torch\.bfloat16"):
        explain(model)
    assert explain(model.to(torch.bfloat16)).token_maps.max() > 0
