"""What `explain` will cost, before it runs: operations, time and memory, from the model's own modules.

A layer's work behind attention takes 2 operations per weight and row, forward as well as backward; attention takes
``4 H D`` per row and key; the product ``dO V^T`` takes ``2 H D`` per row and key for the scores, and again per row and
image key for the maps. Everything else (norms, activations, rotary embedding, softmax) is not counted. Seconds come
from rates that are measured now: products of the model's own modules, streamed one after the other, at as many rows as
the stage has, and one layer's scores and maps by the backend itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from transformers.pytorch_utils import Conv1D

from ..engine.answer_pass import run_up_to_text_model
from ..engine.request import lay_out
from ..engine.row_chunk import bytes_per_row, check_row_chunk, rows_at_once, widths
from ..errors import InputError, UnsupportedModelError
from ..models.report import probe_image
from ..models.state import evaluating, main_device
from ..ops import KeySets, accumulator, causal_rows, score_and_accumulate

if TYPE_CHECKING:
    from rich.console import Group

    from ..engine.engine import Engine
    from ..models.decoder import Decoder

STAGES = {
    "vision": "the prompt up to the language model: image features",
    "prefill": "the prompt through the language model",
    "answer pass": "the answer rows (in some families the prompt too) through the language model",
    "tail gradients": "each layer's gradient with respect to its attention output",
    "ops": "head scores and maps of all layers",
}
MEMORY = {
    "cache": "keys and values of prompt and answer",
    "prefill": "activations of one layer over the prompt",
    "row chunk": "activations of one layer's tail over the rows that run at once",
    "maps": "sums over layers, while they are normalised",
    "scores": "of heads",
}
_MEASURING = 0.1  # seconds that one measurement may take
_FEW, _MANY = 16, 512  # rows
_STREAMED = 1 << 28  # bytes: more than caches hold


@dataclass(frozen=True)
class StageEstimate:
    """One stage of an explanation.

    Attributes:
        name: a key of `STAGES`, which says what it is.
        operations: multiplications and additions of its products.
        seconds: of these, at the rate that was measured.
        bound: what sets the rate: "operations", or "weights", which few rows only stream from memory.
    """

    name: str
    operations: int
    seconds: float
    bound: str


@dataclass(frozen=True)
class Estimate:
    """What explaining T answer tokens after P prompt tokens takes. Without grounding and generation.

    Attributes:
        prompt_tokens, image_tokens, answer_tokens: P, N and T.
        stages: in their order; of a reused cache the first two are missing.
        memory: bytes of each part, by the names of `MEMORY`; they are not all there at once.
        peak_bytes: most memory in use at once, above the model's weights.
        plain_peak_bytes: the same of a plain forward pass over prompt and answer, without a cache, with the logits of
            the answer rows.
        row_chunk: answer tokens that run at once.
        device, dtype: of the model.
    """

    prompt_tokens: int
    image_tokens: int
    answer_tokens: int
    stages: tuple[StageEstimate, ...]
    memory: dict[str, int]
    peak_bytes: int
    plain_peak_bytes: int
    row_chunk: int
    device: str
    dtype: str

    @property
    def operations(self) -> int:
        """Of all stages."""
        return sum(each.operations for each in self.stages)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(each.seconds for each in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values, with the sums."""
        return {**asdict(self), "operations": self.operations, "seconds": self.seconds}

    def table(self) -> Group:
        """Stages and memory as tables for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        stages = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
        stages.add_column("stage", "total", no_wrap=True)
        stages.add_column("GFLOP", f"{self.operations / 1e9:.2f}", justify="right", no_wrap=True)
        stages.add_column("seconds", f"{self.seconds:.4f}", justify="right", no_wrap=True)
        stages.add_column("bound by", no_wrap=True)
        stages.add_column("what it is", overflow="fold")
        for each in self.stages:
            figures = f"{each.operations / 1e9:.2f}", f"{each.seconds:.4f}"
            stages.add_row(each.name, *figures, each.bound, STAGES[each.name])
        memory = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True, caption=self._summary(), caption_style="")
        memory.caption_justify = "left"
        memory.add_column("memory", "at once", no_wrap=True)
        memory.add_column("MiB", _mib(self.peak_bytes), justify="right", no_wrap=True)
        plain = f"above the weights; a plain forward with its logits: {_mib(self.plain_peak_bytes)}"
        memory.add_column("what it is", plain, overflow="fold")
        for name, size in self.memory.items():
            memory.add_row(name, _mib(size), MEMORY[name])
        return Group(stages, memory)

    def __str__(self) -> str:
        from ..plain_text import plain_text

        return plain_text(self.table())

    def _summary(self) -> str:
        return (
            f"{self.prompt_tokens} prompt tokens, {self.image_tokens} of images, {self.answer_tokens} answer tokens in "
            f"chunks of {self.row_chunk}, {self.dtype} on {self.device}. Neither generation nor grounding."
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def estimate(
    explainer: Engine,
    prompt_tokens: int,
    image_tokens: int,
    answer_tokens: int,
    *,
    row_chunk: int | str,
    cache: bool,
) -> Estimate:
    """See `Explainer.estimate`."""
    decoder = explainer.decoder
    if decoder.family.rows == "own":
        raise UnsupportedModelError(
            f"estimate: expected a model of transformers, whose products are known; {decoder.family.name} is a module "
            "of your own"
        )
    _check_lengths(decoder, prompt_tokens, image_tokens, answer_tokens, cache)
    check_row_chunk(row_chunk)
    device = main_device(explainer.model)
    gpus = [device] if device.type == "cuda" else []
    with evaluating(explainer.model), torch.random.fork_rng(gpus):  # what is measured takes random numbers
        shape = Shape(decoder, prompt_tokens, image_tokens, answer_tokens)
        chunk = answer_tokens
        if decoder.family.rows == "cached":
            chunk = min(answer_tokens, rows_at_once(decoder, row_chunk))
        memory = shape.memory(chunk)
        return Estimate(
            prompt_tokens=prompt_tokens,
            image_tokens=image_tokens,
            answer_tokens=answer_tokens,
            stages=tuple(_stages(explainer, shape, chunk, cache)),
            memory=memory,
            peak_bytes=shape.peak(memory),
            plain_peak_bytes=shape.plain_peak(),
            row_chunk=chunk,
            device=str(device),
            dtype=str(explainer.model.dtype).removeprefix("torch."),
        )


def lengths(explainer: Engine, images: Sequence[Image.Image], prompt: str) -> tuple[int, int]:
    """P and N of a prompt with its images.

    Raises:
        InputError: as for `Explainer.encode`.
    """
    inputs, _ = explainer.encode(images, prompt, "")
    layout = lay_out(explainer.decoder, explainer.processor, inputs, [image.size for image in images])
    return explainer.decoder.prompt_ids(inputs).shape[1], layout.n_image_tokens


def _check_lengths(decoder: Decoder, P: int, N: int, T: int, cache: bool) -> None:
    for name, value, least in (("prompt_tokens", P, 1), ("image_tokens", N, 0), ("answer_tokens", T, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: expected a number from {least} on; got {value!r}")
    if decoder.family.keys != "vision" and N > P:
        raise InputError(f"image_tokens: expected at most the {P} prompt_tokens, which include them; got {N}")
    if cache and decoder.family.rows != "cached":
        raise InputError(f"cache: answers of the family {decoder.family.name!r} do not run over one; leave it out")


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

    def ops(self, chunk: int) -> int:
        """``dO V^T`` over all keys for the scores and over the image keys for the maps, and the sum over heads."""
        pairs = self.T * self.crossed if self.crossed else self._pairs(chunk)
        maps = self.T * self.N
        return sum(2 * layer.explained_width * (pairs + maps) + 2 * self.heads * maps for layer in self.explained)

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

    def memory(self, chunk: int) -> dict[str, int]:
        """Bytes by the names of `MEMORY`."""
        family, item = self.decoder.family, self.item
        cached = family.rows == "cached"
        kept = sum(
            2 * layer.kv_width * (self.crossed if layer.cross_width else self.sequence)
            for layer in (self.layers if cached else ())
        )
        of_layer = self.P if cached else self.sequence
        return {
            "cache": kept * item,
            "prefill": self._activations(of_layer),
            "row chunk": chunk * (bytes_per_row(self.decoder) + self.sequence + self._eager(self.sequence)),
            "maps": 5 * self.T * self.N * self.sum_item,
            "scores": 6 * self.T * len(self.explained) * self.heads * self.sum_item,
        }

    def peak(self, memory: dict[str, int]) -> int:
        """The largest of prefill, with the prompt's cache, and of answer rows and normalising, with the whole cache."""
        rows = memory["row chunk"] + memory["maps"] // 5 + memory["scores"] // 2
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
            self.explained_width = _width_in(projection)
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


