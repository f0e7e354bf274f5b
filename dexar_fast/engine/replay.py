"""Run one layer again, on some rows alone, with the output of its attention given."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor, nn

from ..models.decoder import Decoder
from ..models.state import hooked
from .answer_rows import AnswerRows


@dataclass(frozen=True)
class LayerInputs:
    """What a layer was called with, as far as its replay needs it, for R rows.

    Attributes:
        residual: ``(1, R, d)``, the residual stream before the layer.
        carried: the arguments that the family names in `Family.carried`.
        axes: of each carried argument, the axis that runs along the rows, or None.
        constants: outputs of the layer's other attention modules, by path.
        n_outputs: how many values the layer's attention returns; 0 for a bare tensor.
    """

    residual: Tensor
    carried: Mapping[str, Any]
    axes: Mapping[str, int | None]
    constants: Mapping[str, Any]
    n_outputs: int

    def at(self, rows: AnswerRows) -> LayerInputs:
        """The same for some of the rows."""
        return replace(
            self,
            residual=rows.of(self.residual),
            carried={name: _at(value, self.axes[name], rows) for name, value in self.carried.items()},
            constants={path: _output_at(value, rows) for path, value in self.constants.items()},
        )


@contextmanager
def watch_outputs(decoder: Decoder, layer: int) -> Iterator[dict[str, Any]]:
    """Collect, by path, what the attention modules of one layer return while it runs."""
    outputs: dict[str, Any] = {}
    family, module = decoder.family, decoder.layers[layer]
    with ExitStack() as stack:
        for path in (family.attention, *family.constant):
            register = module.get_submodule(path).register_forward_hook
            stack.enter_context(hooked(register, lambda _m, _a, output, path=path: outputs.update({path: output})))
        yield outputs


def layer_inputs(decoder: Decoder, layer: int, args: Any, kwargs: Any, outputs: dict[str, Any]) -> LayerInputs:
    """What a replay needs, from the arguments of a layer's call and the outputs of its attention modules.

    Empties ``outputs``, so that no layer's tensors outlive it.
    """
    parameters = list(_parameters(decoder.layers[layer]))
    given = dict(zip(parameters, args)) | kwargs
    of_attention = outputs.pop(decoder.family.attention)
    constants = {path: outputs.pop(path) for path in decoder.family.constant}
    axes = decoder.family.carried
    return LayerInputs(
        residual=given[parameters[0]],
        carried={name: given[name] for name in axes if given.get(name) is not None},
        axes=axes,
        constants=constants,
        n_outputs=len(of_attention) if isinstance(of_attention, tuple) else 0,
    )


def replay(decoder: Decoder, layer: int, inputs: LayerInputs, attention_output: Tensor) -> Tensor:
    """The layer's output ``(1, R, d)`` for its rows, with ``(1, R, H, D)`` in place of its attention's output."""

    def stub(*args: Any, **kwargs: Any) -> Any:
        hidden_states = args[0] if args else kwargs["hidden_states"]
        projected = decoder.project(layer, attention_output.flatten(-2), hidden_states)
        return (projected, *[None] * (inputs.n_outputs - 1)) if inputs.n_outputs else projected

    module = decoder.layers[layer]
    further = list(_parameters(module).values())[1:]
    required = {p.name: None for p in further if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    with ExitStack() as stack:
        stack.enter_context(_forward_replaced(decoder.attentions[layer], stub))
        for path, constant in inputs.constants.items():
            other = module.get_submodule(path)
            stack.enter_context(_forward_replaced(other, lambda *_, constant=constant, **__: constant))
        output = module(inputs.residual, **(required | dict(inputs.carried)))
    replayed: Tensor = output[0] if isinstance(output, tuple) else output
    return replayed


def _parameters(layer: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Of a layer's forward; a forward of the instance's own, which loaders leave there, is looked at anew each time."""
    if "forward" in vars(layer):
        parameters = dict(inspect.signature(layer.forward).parameters)
        parameters.pop("self", None)  # of wrappers that pass for the function of the class, as nnsight's do
        return parameters
    return _of_method(type(layer).forward)


@cache
def _of_method(forward: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return dict(list(inspect.signature(forward).parameters.items())[1:])  # without self


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # Loaders such as accelerate leave a forward of their own on the instance.
    of_instance = vars(module).get("forward")
    own, thread = module.forward, threading.get_ident()

    def of_this_thread(*args: Any, **kwargs: Any) -> Any:
        return (forward if threading.get_ident() == thread else own)(*args, **kwargs)

    module.forward = of_this_thread
    try:
        yield
    finally:
        if of_instance is None:
            del module.forward
        else:
            module.forward = of_instance


def _output_at(value: Any, rows: AnswerRows) -> Any:
    """The rows of what an attention module returned: its output, or a tuple of that and what a layer does not need."""
    if isinstance(value, tuple):
        return (rows.of(value[0]), *[None] * (len(value) - 1))
    return rows.of(value)


def _at(value: Any, axis: int | None, rows: AnswerRows) -> Any:
    """The rows of a tensor, or of every tensor in a tuple; anything else, and what has no such axis, as it is."""
    if axis is None or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(_at(each, axis, rows) for each in value)
    return rows.of(value, axis) if isinstance(value, Tensor) else value
