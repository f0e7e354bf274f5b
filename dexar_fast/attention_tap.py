"""See query, key and value of a layer's attention, and make its output a leaf, whatever attention the model uses.

Every decoder of transformers looks its attention function up by name (`sdpa`, `eager`, `flash_attention_2`,
`flex_attention`, ...) in one registry. Inside `tap_attention` the entry of that name is a wrapper that calls the
original and lets other modules (the vision tower, other models) pass through. Name and masks stay what they were, so
no code that compares the name changes its behaviour.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .errors import UnsupportedModelError

# The registry is the process's: answer passes of several threads take turns.
_ONE_TAP_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention over the answer rows, of one sample.

    Attributes:
        layer: index of the decoder layer, from 0.
        query: ``(T, H, D)`` with rotary embedding; key, value: ``(H_kv, K, D)``, the cache included.
        out: ``(T, H, D)``, the attention output as a leaf that requires grad.
        scale: factor on the attention logits.
        softcap: cap on the attention logits, or None.
        window: number of keys that a row sees under a sliding window, or None.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    scale: float
    softcap: float | None
    window: int | None


@contextmanager
def tap_attention(
    name: str, layer_of: Mapping[nn.Module, int], on_call: Callable[[AttentionCall], None]
) -> Iterator[None]:
    """Make the attention output of some modules a leaf, and switch grad mode on behind it.

    The caller switches grad mode off again where the layer ends. The registry is restored on exit, also after an
    exception.

    Args:
        name: the attention implementation of the decoder, `config._attn_implementation`.
        layer_of: attention modules to tap, and the index of their layers. Others pass through.
        on_call: receives what was seen.
    """
    with _ONE_TAP_AT_A_TIME:
        overridden = name in ALL_ATTENTION_FUNCTIONS._local_mapping
        original = ALL_ATTENTION_FUNCTIONS.get(name)  # None for "eager", which each modelling file defines for itself
        ALL_ATTENTION_FUNCTIONS[name] = _tapped(original, layer_of, on_call)
        try:
            yield
        finally:
            if overridden:
                ALL_ATTENTION_FUNCTIONS[name] = original
            else:
                del ALL_ATTENTION_FUNCTIONS[name]


def _tapped(
    original: Callable[..., Any] | None, layer_of: Mapping[nn.Module, int], on_call: Callable[[AttentionCall], None]
) -> Callable[..., Any]:
    """The registry's entry while a tap is open."""
    owner = threading.get_ident()

    def tapped(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        function = original or _eager_attention(module)
        out, probabilities = function(module, query, key, value, attention_mask, **kwargs)
        if module not in layer_of or threading.get_ident() != owner:
            return out, probabilities
        out = out.detach().requires_grad_()
        scale = kwargs.get("scaling")
        on_call(
            AttentionCall(
                layer=layer_of[module],
                query=query[0].transpose(0, 1),
                key=key[0],
                value=value[0],
                out=out,
                scale=query.shape[-1] ** -0.5 if scale is None else scale,
                softcap=kwargs.get("softcap"),
                window=kwargs.get("sliding_window"),
            )
        )
        torch.set_grad_enabled(True)
        return out, probabilities

    return tapped


def _eager_attention(module: nn.Module) -> Callable[..., Any]:
    """The eager attention of the file that defines the module's class, or the class that it derives from."""
    for base in type(module).__mro__:
        function = getattr(sys.modules[base.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    raise UnsupportedModelError(f"model: no eager_attention_forward beside {type(module).__name__}; load it with sdpa")