def _width_in(projection: nn.Module) -> int:
    """Width of what a projection takes, ``H D`` of an output projection."""
    width = getattr(
        projection, "nx" if isinstance(projection, Conv1D) else "in_features", None
    )  # a Linear turned round
    if width is not None:
        return int(width)
    raise UnsupportedModelError(f"estimate: expected projections that are Linear; got {type(projection).__name__}")


def _stages(explainer: Engine, shape: Shape, chunk: int, cache: bool) -> list[StageEstimate]:
    rates = _Rates(explainer.decoder)
    at_once = chunk if explainer.family.rows == "cached" else shape.sequence
    stages = []
    if not cache:
        vision = _before_text_model(explainer)
        if vision is not None:
            encoder = explainer.family.keys == "encoder"
            share = shape.P / vision.prompt_tokens if encoder else shape.N / vision.image_tokens
            operations, seconds = round(vision.operations * share), vision.seconds * share
            stages.append(StageEstimate("vision", operations, seconds, "operations"))
        stages.append(rates.stage("prefill", shape.prefill(), shape.P, shape.weights))
    stages += [
        rates.stage("answer pass", shape.answer_pass(chunk), at_once, shape.weights * ceil(shape.T / chunk)),
        rates.stage("tail gradients", shape.tail_gradients(), chunk, shape.tail * ceil(shape.T / chunk)),
        StageEstimate("ops", shape.ops(chunk), shape.ops(chunk) / _rate_of_ops(explainer, shape, chunk), "operations"),
    ]
    return [each for each in stages if each.operations]


