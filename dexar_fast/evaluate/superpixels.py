"""Insertion and deletion on superpixels, as EAGLE (arXiv 2509.22496) measures attributions of generated tokens.

The image is cut into superpixels (SLIC without a compactness to choose, "SLICO"). In the order of their mean relevance
they are put into a black image (insertion), or blackened (deletion), one after the other. The score is the mean
probability of the answer's tokens; the figure is the area under it over the share of pixels that were moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..layout.grid import to_pixels
from ..methods.forward import Case, picture_log_probabilities
from ..progress import ProgressCallback, silent
from .data import DataSet
from .statistics import bootstrap
from .summary import CHANCE
from .tables import Table, shown

if TYPE_CHECKING:
    from ..explainer import Explainer

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

REGIONS = 64


def superpixel_table(
    explainer: Explainer, data: DataSet, methods: Sequence[str], n: int, *, progress: ProgressCallback = silent
) -> Table:
    """Areas under insertion and deletion curves of answer maps, a row per method.

    Args:
        explainer: the model, with its processor.
        data: samples.
        methods: names for `Explainer.explain`.
        n: number of samples, the first ones.
        progress: called with ``("inserting", done, n)``.

    Raises:
        InputError: scikit-image is not installed.
    """
    require_skimage()
    figures: dict[str, list[tuple[float, float]]] = {}
    samples: list[str] = []
    n = min(n, len(data))
    for index in range(n):
        progress("inserting", index, n)
        sample = data[index]
        inputs, ids = explainer.encode([sample.image], sample.prompt, sample.answer)
        samples.append(sample.key)
        labels = superpixels(sample.image)
        for method in methods:
            e = explainer.explain_ids(inputs, ids, image=sample.image, prompt=sample.prompt, method=method)
            order = ranked(labels, to_pixels(e.answer_map, e.grid))
            case = Case(steps(sample.image, labels, order), sample.prompt, ids)
            (log_p,) = picture_log_probabilities(explainer, [case])
            p = log_p.exp().mean(dim=1).numpy()  # [2 (regions + 1)]
            shares = np.concatenate(([0.0], np.cumsum([(labels == one).mean() for one in order])))
            inserted, deleted = np.split(p, 2)
            figures.setdefault(method, []).append((area(inserted, shares), area(deleted, shares)))
    progress("inserting", n, n)
    body = []
    for method in methods:
        values = 100 * np.array(figures.get(method, np.empty((0, 2))))
        name = f"{method} (chance)" if method in CHANCE else method
        body.append(((name, False), *((shown(bootstrap(values[:, at], samples), 1), False) for at in (0, 1))))
    note = (
        f"{len(samples)} samples, some {REGIONS} superpixels each, black in place of what is absent. Area under the "
        "mean probability of the answer's tokens, in %. Insertion: higher is better; deletion: lower. Mean and 95 % "
        "bootstrap interval."
    )
    return Table("Insertion and deletion of superpixels", ("method", "insertion", "deletion"), tuple(body), note)


def require_skimage() -> None:
    """
    Raises:
        InputError: scikit-image is not installed.
    """
    try:
        import skimage.segmentation  # noqa: F401
    except ImportError as error:
        raise InputError('superpixels: expected scikit-image; pip install "dexar-fast[evaluate]"') from error


def superpixels(image: Image.Image, regions: int = REGIONS) -> Labels:
    """``(height, width)``: the number of each pixel's superpixel, from 0 without gaps; about `regions` of them."""
    from skimage.segmentation import slic

    labels = slic(np.asarray(image.convert("RGB")), n_segments=regions, slic_zero=True, start_label=0)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def ranked(labels: Labels, relevance: Floats) -> NDArray[np.intp]:
    """Superpixels from the largest mean relevance down; equal ones in an arbitrary but fixed order."""
    mean = np.bincount(labels.ravel(), weights=relevance.ravel()) / np.bincount(labels.ravel())
    places = np.random.default_rng(0).permutation(len(mean))
    return places[np.argsort(-mean[places], kind="stable")]


def steps(image: Image.Image, labels: Labels, order: NDArray[np.intp]) -> Iterator[Image.Image]:
    """From black to the whole image, one superpixel more each; then from the whole image to black."""
    pixels = np.asarray(image.convert("RGB"))
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    of_pixel = place[labels]  # [height, width], when each is moved
    for inserting in (True, False):
        for count in range(len(order) + 1):
            moved = of_pixel < count
            yield Image.fromarray(np.where((moved if inserting else ~moved)[..., None], pixels, 0).astype(np.uint8))


def area(scores: Floats, shares: Floats) -> float:
    """Under a curve over shares of pixels from 0 to 1, by trapezoids."""
    return float(np.trapezoid(scores, shares))
