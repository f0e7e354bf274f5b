"""Operations and bytes of an explanation, from the sizes of the model's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ...engine.row_chunk import bytes_per_row, widths
from ...errors import UnsupportedModelError
from ...inputs.methods import METHODS, Method
from ...models.decoder import Decoder
from ...ops import accumulator


class Shape:
    """The sizes of one model, and of one prompt and answer: what operations and bytes follow from.

    Args:
        decoder: the model.
        P, N, T: prompt, image and answer tokens.
    """

    def __init__(self, decoder: Decoder, P: int, N: int, T: int) -> None:
        self.decoder, self.P, self.N, self.T = decoder, P, N, T
        family = decoder.family
        config: Any = decoder.text_model.config
        self.layers = [LayerShape(decoder, index) for index in range(len(decoder.layers))]
        self.explained = [self.layers[index] for index in decoder.attentions]
        self.heads: int = config.num_attention_heads
        self.item = torch.empty((), dtype=decoder.model.dtype).element_size()
        self.sum_item = accumulator(torch.empty((), dtype=decoder.model.dtype)).itemsize
        start = P if family.keys == "vision" else len(decoder.start_ids({})) if family.rows == "decoder" else P
        self.sequence = start - 1 + T  # positions of the decoder in the end
        self.crossed = {"sequence": 0, "encoder": P, "vision": N}[family.keys]  # keys of cross-attention

    def forward(self, rows: int, pairs: int, *, crossing: bool) -> int:
        """Operations of the layers over some rows, with so many pairs of row and key in self-attention.

        ``crossing``: keys and values of cross-attention are computed too, not taken from the cache.
        """
        return sum(
            2 * (layer.weights - layer.crossing) * rows
            + 2 * layer.crossing * self.crossed * crossing
            + 4 * layer.self_width * pairs
            + 4 * layer.cross_width * rows * self.crossed
            for layer in self.layers
        )

    def prefill(self) -> int:
        if self.decoder.family.rows != "cached":
            return 0
        return self.forward(self.P, self.P**2, crossing=True) + self._head(self.P)

    def answer_pass(self, chunk: int) -> int:
        family = self.decoder.family
        if family.rows == "cached":
            operations = self.forward(self.T, self._pairs(chunk), crossing=False)
        else:
            operations = self.forward(self.sequence, self.sequence**2, crossing=True)
            operations += self._head(self.sequence) if family.rows == "decoder" else 0
        return operations + (2 * self.tail * self.T if family.gradient_path == "replay" else 0)

    def _head(self, rows: int) -> int:
        """Where the head is part of the base model, it runs with it."""
        base, head = self.decoder.family.base, self.decoder.family.head
        inside = not base or head.startswith(f"{base}.")
        return 2 * self.decoder.vocabulary_size * widths(self.decoder)[0] * rows if inside else 0

    def tail_gradients(self) -> int:
        """A replay differentiates T rows; while the model runs, all that run: of an encoder-decoder the first too."""
        leaf = self.decoder.family.gradient_path == "leaf" and self.decoder.family.rows == "decoder"
        return 2 * self.tail * (self.sequence if leaf else self.T)

    def ops(self, chunk: int, methods: Sequence[str]) -> int:
        """Products of each method's signals: over all keys for the scores (over the image keys where there is no text
        set) and over the image keys for the maps, and the sum over heads. Probabilities need the log-sum-exp of all.
        """
        pairs = self.T * self.crossed if self.crossed else self._pairs(chunk)
        maps = self.T * self.N
        products = sum(products_of(METHODS[name], pairs, maps) for name in methods)
        sums = sum(len(METHODS[name].pairs) * maps for name in methods)
        return sum(2 * layer.explained_width * products + 2 * self.heads * sums for layer in self.explained)

    @property
    def tail(self) -> int:
        """Weights behind the attention that is explained, of all layers that are."""
        return sum(layer.tail for layer in self.explained)

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    def _pairs(self, chunk: int) -> int:
        """Pairs of answer row and key of self-attention, chunk by chunk."""
        stops = [min(start + chunk, self.T) for start in range(0, self.T, chunk)]
        return sum((stop - start) * (self.P - 1 + stop) for start, stop in zip(range(0, self.T, chunk), stops))

    def memory(self, chunk: int, methods: Sequence[str]) -> dict[str, int]:
        """Bytes by the names of `MEMORY`."""
        n_sums = sum(len(METHODS[name].pairs) for name in methods)
        family, item = self.decoder.family, self.item
        cached = family.rows == "cached"
        kept = sum(
            2 * layer.kv_width * (self.crossed if layer.cross_width else self.sequence)
            for layer in (self.layers if cached else ())
        )
        of_layer = self.P if cached else self.sequence
        values = mixed = 0
        if any(METHODS[name].beside for name in methods):
            # The values of a layer less their mean, and the two maps of a token while they are mixed.
            values = max(layer.kv_width for layer in self.explained) * (self.crossed or self.sequence) * item
            mixed = 4
        return {
            "cache": kept * item,
            "prefill": self._activations(of_layer),
            "row chunk": chunk * (bytes_per_row(self.decoder) + self.sequence + self._eager(self.sequence)) + values,
            "maps": (4 + n_sums + mixed) * self.T * self.N * self.sum_item,
            "scores": 3 * (1 + len(methods)) * self.T * len(self.explained) * self.heads * self.sum_item,
        }

    def peak(self, memory: dict[str, int]) -> int:
        """The largest of prefill, with the prompt's cache, and of answer rows and normalising, with the whole cache."""
        rows = memory["row chunk"] + memory["scores"] // 2
        rows += memory["maps"] - 4 * self.T * self.N * self.sum_item  # no copies to normalise yet
        of_prompt = memory["cache"] * self.P // (self.P + self.T)
        return max(of_prompt + memory["prefill"], memory["cache"] + max(rows, memory["maps"] + memory["scores"]))

    def plain_peak(self) -> int:
        logits = self.T * self.decoder.vocabulary_size * self.item
        width, _ = widths(self.decoder)
        return max(self._activations(self.P + self.T), logits + 2 * (self.P + self.T) * width * self.item)

    def _activations(self, rows: int) -> int:
        """Of one layer without gradients: its MLP's, and the residual stream with what goes into the MLP."""
        width, inner = widths(self.decoder)
        return rows * ((3 * inner + 7 * width) * self.item + self._eager(rows))

    def _eager(self, keys: int) -> int:
        """Bytes of one row's attention probabilities, which only eager attention has, in float32 and in the dtype."""
        eager = self.decoder.attention_implementation == "eager"
        return self.heads * keys * (self.item + 4) if eager else 0


