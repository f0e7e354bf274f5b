"""What becomes of the answer when the image is removed piece by piece, in the order of a map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from ..errors import InputError
from ..layout.grid import Grid, seen
from ..methods.forward import Case, picture_log_probabilities

if TYPE_CHECKING:
    from ..explainer import Explainer

Floats = NDArray[np.floating[Any]]

STEPS = 10
REMOVALS = ("mean", "blur", "zero")
DIRECTIONS = ("positive", "negative")
BLUR = 0.1
"""Radius of the blur, as a share of the longer side."""


@dataclass(frozen=True)
class Perturbed:
    """What is to be perturbed: one image with its prompt and answer, and the maps that say in which order.

    Attributes:
        image, prompt, answer_ids: the sample; ids ``(T,)``.
        grid: where maps lie on the image; what the model never saw is never removed.
        orders: pixel maps ``(height, width)`` by name; larger is more relevant.
    """

    image: Image.Image
    prompt: str
    answer_ids: Tensor
    grid: Grid
    orders: Mapping[str, Floats]


@dataclass(frozen=True)
class Curve:
    """Teacher-forced log-probability of the answer as the image goes.

    Attributes:
        log_p: ``(F, T)`` at the fractions 0, 1/steps, ..., 1.
    """

    log_p: Floats

    @property
    def fractions(self) -> Floats:
        """``(F,)``, share of the seen pixels that is removed."""
        return np.linspace(0, 1, len(self.log_p))

    def drop(self, tokens: slice = slice(None)) -> Floats:
        """``(F,)``: fall of the mean log-probability per token, in nats. Stays finite where perplexity explodes."""
        mean: Floats = self.log_p[:, tokens].mean(axis=1)
        return mean[0] - mean

    def perplexity(self, tokens: slice = slice(None)) -> Floats:
        """``(F,)``: ``NPPL(f) = PPL(answer | fraction f removed) / PPL(answer)``, of all tokens or of some."""
        ratio: Floats = np.exp(self.drop(tokens))
        return ratio


def area(curve: Floats) -> float:
    """Area under a curve over fractions 0 to 1, by trapezoids."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def perturbation_curves(
    explainer: Explainer,
    samples: Sequence[Perturbed],
    *,
    steps: int = STEPS,
    removal: str = "mean",
    batch_size: int = 32,
) -> list[dict[str, dict[str, Curve]]]:
    """Curves of every order of every sample, most relevant first ("positive") and least relevant first ("negative").

    All pictures of all samples go through the model in common batches. The whole image and the empty one are the same
    for every order of a sample and run once. Pixels of equal relevance go in an arbitrary but fixed order.

    Args:
        explainer: a model with its processor.
        samples: images and orders.
        steps: number of equal steps to 100 %.
        removal: what takes a pixel's place: the "mean" colour of what the model saw, a "blur", or "zero" (black).
        batch_size: pictures per forward pass.

    Returns:
        Per sample, ``curves[name][direction]``.

    Raises:
        InputError: unknown removal, fewer than one step, or an order of another size than its image.
    """
    if removal not in REMOVALS:
        raise InputError(f"removal: expected one of {', '.join(REMOVALS)}; got {removal!r}")
    if steps < 1:
        raise InputError(f"steps: expected at least 1; got {steps}")
    cases = [
        Case(chain((one.image,), removed_images(one, steps, removal)), one.prompt, one.answer_ids) for one in samples
    ]
    curves = []
    for one, log_p in zip(samples, picture_log_probabilities(explainer, cases, batch_size=batch_size), strict=True):
        values = log_p.numpy()
        whole, empty, rest = values[:1], values[1:2], values[2:]
        parts = iter(np.split(rest, 2 * len(one.orders)) if one.orders else ())
        curves.append(
            {
                name: {direction: Curve(np.concatenate((whole, next(parts), empty))) for direction in DIRECTIONS}
                for name in one.orders
            }
        )
    return curves


def removed_images(sample: Perturbed, steps: int, removal: str) -> Iterator[Image.Image]:
    """The empty picture; then per order and direction those with 1/steps, 2/steps, ... of the seen pixels removed."""
    pixels = np.asarray(sample.image.convert("RGB"))
    visible = seen(sample.grid)  # [height, width]
    substitute = _substitute(pixels, visible, removal)
    flat, filling, places = pixels.reshape(-1, 3), substitute.reshape(-1, 3), np.flatnonzero(visible)
    # Ties in raster order would favour the top of the image.
    places = np.random.default_rng(0).permutation(places)

    def without(removed: NDArray[np.intp]) -> Image.Image:
        changed = flat.copy()
        changed[removed] = filling[removed]
        return Image.fromarray(changed.reshape(pixels.shape))

    yield without(places)
    for name, order in sample.orders.items():
        if order.shape != visible.shape:
            raise InputError(f"orders: expected {name} of shape {visible.shape}; got {order.shape}")
        ranked = places[np.argsort(-order.reshape(-1)[places], kind="stable")]
        for direction in (ranked, ranked[::-1]):
            for step in range(1, steps):
                yield without(direction[: round(len(ranked) * step / steps)])


def _substitute(pixels: NDArray[np.uint8], visible: NDArray[np.bool_], removal: str) -> NDArray[np.uint8]:
    """What takes the place of removed pixels, as a whole picture."""
    if removal == "blur":
        blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * max(pixels.shape[:2])))
        return np.asarray(blurred)
    colour = np.zeros(3) if removal == "zero" else pixels[visible].mean(axis=0)
    return np.broadcast_to(colour.round().astype(np.uint8), pixels.shape)
