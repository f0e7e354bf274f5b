"""What a loaded model is to this package, found by running it once on a small picture."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

PROBE_SIZE = 224, 224  # pixels


@dataclass(frozen=True)
class ModelReport:
    """What `Explainer.self_test` found.

    Attributes:
        model, model_class, family: name as it was loaded, class of transformers, and family of this package.
        layers: decoder layers; ``explained_layers`` those with an attention that reads the image, from 0.
        heads: query heads H of a layer.
        keys: what that attention reads: "sequence", "encoder" or "vision".
        image_tokens: N of a picture of ``PROBE_SIZE`` pixels.
        grid: ``(rows, cols)`` of its map; None for a model without one.
        gradient_path: "leaf" or "replay".
        attention, dtype, device: as loaded.
    """

    model: str
    model_class: str
    family: str
    layers: int
    explained_layers: tuple[int, ...]
    heads: int
    keys: str
    image_tokens: int
    grid: tuple[int, int] | None
    gradient_path: str
    attention: str
    dtype: str
    device: str


def probe_image() -> Image.Image:
    """A smooth picture that is different everywhere."""
    width, height = PROBE_SIZE
    across = Image.linear_gradient("L").resize(PROBE_SIZE)
    return Image.merge("RGB", (across, across.rotate(90), Image.new("L", (width, height), 128)))
