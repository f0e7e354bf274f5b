"""PascalVOC 2012 segmentation in its standard folders, under the paper's protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ...inputs.images import load_image
from .sample import Sample

PROMPT = "USER: <image>\nClassify the image. ASSISTANT:"
BACKGROUND, VOID = 0, 255


class PascalVOC:
    """Images of one list; the model answers freely, and the mask is the union of all objects (no background, no void).

    Args:
        folder: the one that holds `JPEGImages`, `SegmentationClass` and `ImageSets` (mostly `VOCdevkit/VOC2012`).
        split: a list of `ImageSets/Segmentation`.

    Raises:
        InputError: the list is not there.
    """

    name = "voc"

    def __init__(self, folder: Path, split: str = "val") -> None:
        self.folder = folder
        listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listing.is_file():
            raise InputError(f"data: expected a PascalVOC folder with {listing.relative_to(folder)}; got {folder}")
        self.names = listing.read_text().split()

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image = load_image(self.folder / "JPEGImages" / f"{name}.jpg")
        path = self.folder / "SegmentationClass" / f"{name}.png"
        try:
            with Image.open(path, formats=("PNG",)) as opened:
                classes = np.asarray(opened)  # palette indices are class numbers
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"data: {path} is not a readable class mask ({error})") from error
        if classes.ndim != 2 or classes.shape != (image.height, image.width):
            raise InputError(f"data: expected palette indices of {image.size} pixels in {path}; got {classes.shape}")
        return Sample(name, image, PROMPT, None, (classes != BACKGROUND) & (classes != VOID))
