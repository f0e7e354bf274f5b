"""What every image patch shows: the targets that teach the vision tower before it meets any word."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .language import COLOURS, PLACES, SHAPES, SIZES
from .scenes import SIDE, SceneObject

ASPECTS: dict[str, int] = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
    "place": len(PLACES) + 1,
    "centre": 2,
}
"""Number of classes of each aspect. Class 0 is background; of `centre`, a patch without one."""
IGNORE = -100
"""The class of patches that show too little of an object to be judged."""
LEAST_PIXELS = 8
"""From this many visible pixels on, a patch is said to show the object."""


def patch_labels(objects: Sequence[SceneObject], patch: int) -> NDArray[np.int64]:
    """Classes of each patch of an unscaled scene: int64 (patches, aspects), patches in reading order.

    The aspects name the object that covers the patch, so that a patch's features stay about what is in that
    patch. The patch with an object's centre is marked besides: one patch per object makes objects easy to
    count.
    """
    side = SIDE // patch
    labels = np.zeros((side, side, len(ASPECTS)), dtype=np.int64)
    for thing in objects:
        covered = thing.mask.reshape(side, patch, side, patch).sum(axis=(1, 3))  # (side, side) pixels
        column, row = (int(at // patch) for at in thing.centre)
        classes = [
            COLOURS.index(thing.colour) + 1,
            SHAPES.index(thing.shape) + 1,
            SIZES.index(thing.size) + 1,
            PLACES.index(thing.place) + 1,
            0,
        ]
        labels[(covered > 0) & (covered < LEAST_PIXELS)] = IGNORE
        labels[covered >= LEAST_PIXELS] = classes
        labels[row, column] = [*classes[:-1], 1]
    return labels.reshape(side * side, len(ASPECTS))
