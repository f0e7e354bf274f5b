"""What every image patch shows: the targets that teach the vision tower before it meets any word."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .language import COLOURS, PLACES, SHAPES, SIZES
from .rich_language import PATTERNS
from .scenes import SQUARE, SceneObject

ASPECTS: dict[str, int] = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
    "place": len(PLACES) + 1,
    "centre": 2,
}
"""Number of classes of each aspect that the embedded model's tower learns. Class 0 is background; of `centre`, a patch
without one."""
ALL_ASPECTS: dict[str, int] = {**ASPECTS, "pattern": len(PATTERNS) + 1}
"""The same with what only the richer scenes have."""
IGNORE = -100
"""The class of patches that show too little of an object to be judged."""
LEAST_PART = 8
"""From one in so many of its pixels on, a patch is said to show the object."""


def patch_labels(
    objects: Sequence[SceneObject],
    patch: int,
    size: tuple[int, int] = SQUARE,
    aspects: Sequence[str] = tuple(ASPECTS),
) -> NDArray[np.int64]:
    """Classes of each patch of an unscaled scene: int64 (patches, aspects), patches in reading order.

    `size` is (width, height) of the scene, `aspects` some of `ALL_ASPECTS`.

    The aspects name the object that covers the patch, so that a patch's features stay about what is in that
    patch. The patch with an object's centre is marked besides: one patch per object makes objects easy to
    count.
    """
    columns, rows = (length // patch for length in size)
    least = patch * patch // LEAST_PART
    labels = np.zeros((rows, columns, len(aspects)), dtype=np.int64)
    for thing in objects:
        covered = thing.mask.reshape(rows, patch, columns, patch).sum(axis=(1, 3))  # (rows, columns) pixels
        x, y = (int(at // patch) for at in thing.centre)
        classes = {
            "colour": COLOURS.index(thing.colour) + 1,
            "shape": SHAPES.index(thing.shape) + 1,
            "size": SIZES.index(thing.size) + 1,
            "place": PLACES.index(thing.place) + 1,
            "pattern": PATTERNS.index(thing.pattern) + 1,
            "centre": 0,
        }
        labels[(covered > 0) & (covered < least)] = IGNORE
        labels[covered >= least] = [classes[aspect] for aspect in aspects]
        labels[y, x] = [{**classes, "centre": 1}[aspect] for aspect in aspects]
    return labels.reshape(rows * columns, len(aspects))