PRODUCTS = {"gradient": 1, "attention": 1, "score_gradient": 2, "contribution": 2}
"""``dO V^T``, ``Q K^T`` or both, by signal."""


def products_of(method: Method, pairs: int, maps: int) -> int:
    """How many pairs of a row and a key a method multiplies, of as many with any key and with an image key."""
    products = sum(PRODUCTS[of_maps] * maps for _, of_maps in method.pairs)
    for of_scores in {of_scores for of_scores, _ in method.pairs}:
        products += PRODUCTS[of_scores] * (pairs if method.filters_heads else maps)
        products += pairs if of_scores != "gradient" else 0
    return products


class LayerShape:
    """Numbers of weights of one decoder layer, and widths ``H D`` of its attention (0: it has none of that kind).

    Attributes:
        weights: all that a row is multiplied with.
        tail: those behind the attention that is explained.
        crossing: those that make keys and values of a cross-attention.
        self_width, cross_width: of self-attention and of cross-attention; ``explained_width`` of the one explained.
        kv_width: ``H_kv D`` of the keys that a cache holds.
    """

    def __init__(self, decoder: Decoder, index: int) -> None:
        family, layer, attention = decoder.family, decoder.layers[index], decoder.attentions.get(index)
        used = _experts_used(decoder)
        self.weights = weights_of(layer, used)
        self.tail = self.crossing = self.cross_width = self.explained_width = 0
        self.self_width = self.kv_width = 0
        crosses = family.keys != "sequence"
        if attention is not None:
            projection = attention.get_submodule(family.projection)
            inside = weights_of(attention, used) - weights_of(projection, used)
            constant = sum(weights_of(layer.get_submodule(path), used) for path in family.constant)
            self.tail = self.weights - inside - constant
            self.explained_width = width_in(projection)
            self.kv_width = _kv_width(attention, decoder.text_model.config, self.explained_width)
            if crosses:
                self.cross_width = self.explained_width
                query = sum(weights_of(part, used) for name, part in attention.named_children() if name[0] == "q")
                self.crossing = inside - query
            else:
                self.self_width = self.explained_width
        of_itself = getattr(layer, "self_attn", None) or getattr(layer, "attn", None)
        if attention is not None and family.constant:
            of_itself = layer.get_submodule(family.constant[0])
        if crosses and of_itself is not None:
            self.self_width, _ = widths(decoder)
            if attention is None:
                self.kv_width = _kv_width(of_itself, decoder.text_model.config, self.self_width)


def weights_of(module: nn.Module, experts_used: float = 1.0) -> int:
    """Weights that one row is multiplied with: matrices, not embeddings; of experts those that a router chooses.

    Of packed weights (4 bits) the sizes that their module declares.
    """
    count = 0.0
    for path, part in module.named_modules():
        if isinstance(part, nn.Embedding):
            continue
        if isinstance(part, nn.Linear):
            own = part.in_features * part.out_features
        else:
            own = sum(weight.numel() for weight in part.parameters(recurse=False) if weight.ndim > 1)
        count += own * (experts_used if "experts" in path.split(".") else 1)
    return round(count)


def _experts_used(decoder: Decoder) -> float:
    """The share of a mixture's experts that work on a row."""
    config: Any = decoder.text_model.config
    used = next((n for name in ("num_experts_per_tok", "top_k_experts") if (n := getattr(config, name, None))), None)
    names = "num_experts", "n_routed_experts", "num_local_experts"
    total = next((n for name in names if (n := getattr(config, name, None))), None)
    return used / total if used and total else 1.0


def _kv_width(attention: nn.Module, config: Any, width: int) -> int:
    made = getattr(getattr(attention, "k_proj", None), "out_features", None)
    if made is not None:
        return int(made)
    if getattr(attention, "is_kv_shared_layer", False):
        return 0  # it reads another layer's
    heads: int = config.num_attention_heads
    return width * (getattr(config, "num_key_value_heads", None) or heads) // heads


def width_in(projection: nn.Module) -> int:
    """Width of what a projection takes, ``H D`` of an output projection."""
    width = getattr(
        projection, "nx" if isinstance(projection, Conv1D) else "in_features", None
    )  # a Linear turned round
    if width is not None:
        return int(width)
    raise UnsupportedModelError(f"estimate: expected projections that are Linear; got {type(projection).__name__}")
