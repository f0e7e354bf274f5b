"""A model that is no class of transformers: a researcher's own module, described by the places of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedModelError
from ..layout.image_layout import LayoutBuilder
from .family import Family, Keys, Prompt

# (attention module, positional arguments, keyword arguments) -> query, key and value, (1, positions, heads, D) each
Read = Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class ModuleParts:
    """Where the parts of a module of your own are, and how it runs; for `Explainer.from_modules`.

    Paths are those of `nn.Module.get_submodule`. Tensors are batch first, of one sample. Attention is softmax over
    query times key, scaled by ``1 / sqrt(D)``, causal where it reads the sequence itself; a layer works on one position
    at a time behind it. The self-check finds out where this is not so.

    Attributes:
        layers: path of the list of decoder layers.
        attention: path, within a layer, of the attention that reads the image. Layers without it are left out.
        head: path of the linear module from states to logits, which ``run`` has to call.
        final_norm: path of the norm before the head; None for a model without one.
        run: ``(model, inputs, answer_ids)``: calls the model once on the prompt and on answer ids ``(n,)`` behind it, n
            from 0 on, so that the head is called with states of which the last ``n + 1`` predict answer tokens.
        grid: rows and columns of the image tokens, which lie row by row over the whole image; or a layout, as
            `Family.layout`.
        inputs: names of the model inputs.
        sequence: ``inputs -> (1, P)`` ids of all that attention reads before the answer, in its order, negative where a
            token of the image stands; for keys "vision" of no use.
        keys: what attention reads, as `Family.keys`: "sequence", "encoder" or "vision".
        projection: path, within attention, of the output projection.
        read: gives query, key and value as attention makes them, with rotary embedding and the like; None for an
            `nn.MultiheadAttention`. `projections` makes one for three linear modules.
        constant: paths, within a layer, of further attention modules (self-attention beside a cross-attention).
        carried: further arguments of a layer that it needs behind attention, as `Family.carried`.
    """

    layers: str
    attention: str
    head: str
    final_norm: str | None
    run: Callable[[Any, Mapping[str, Tensor], Tensor], object]
    grid: tuple[int, int] | Callable[[Prompt, LayoutBuilder], None]
    inputs: tuple[str, ...]
    sequence: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    keys: Keys = "sequence"
    projection: str = "out_proj"
    read: Read | None = None
    constant: tuple[str, ...] = ()
    carried: Mapping[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keys != "vision" and self.sequence is None:
            raise InputError(
                f"sequence: keys={self.keys!r} need a function that gives the ids (1, P) of what attention reads "
                "before the answer, negative where a token of the image stands; got None"
            )


class DescribedModule(nn.Module):
    """A module of one's own in the place where the engine has a model of transformers. The module stays as it is.

    Attributes:
        module: the user's.
        config: says which family this is.
    """

    def __init__(self, module: nn.Module, parts: ModuleParts) -> None:
        super().__init__()
        self.module = module
        self.config = ModuleConfig(_family(module, parts))

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(weight.dtype for weight in self.module.parameters() if weight.is_floating_point())

    def get_output_embeddings(self) -> None:
        """Nothing that a declaration could be compared with."""


@dataclass(frozen=True)
class ModuleConfig:
    """What the engine asks of a configuration."""

    family: Family

    @property
    def model_type(self) -> str:
        return self.family.name

    @property
    def name_or_path(self) -> str:
        return self.family.name


def projections(
    query: str = "q_proj", key: str = "k_proj", value: str = "v_proj", *, heads: int, source: int | str = 0
) -> Read:
    """Query, key and value of attention that is three linear modules and nothing between them and softmax.

    Args:
        query, key, value: paths of the modules within attention.
        heads: number of query heads H; keys and values may have fewer.
        source: which argument of attention keys and values are made of, by place or name: 0 is that of the query.
    """

    def read(attention: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        states = kwargs[source] if isinstance(source, str) else args[source]
        asking = args[0] if args else next(iter(kwargs.values()))
        q = attention.get_submodule(query)(asking)
        width = q.shape[-1] // heads
        k, v = (attention.get_submodule(path)(states).unflatten(-1, (-1, width)) for path in (key, value))
        return q.unflatten(-1, (-1, width)), k, v

    return read


def read_multihead(
    attention: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of an `nn.MultiheadAttention`.

    Raises:
        UnsupportedModelError: attention is something else, not batch first, or has keys that are no token's.
    """
    if not isinstance(attention, nn.MultiheadAttention):
        raise UnsupportedModelError(
            f"model: {type(attention).__name__} is no nn.MultiheadAttention. Say how it makes query, key and value: "
            "read=dexar_fast.models.projections(...), or a function of yours."
        )
    if not attention.batch_first or attention.bias_k is not None or attention.add_zero_attn:
        raise UnsupportedModelError(
            "model: expected nn.MultiheadAttention with batch_first=True, add_bias_kv=False and add_zero_attn=False"
        )
    given: list[Tensor] = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)][:3]
    biases: Sequence[Tensor | None] = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    weights: Sequence[Tensor] = (
        (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        if attention.in_proj_weight is None
        else attention.in_proj_weight.chunk(3)
    )
    query, key, value = (
        nn.functional.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1))
        for x, weight, bias in zip(given, weights, biases, strict=True)
    )
    return query, key, value


def _family(module: nn.Module, parts: ModuleParts) -> Family:
    """The parts as a declaration, with paths from `DescribedModule` on."""

    def path(of_part: str) -> str:
        return f"module.{of_part}" if of_part else "module"

    for name in ("layers", "head", "final_norm"):
        try:
            module.get_submodule(getattr(parts, name) or "")
        except AttributeError as error:
            raise UnsupportedModelError(
                f"model: {type(module).__name__} has no {name} {getattr(parts, name)!r}"
            ) from error
    head = module.get_submodule(parts.head)
    if isinstance(head, nn.Embedding):
        raise UnsupportedModelError(
            f"model: expected a linear module as head; {parts.head!r} is an nn.Embedding. Give the model an nn.Linear "
            "with the same weight (head.weight = embedding.weight), and call it."
        )
    run = parts.run
    return Family(
        name=type(module).__name__,
        model_types=(type(module).__name__,),
        layout=parts.grid if callable(parts.grid) else _whole_image(*parts.grid),
        inputs=parts.inputs,
        base="",
        decoder="",
        layers=path(parts.layers),
        final_norm=None if parts.final_norm is None else path(parts.final_norm),
        head=path(parts.head),
        attention=parts.attention,
        projection=parts.projection,
        keys=parts.keys,
        rows="own",
        run=lambda model, inputs, answer_ids: run(model.module, inputs, answer_ids),
        sequence=parts.sequence,
        gradient_path="replay",
        tap="arguments",
        read=parts.read or read_multihead,
        carried=parts.carried,
        constant=parts.constant,
        placeholders=(),
    )


def _whole_image(rows: int, cols: int) -> Callable[[Prompt, LayoutBuilder], None]:
    def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
        tokens.image((cols, rows))
        tokens.grid(rows, cols)

    return layout