@dataclass(frozen=True)
class _BeforeTextModel:
    operations: int
    seconds: float
    prompt_tokens: int
    image_tokens: int


_of_probe: WeakKeyDictionary[Engine, _BeforeTextModel] = WeakKeyDictionary()


def _before_text_model(explainer: Engine) -> _BeforeTextModel | None:
    """What the vision tower (and an encoder) takes for the self-test's small picture; None without a processor."""
    if explainer.processor is None:
        return None
    if explainer not in _of_probe:
        image, prompt = probe_image(), explainer.prompt_encoder.probe()
        inputs, _ = explainer.encode([image], prompt, "")
        with Counter() as counter:
            run_up_to_text_model(explainer.decoder, inputs)
        seconds = _seconds(lambda: run_up_to_text_model(explainer.decoder, inputs), main_device(explainer.model))
        P, N = lengths(explainer, [image], prompt)
        _of_probe[explainer] = _BeforeTextModel(counter.operations, seconds, P, N)
    return _of_probe[explainer]


class Counter(TorchDispatchMode):
    """Operations that run inside, by the formulas of torch's `FlopCounterMode`, which itself trips over some models.

    Attributes:
        operations: counted so far; a C++ or Triton kernel of this package is none that torch knows.
    """

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        elif "scaled_dot_product" in str(func._overloadpacket):  # of a CPU
            self.operations += sdpa_flop_count(*(each.shape for each in args[:3]))
        return out


