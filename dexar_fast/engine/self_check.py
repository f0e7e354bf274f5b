"""Is this model's layer what the method takes it for? Cheap tests on one row of each layer, at run time.

1. ``sum_j P_j V_j``, with P recomputed from query, key and the visible keys, equals the attention output: head layout,
   grouping, scale and mask are understood.
2. The layer run again on that row alone, attention replaced by its known output, gives the same output: behind it
   the layer works on one position at a time.
3. No module of the layer takes in a gradient's path and lets it end, as a quantised one without backward does.
4. In float32 and float64, the gradient predicts how the score moves: half precision is too coarse to tell.
5. The last layer's output behind the norm that the family names is what the text model gives to the head.
6. The rows of one request in a batch give the states that they give alone: the text model takes padding as it should.

A wrong assumption gives errors of order one; rounding gives less than half of the digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SelfCheckError, UnsupportedModelError
from ..models.decoder import Decoder
from ..models.state import hooked
from ..ops import KeySets, attention_columns
from ..stages import stage
from .answer_pass import LastStates, LayerGradient
from .answer_rows import AnswerRows
from .attention_tap import AttentionCall
from .logit_lens import LogitLens
from .replay import replay


@stage("self-check")
def check_layer(decoder: Decoder, gradient: LayerGradient, keys: KeySets, lens: LogitLens) -> None:
    """Check the last row of one layer. NaN is let through: it has an error of its own, with a better name.

    Args:
        decoder: the model.
        gradient: what the answer pass found.
        keys: of the answer rows.
        lens: of the answer rows.

    Raises:
        SelfCheckError: names the family, the layer and what differs.
        UnsupportedModelError: names the module that has no backward, or the quantised layer that rounds too much.
    """
    call = gradient.attention
    last = slice(-1, None)
    _compare(decoder, f"attention output of layer {call.layer}", _attend(call, keys), call.out[0, -1])

    leaf = call.out[:, last].detach().requires_grad_()  # [1, 1, H, D]
    inputs = gradient.inputs.at(AnswerRows((1,)))
    with torch.enable_grad(), _no_dead_ends(decoder, call.layer):
        replayed = replay(decoder, call.layer, inputs, leaf)
    _compare(decoder, f"layer output of layer {call.layer}", replayed.detach(), gradient.residual_out[:, last])

    if leaf.dtype in (torch.float32, torch.float64):
        row = replace(lens, seeds=lens.seeds[-1:, -1:])
        d_out = gradient.d_out[-1]  # [H, D], of the last seed
        direction = d_out / d_out.norm().clamp(min=torch.finfo(d_out.dtype).tiny)
        here = row(call.layer, replayed.detach())
        for shrink in (1, 8, 64):
            step = leaf.detach().norm() * _precision(leaf.dtype) ** 0.25 / shrink
            ahead, behind = (
                row(call.layer, replay(decoder, call.layer, inputs, leaf.detach() + sign * step * direction))
                for sign in (1, -1)
            )
            # A layer that hardly moves the score is told by rounding alone: then there is nothing to compare.
            rounding = float(32 * _precision(leaf.dtype) * row.magnitude(replayed.detach()) / step)
            slope, bend = (ahead - behind) / (2 * step), (ahead - 2 * here + behind) / (2 * step)
            if bend.norm() > 0.05 * slope.norm() + rounding:  # it jumps on one side: the other still tells
                slope = min(slope, slope + bend, slope - bend, key=lambda side: float((side - d_out.norm()).abs()))
            # A mixture of experts jumps where another expert takes over, and a ReLU bends: then come closer.
            if (slope - d_out.norm()).norm() <= 0.05 * d_out.norm() + rounding:
                break
        try:
            _compare(decoder, f"local gradient of layer {call.layer}", slope, d_out.norm()[None], 0.05, rounding)
        except SelfCheckError as error:
            if not _is_quantised(decoder.layers[call.layer]):
                raise
            raise UnsupportedModelError(
                f"model: layer {call.layer} has quantised weights, and rounds more than {leaf.dtype} can: its gradient "
                "does not tell how the score moves. Load the model with dtype=torch.bfloat16, which rounds as much "
                "itself, or unquantised."
            ) from error


@stage("self-check")
def check_final_norm(decoder: Decoder, states: LastStates) -> None:
    """Check the last row behind the last layer.

    Raises:
        SelfCheckError: the norm that the family names does not give what the model does.
    """
    ours = decoder.final_norm(states.residual[:, -1:])
    _compare(decoder, f"final norm {decoder.family.final_norm!r}", ours, states.normed[:, -1:].to(ours.device))


def check_batch(decoder: Decoder, alone: Tensor, in_batch: Tensor) -> None:
    """Check the normed states ``(1, T, d)`` of one sample's rows in a batch, padded as its mask says, against alone.

    Raises:
        SelfCheckError: the text model does not take padding, or counts positions in its own way.
    """
    _compare(decoder, "answer pass of several requests together", in_batch, alone)


def _attend(call: AttentionCall, keys: KeySets) -> Tensor:
    """Attention's output for the last row, ``(H, D)``, from query, key, value and the visible keys."""
    last = slice(-1, None)
    key, value = (x if x.ndim == 3 else x[-1] for x in (call.key, call.value))  # [H_kv, K, D] of the last sample
    text = torch.atleast_2d(keys.text)[-1]
    every_key = KeySets(torch.arange(key.shape[1], device=key.device), text, keys.visible[last])
    probabilities = attention_columns(call.query[last], key, every_key, scale=call.scale, softcap=call.softcap)
    probabilities = probabilities[0]  # [H, K]
    value = value.repeat_interleave(call.query.shape[1] // value.shape[0], dim=0)  # [H, K, D]
    return torch.einsum("hk,hkd->hd", probabilities, value.to(probabilities.dtype))


@contextmanager
def _no_dead_ends(decoder: Decoder, index: int) -> Iterator[None]:
    """Refuse modules of a layer that take a tensor with a gradient and return one without; constants do by intent."""

    def check(name: str, _: nn.Module, args: Any, output: Any) -> None:
        # Experts that no token is sent to take and return nothing.
        if any(isinstance(a, Tensor) and a.requires_grad and a.numel() for a in args):
            outputs = output if isinstance(output, tuple) else (output,)
            if any(isinstance(o, Tensor) and o.is_floating_point() and not o.requires_grad for o in outputs):
                raise UnsupportedModelError(
                    f"model: {name} of layer {index} has no backward (quantised or compiled weights); "
                    "load the model unquantised or in a format with gradients."
                )

    with ExitStack() as stack:
        for name, module in decoder.layers[index].named_modules():
            if name in decoder.family.constant:
                continue
            stack.enter_context(hooked(module.register_forward_hook, partial(check, name)))
        yield


def _is_quantised(layer: nn.Module) -> bool:
    """Whether some of its weights are stored in 8 bits or less."""
    return any(x.dtype in (torch.int8, torch.uint8) for x in (*layer.parameters(), *layer.buffers()))


def _compare(
    decoder: Decoder,
    what: str,
    ours: Tensor,
    models: Tensor,
    tolerance: float | None = None,
    rounding: float = 0.0,
) -> None:
    if tolerance is None:
        tolerance = _precision(models.dtype) ** 0.5
    difference = (ours.double() - models.double()).norm()
    size = models.double().norm()
    if difference > tolerance * size + rounding:
        raise SelfCheckError(
            f"self-check of family {decoder.family.name!r}: the {what} differs from the model's by "
            f"{float(difference / size):.1e} (at most {tolerance:.1e} is rounding). This model is not what the "
            "family's entry describes; explaining it would give wrong maps."
        )


def _precision(dtype: torch.dtype) -> float:
    """Models of any dtype compute norms and softmax in float32, so no float64 model is better than that."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
