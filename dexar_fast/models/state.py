"""Leave the user's model exactly as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UnsupportedModelError


def unwrapped(model: Any) -> Any:
    """The model inside of wrappers that leave its modules in place: `torch.compile` and peft's LoRA and its kin.

    Of an omni model, the part that writes.

    Raises:
        UnsupportedModelError: an adapter of virtual tokens, which the wrapper itself adds.
    """
    if hasattr(model, "_orig_mod"):
        return unwrapped(model._orig_mod)
    if type(model).__module__.startswith("peft."):
        if model.active_peft_config.is_prompt_learning:
            raise UnsupportedModelError(
                f"model: expected an adapter inside the layers (LoRA and its kin); got "
                f"{model.active_peft_config.peft_type}, whose virtual tokens are no part of the prompt. "
                "Explain the base model, or merge the adapter."
            )
        return unwrapped(model.get_base_model())
    if hasattr(model, "thinker"):
        return unwrapped(model.thinker)
    return model


def main_device(model: nn.Module) -> torch.device:
    """Where a model takes its inputs; accelerate knows it for weights that are elsewhere between calls."""
    return _main_device(model, model.modules())


def _main_device(model: nn.Module, modules: Iterable[nn.Module]) -> torch.device:
    for module in modules:
        for hook in _hooks(module):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
    return next(model.parameters()).device


def offloaded_weights(module: nn.Module) -> Mapping[str, Tensor]:
    """Weights of one module that accelerate keeps elsewhere, by name; empty if it does not."""
    for hook in _hooks(module):
        if getattr(hook, "offload", False) and hook.weights_map is not None:
            weights: Mapping[str, Tensor] = hook.weights_map
            return weights
    return {}


def _has_compiled_parts(modules: Iterable[nn.Module]) -> bool:
    # Only then: flex attention is compiled by itself, and is as large as eager attention without it.
    return any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in modules)


def _hooks(module: nn.Module) -> list[Any]:
    hook = vars(module).get("_hf_hook")  # getattr is slow to find nothing on a module, and they are many
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, without gradients, inference mode and autocast; the caller's state comes back after it.

    Dropout must be off for an explanation to be the model's own. Tensors made in inference mode could not take part in
    the answer pass's local gradients, and autocast would mix dtypes within one layer. Compiled modules run uncompiled:
    their graphs know nothing of hooks.
    """
    modules = list(model.modules())  # to find them takes longer than to look at them
    training = [module for module in modules if module.training]
    device = _main_device(model, modules).type
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device, enabled=False),
        torch.compiler.set_stance("force_eager") if _has_compiled_parts(modules) else nullcontext(),
    ):
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def keeping(module: nn.Module, attributes: Sequence[str]) -> Iterator[None]:
    """Put back the notes that some models keep on themselves while they run, such as M-RoPE's offset."""
    values = {name: getattr(module, name) for name in attributes}
    try:
        yield
    finally:
        for name, value in values.items():
            setattr(module, name, value)


@contextmanager
def removing(handle: RemovableHandle) -> Iterator[None]:
    """A hook that is there inside, and gone after it."""
    try:
        yield
    finally:
        handle.remove()
