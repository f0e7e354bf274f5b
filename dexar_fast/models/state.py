"""Leave the user's model exactly as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UnsupportedModelError
from ..interrupts import between_steps
from .turns import turn_of


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
    """The model to oneself, in eval mode, without gradients, inference mode and autocast; as it was behind it.

    Waits for the model's turn (`turns`). Dropout must be off for an explanation to be the model's own. Tensors made in
    inference mode could not take part in the answer pass's local gradients, and autocast would mix dtypes within one
    layer. Compiled modules run uncompiled: their graphs know nothing of hooks.
    """
    with between_steps(), turn_of(model) as turn:
        modules = list(model.modules())  # to find them takes longer than to look at them
        outermost = not turn.evaluating
        if outermost:
            turn.training[:] = [module for module in modules if module.training]
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(_main_device(model, modules).type, enabled=False),
            torch.compiler.set_stance("force_eager") if _has_compiled_parts(modules) else nullcontext(),
        ):
            try:
                turn.evaluating = True
                for module in turn.training:
                    module.training = False
                yield
            finally:
                if outermost:
                    for module in turn.training:
                        module.training = True
                    turn.training.clear()
                    turn.evaluating = False


class Notes:
    """What some models note on themselves while they run, such as M-RoPE's offset: the caller's, put back at the end.

    Args:
        module, attributes: where the notes are.
    """

    def __init__(self, module: nn.Module, attributes: Sequence[str]) -> None:
        self.module, self.attributes = module, attributes
        self.kept = self._now()

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *error: object) -> None:
        self.exchange()

    def exchange(self) -> None:
        """Put back those that are kept here, and keep those that were there."""
        now = self._now()
        for name, value in self.kept.items():
            setattr(self.module, name, value)
        self.kept = now

    def _now(self) -> dict[str, Any]:
        return {name: getattr(self.module, name) for name in self.attributes}


def keeping(module: nn.Module, attributes: Sequence[str]) -> Notes:
    """Put back the notes that a model keeps on itself."""
    return Notes(module, attributes)


@contextmanager
def hooked(register: Callable[..., RemovableHandle], hook: Callable[..., Any], **options: Any) -> Iterator[None]:
    """A hook that is there inside and sees what this thread runs: others may use the model at the same time.

    Args:
        register: `register_forward_hook` or another of a module's.
        hook, options: what it takes.
    """
    thread = threading.get_ident()

    def of_this_thread(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == thread else None

    handle = register(of_this_thread, **options)
    try:
        yield
    finally:
        handle.remove()
