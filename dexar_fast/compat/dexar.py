"""The released DEX-AR code's names, shapes and values, at this package's speed and with any attention.

Replace ``from dexar import DexarWrapper`` by ``from dexar_fast.compat import DexarWrapper``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from ..engine.aggregate import aggregate
from ..engine.encoded import Encoded
from ..errors import InputError
from ..explainer import Explainer
from ..inputs.images import ImageInput, load_image
from ..inputs.layers import LayerSelection
from ..layout.grid import whole_image
from ..render.overlay import overlay
from ..result.appearance import LOOKS
from .quirks import with_reference_quirks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_PROMPT = "USER: <image>\nDescribe the image. ASSISTANT:"


@dataclass(frozen=True)
class DexarResult:
    """What `DexarWrapper.compute_dexar` returns; T tokens, a grid of H x W.

    Attributes:
        per_token_heatmaps: ``(T, H, W)`` in [0, 1].
        per_token_heatmaps_unfiltered: ``(T, H, W)``, every head with weight 1.
        token_weights: ``(T,)``, delta of Eq. 6.
        sentence_heatmap, sentence_heatmap_unfiltered: ``(H, W)`` in [0, 1].
        tokens: T strings, each token decoded alone.
    """

    per_token_heatmaps: Tensor
    per_token_heatmaps_unfiltered: Tensor
    token_weights: Tensor
    sentence_heatmap: Tensor
    sentence_heatmap_unfiltered: Tensor
    tokens: list[str]


class DexarWrapper:
    """Explains target sentences as the released code does.

    Args:
        model: a loaded LLaVA or BakLLaVA, with any attention implementation; it is left as it was.
        processor: its processor; None serves `compute_dexar_ids` only.
        layer_index: first layer, negative from the end (all layers of a model that has fewer); also a band
            ``(start, stop)`` or a list of layers.
        reference_quirks: reproduce the released code's habits, see `dexar_fast.compat.quirks`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin | None,
        layer_index: LayerSelection = -10,
        *,
        reference_quirks: bool = True,
    ) -> None:
        self.explainer = Explainer(model, processor)
        self.layer_index = layer_index
        self.reference_quirks = reference_quirks

    @property
    def model(self) -> PreTrainedModel:
        return self.explainer.model

    @property
    def processor(self) -> ProcessorMixin | None:
        return self.explainer.processor

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | PathLike[str],
        device: str | torch.device | None = None,
        layer_index: LayerSelection = -10,
        *,
        reference_quirks: bool = True,
        **options: Any,
    ) -> DexarWrapper:
        """Load a model by hub id or folder; ``options`` are those of `Explainer.from_pretrained`."""
        explainer = Explainer.from_pretrained(model_name, device=device, **options)
        return cls(explainer.model, explainer.processor, layer_index, reference_quirks=reference_quirks)

    def compute_dexar(
        self, image: ImageInput, target_sentence: str | None, prompt: str = DEFAULT_PROMPT
    ) -> DexarResult:
        """Maps of every token of a sentence that the model is made to say.

        Args:
            image: PIL image, path or array.
            target_sentence: the sentence, tokenized as written; None lets the model write its own.
            prompt: with the image token where the image belongs.

        Returns:
            `DexarResult`.

        Raises:
            InputError: see `Explainer.explain`; or the prompt has several images.
        """
        inputs, answer_ids = self.explainer.encode([load_image(image)], prompt, target_sentence)
        return self.compute_dexar_ids(inputs, answer_ids)

    def compute_dexar_ids(self, model_inputs: Mapping[str, Tensor], target_ids: Tensor) -> DexarResult:
        """The same from tensors: the processor's output for the prompt, and ids ``(T,)`` of the target."""
        n_layers = len(self.explainer.decoder.layers)
        layers = max(self.layer_index, -n_layers) if isinstance(self.layer_index, int) else self.layer_index
        options = self.explainer.options(layers=layers, normalization="reference", unfiltered=True)
        inputs, ids = self.explainer.given(model_inputs, target_ids)
        adapt = with_reference_quirks if self.reference_quirks else None
        request, sums = self.explainer.run(Encoded(inputs, ids), options, adapt=adapt)
        if len(request.layout.grids) != 1:
            raise InputError(f"image: expected one, as the released code does; got {len(request.layout.grids)}")
        (grid,) = request.layout.grids
        maps = aggregate(sums, request.layout, "reference")
        flat = maps.token_maps, maps.unfiltered_token_maps, maps.answer_map, maps.unfiltered_answer_map
        shaped = [m.unflatten(-1, (grid.rows, grid.cols)) for m in flat if m is not None]
        tokenizer = getattr(self.processor, "tokenizer", None)
        return DexarResult(
            per_token_heatmaps=shaped[0],
            per_token_heatmaps_unfiltered=shaped[1],
            token_weights=maps.token_weights,
            sentence_heatmap=shaped[2],
            sentence_heatmap_unfiltered=shaped[3],
            tokens=[tokenizer.decode(i) if tokenizer else str(i) for i in ids.tolist()],
        )


def visualize(
    image: Image.Image,
    heatmap: Tensor,
    title: str = "",
    save_path: str | PathLike[str] | None = None,
    heatmap_opacity: float = LOOKS["heat"].opacity,
) -> Figure:
    """One map ``(H, W)`` over the image, as a matplotlib figure; written to ``save_path`` if given."""
    return visualize_multi(image, heatmap[None], [title], save_path, heatmap_opacity)


def visualize_multi(
    image: Image.Image,
    heatmaps: Tensor,
    tokens: Sequence[str],
    save_path: str | PathLike[str] | None = None,
    heatmap_opacity: float = LOOKS["heat"].opacity,
) -> Figure:
    """Maps ``(T, H, W)`` over the image, a panel a token, as a matplotlib figure; written to ``save_path`` if given."""
    from matplotlib.figure import Figure

    _, height, width = heatmaps.shape
    grid = whole_image(height, width, image.size)
    columns = min(len(tokens), 6)
    rows = -(-len(tokens) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.6 * rows), layout="constrained")
    for index, (heatmap, token) in enumerate(zip(heatmaps.float().cpu().numpy(), tokens, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn = overlay(image.convert("RGB"), heatmap.clip(0, 1), grid, drawing="heat", heatmap_opacity=heatmap_opacity)
        axes.imshow(drawn)
        axes.set_title(token, parse_math=False)
        axes.set_axis_off()
    if save_path is not None:
        figure.savefig(save_path)
    return figure