class _Rates:
    """Operations a second of the layers' own products, measured when they are asked for."""

    def __init__(self, decoder: Decoder) -> None:
        self.device, self.dtype = main_device(decoder.model), decoder.model.dtype
        self.products = _products(decoder, self.device)
        self._measured: dict[int, float] = {}

    def stage(self, name: str, operations: int, rows: int, streamed: int) -> StageEstimate:
        """A stage of so many rows at once, which reads so many weights from memory."""
        few = streamed * self.per_weight(1)
        many = operations * self.per_weight(_MANY) / (2 * _MANY)
        rows = min(rows, _MANY)
        seconds = operations * self.per_weight(rows) / (2 * rows)
        return StageEstimate(name, operations, seconds, "weights" if few > many else "operations")

    def per_weight(self, rows: int) -> float:
        """Seconds that so many rows take for each weight that they are multiplied with."""
        if rows not in self._measured:
            self._measured[rows] = self._measure(rows)
        return self._measured[rows]

    def _measure(self, rows: int) -> float:
        """Product after product, for `_MEASURING` seconds; on a GPU, which is only asked in the end, all of them."""
        inputs = {
            width: torch.randn(rows, width, device=self.device, dtype=self.dtype)
            for width in map(_width_in, self.products)
        }
        of_each = [(product.forward, inputs[_width_in(product)], weights_of(product)) for product in self.products]
        forward, x, _ = of_each[0]
        forward(x[:_FEW])  # warms up
        _wait(self.device)
        begin, weights, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < _MEASURING:
            for forward, x, size in of_each:
                forward(x)  # past hooks, which are the user's
                weights += size
                elapsed = time.perf_counter() - begin
                if self.device.type == "cpu" and elapsed >= _MEASURING:
                    break
            _wait(self.device)
            elapsed = time.perf_counter() - begin
        return elapsed / weights


def _products(decoder: Decoder, device: torch.device) -> list[nn.Module]:
    """Modules of the first layers, more than caches hold: those that are but a product with a matrix."""
    chosen: list[nn.Module] = []
    size = 0
    for layer in decoder.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear | Conv1D) and module.weight.device in (device, torch.device("meta")):
                chosen.append(module)
                size += module.weight.numel() * module.weight.element_size()
        if size > _STREAMED:
            break
    return chosen


def _rate_of_ops(explainer: Engine, shape: Shape, chunk: int) -> float:
    """Operations a second of one layer's scores and maps."""
    device, dtype = main_device(explainer.model), explainer.model.dtype
    layer, H = shape.explained[0], shape.heads
    D = layer.explained_width // H
    K, N = shape.crossed or shape.sequence, shape.N
    value = torch.randn(max(1, layer.kv_width // D), K, D, device=device, dtype=dtype)
    image = torch.arange(N, device=device)
    text = torch.arange(K, device=device) >= N

    def seconds(rows: int) -> float:
        d_out = torch.randn(rows, H, D, device=device, dtype=dtype)
        keys = KeySets(image, text, causal_rows(torch.arange(K - rows, K, device=device).clamp(min=0)))
        maps = d_out.new_zeros(rows, N, dtype=accumulator(d_out))
        return _seconds(lambda: score_and_accumulate(d_out, value, keys, maps, backend=explainer.backend), device)

    rows = _affordable(chunk, seconds)
    return (2 * H * D * rows * (K + N) + 2 * H * rows * N) / seconds(rows)


def _affordable(rows: int, seconds: Callable[[int], float]) -> int:
    """As many of the rows as can be measured in `_MEASURING` seconds."""
    if rows <= _FEW:
        return rows
    return max(_FEW, min(rows, _MANY, int(_FEW * _MEASURING / seconds(_FEW))))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, from as many as `_MEASURING` seconds hold; the first one warms up."""
    run()
    _wait(device)
    begin, n, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < _MEASURING:
        run()
        _wait(device)
        elapsed, n = time.perf_counter() - begin, n + 1
    return elapsed / n


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
