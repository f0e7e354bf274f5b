"""See query, key and value of a layer's attention, and make its output a leaf, whatever attention the model uses.

Nearly every decoder of transformers looks its attention function up by name (`sdpa`, `eager`, `flash_attention_2`,
`flex_attention`, ...) in one registry. Inside `tap_attention` the entry of that name is a wrapper that calls the
original and lets other modules (the vision tower, other models) pass through. Name and masks stay what they were, so
no code that compares the name changes its behaviour. `tap_projections` is for the few models that call no registered
function: hooks on the projections before and behind attention see the same, but cannot put a leaf in its place.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import UnsupportedModelError
from ..models.state import hooked
from ..models.turns import held_at_fork
from .answer_rows import AnswerRows

# The registry is the process's: one entry serves all threads that tap the attention of this name, each its own modules.
_TAPS: dict[str, tuple[_Tap, ...]] = {}
_TAPS_LOCK = held_at_fork(threading.Lock())


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention over the answer rows, T of one sample or of several together.

    Attributes:
        layer: index of the decoder layer, from 0.
        query: ``(T, H, D)`` with rotary embedding; key, value: ``(H_kv, K, D)``, or ``(B, H_kv, K, D)`` of several
            samples, the cache included; keys that no answer row of a cross-attention sees are left out.
        out: ``(1, T, H, D)``, the attention output, detached.
        scale: factor on the attention logits.
        window: number of keys that a row sees under a sliding window, or None.
        softcap: the logits are ``softcap * tanh(logits / softcap)``, or None.
        chunk: number of keys of the chunks that a row attends within, or None.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    scale: float
    window: int | None
    softcap: float | None = None
    chunk: int | None = None


# Receives what was seen, and the whole attention output ``(B, S, H, D)`` of all S rows that ran: a leaf, or None.
OnCall = Callable[[AttentionCall, Tensor | None], None]


@contextmanager
def tap_attention(
    name: str, layer_of: Mapping[nn.Module, int], on_call: OnCall, *, rows: AnswerRows, cross: bool, leaf: bool
) -> Iterator[None]:
    """See some modules' attention; make its output a leaf and switch grad mode on behind it if asked to.

    The caller switches grad mode off again where the layer ends. The registry is restored on exit, also after an
    exception.

    Args:
        name: the attention implementation of the decoder, `config._attn_implementation`.
        layer_of: attention modules to tap, and the index of their layers. Others pass through.
        on_call: receives what was seen.
        rows: the answer's among all that run.
        cross: the modules attend to an encoder's states, under a mask that is the same for all answer rows.
        leaf: make the output a leaf.
    """
    tap = _Tap(threading.get_ident(), layer_of, on_call, rows, cross, leaf)
    with _TAPS_LOCK:
        if not _TAPS.get(name):
            _enter_registry(name)
        _TAPS[name] = (*_TAPS.get(name, ()), tap)
    try:
        yield
    finally:
        with _TAPS_LOCK:
            _TAPS[name] = tuple(each for each in _TAPS[name] if each is not tap)
            if not _TAPS[name]:
                _leave_registry(name)


@dataclass(frozen=True, eq=False)
class _Tap:
    """What `tap_attention` was asked for, by one thread."""

    thread: int
    layer_of: Mapping[nn.Module, int]
    on_call: OnCall
    rows: AnswerRows
    cross: bool
    leaf: bool

    def see(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, out: Tensor, asked: Any
    ) -> Tensor:
        """Hand on one call with its output and further arguments; returns the output that the model goes on with."""
        if self.cross:
            key, value = _seen_keys(key, value, mask, self.rows)
        scale = asked.get("scaling")
        out = out.detach().requires_grad_(self.leaf)
        call = AttentionCall(
            layer=self.layer_of[module],
            query=self.rows.of(query.transpose(1, 2))[0],
            key=key.squeeze(0),  # the only sample
            value=value.squeeze(0),
            out=self.rows.of(out.detach()),
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            window=asked.get("sliding_window"),
            softcap=asked.get("softcap"),
        )
        self.on_call(call, out if self.leaf else None)
        if self.leaf:
            torch.set_grad_enabled(True)
        return out


# The entries that taps stand in for, and whether they were the registry's own; None is that of "eager".
_ORIGINALS: dict[str, tuple[Callable[..., Any] | None, bool]] = {}


def _enter_registry(name: str) -> None:
    original = ALL_ATTENTION_FUNCTIONS.get(name)  # None for "eager", which each modelling file defines for itself
    _ORIGINALS[name] = original, name in ALL_ATTENTION_FUNCTIONS._local_mapping

    def tapped(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        function = original or _eager_attention(module)
        out, probabilities = function(module, query, key, value, attention_mask, **kwargs)
        thread = threading.get_ident()
        for tap in reversed(_TAPS[name]):
            if tap.thread == thread and module in tap.layer_of:
                return tap.see(module, query, key, value, attention_mask, out, kwargs), probabilities
        return out, probabilities

    ALL_ATTENTION_FUNCTIONS[name] = tapped


def _leave_registry(name: str) -> None:
    original, overridden = _ORIGINALS.pop(name)
    if overridden:
        ALL_ATTENTION_FUNCTIONS[name] = original
    else:
        del ALL_ATTENTION_FUNCTIONS[name]


@contextmanager
def tap_projections(
    layer_of: Mapping[nn.Module, int], projection: str, on_call: OnCall, *, rows: AnswerRows
) -> Iterator[None]:
    """See the attention of modules that call no registered function, between their projections.

    Args:
        layer_of: attention modules, with `q_proj`, `k_proj`, `v_proj` and `num_heads`, and the index of their layers.
        projection: name of the output projection.
        on_call, rows: as for `tap_attention`, of one sample; the leaf is None.
    """
    with ExitStack() as stack:
        for module, layer in layer_of.items():
            seen: dict[str, Tensor] = {}

            def keep(name: str, _m: nn.Module, _a: Any, out: Tensor, seen: dict[str, Tensor] = seen) -> None:
                seen[name] = out

            def leave(
                _m: nn.Module,
                args: Any,
                module: Any = module,
                layer: int = layer,
                seen: dict[str, Tensor] = seen,
            ) -> None:
                if not seen:  # a replay runs the output projection alone
                    return
                width = args[0].shape[-1] // module.num_heads
                query, key, value = (seen.pop(name).detach().unflatten(-1, (-1, width)) for name in "qkv")
                out = rows.of(args[0].detach().unflatten(-1, (-1, width)))
                key, value = key[0].transpose(0, 1), value[0].transpose(0, 1)
                on_call(AttentionCall(layer, rows.of(query)[0], key, value, out, width**-0.5, None), None)

            for name in "qkv":
                register = module.get_submodule(f"{name}_proj").register_forward_hook
                stack.enter_context(hooked(register, partial(keep, name)))
            stack.enter_context(hooked(module.get_submodule(projection).register_forward_pre_hook, leave))
        yield


@contextmanager
def tap_arguments(
    layer_of: Mapping[nn.Module, int],
    read: Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor, Tensor]],
    on_call: OnCall,
    *,
    rows: AnswerRows,
    causal: bool,
) -> Iterator[None]:
    """See the attention of modules by what they are called with; its output is computed anew.

    The self-check compares what the layer makes of that output with the layer's own.

    Args:
        layer_of: attention modules, and the index of their layers.
        read: query, key and value ``(1, positions, heads, D)`` of a call.
        on_call, rows: as for `tap_attention`, of one sample; the leaf is None.
        causal: the modules read their own sequence up to each row, rather than all of another.
    """
    not_run = set(layer_of)
    with ExitStack() as stack:
        for module, layer in layer_of.items():

            def enter(module: nn.Module, args: Any, kwargs: Any, layer: int = layer) -> None:
                if module not in not_run:  # a replay calls what stands in its place
                    return
                not_run.discard(module)
                query, key, value = (x.detach() for x in read(module, args, kwargs))
                query = rows.of(query)[0]  # [T, H, D]
                key, value = key[0].transpose(0, 1), value[0].transpose(0, 1)  # [H_kv, K, D]
                visible = torch.ones(len(query), key.shape[1], dtype=torch.bool, device=key.device)
                if causal:
                    visible = visible.tril(key.shape[1] - len(query))
                out = torch.nn.functional.scaled_dot_product_attention(
                    query.transpose(0, 1), key, value, attn_mask=visible, enable_gqa=True
                )
                scale = query.shape[-1] ** -0.5
                on_call(AttentionCall(layer, query, key, value, out.transpose(0, 1)[None], scale, None), None)

            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield


def _seen_keys(key: Tensor, value: Tensor, mask: Any, rows: AnswerRows) -> tuple[Tensor, Tensor]:
    """Keys and values without those that the mask ``(1, 1, S, K)`` hides from every answer row."""
    if not isinstance(mask, Tensor):
        return key, value
    of_rows = rows.of(mask[:, 0])[0]
    seen = of_rows.any(dim=0) if mask.dtype == torch.bool else (of_rows == 0).any(dim=0)
    return (key, value) if bool(seen.all()) else (key[:, :, seen], value[:, :, seen])


def _eager_attention(module: nn.Module) -> Callable[..., Any]:
    """The eager attention of the file that defines the module's class, or the class that it derives from."""
    for base in type(module).__mro__:
        function = getattr(sys.modules[base.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    raise UnsupportedModelError(f"model: no eager_attention_forward beside {type(module).__name__}; load it with sdpa")
