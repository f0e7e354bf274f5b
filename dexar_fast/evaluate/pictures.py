"""Pictures of the samples on which the first method did best, as usual, and worst."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..render.fit import fit
from ..render.overlay import overlay
from ..result.atomic import write_atomically
from .data import DataSet, Sample
from .records import Record
from .run import Plan, explain_sample
from .summary import CHANCE

if TYPE_CHECKING:
    from ..explainer import Explainer

PANEL = 224
"""Pixels of a panel's longer side; small images are enlarged."""
_GAP = 6


def choose(records: Sequence[Record], method: str) -> dict[str, str]:
    """Keys of the samples with the best, median and worst answer map of a method, by SNR."""
    scored = [
        (record.snr, record.sample)
        for record in records
        if record.target == "answer" and record.method == method and not record.control and record.snr is not None
    ]
    scored.sort()
    if not scored:
        return {}
    return {"best": scored[-1][1], "median": scored[len(scored) // 2][1], "worst": scored[0][1]}


def write_pictures(
    explainer: Explainer, data: DataSet, plan: Plan, records: Sequence[Record], folder: Path
) -> dict[str, Path]:
    """Write `best.png`, `median.png` and `worst.png`: the image with its mask, then every method's answer map.

    Returns:
        Paths by name; empty where nothing was scored.
    """
    index_of = {data.key(index): index for index in range(min(plan.n, len(data)))}
    written = {}
    for name, key in choose(records, plan.methods[0]).items():
        sample = data[index_of[key]]
        explained, _ = explain_sample(explainer, sample, plan)
        maps = {m: e.answer_map for m, e in explained.explanations.items() if m not in CHANCE}
        grid = next(iter(explained.explanations.values())).grid
        small, small_grid = fit(sample.image, grid, PANEL)
        # Whole maps are compared, their weak parts too.
        drawn = (overlay(small, one, small_grid, drawing="heat") for one in maps.values())
        panels = [_with_outline(sample, PANEL), *drawn]
        png = BytesIO()
        _side_by_side(panels).save(png, "PNG")
        written[name] = write_atomically(folder / f"{name}.png", png.getvalue())
    return written


def order_of_panels(plan: Plan) -> list[str]:
    """What the panels of a picture show, from the left."""
    return ["image and mask", *(method for method in plan.methods if method not in CHANCE)]


def _with_outline(sample: Sample, longest: int) -> Image.Image:
    """The image, dark outside the mask."""
    pixels = np.asarray(sample.image.convert("RGB")).copy()
    if sample.mask is not None:
        pixels[~sample.mask] //= 3
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    return image


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    scaled = [_enlarged(panel) for panel in panels]
    width = sum(panel.width for panel in scaled) + _GAP * (len(scaled) - 1)
    canvas = Image.new("RGB", (width, max(panel.height for panel in scaled)), "white")
    left = 0
    for panel in scaled:
        canvas.paste(panel, (left, 0))
        left += panel.width + _GAP
    return canvas


def _enlarged(panel: Image.Image) -> Image.Image:
    factor = PANEL / max(panel.size)
    size = max(1, round(panel.width * factor)), max(1, round(panel.height * factor))
    return panel.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
