"""Two tests of answer maps on answers that the model writes itself.

*Pointing*: the model is asked where something is, and the map of its answer should point at that thing: the strongest
cell touches the mask. *Flipping*: the eighth of the cells that the map names first takes the image's mean colour, and
the model is asked again; a map that names what the answer rests on changes many answers. (AnswerMap's two tests, as we
read them.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..layout.grid import Grid, cell_edges, seen, to_cells
from ..progress import ProgressCallback, silent
from .data import DataSet
from .statistics import bootstrap
from .summary import CEILING, CHANCE
from .tables import Table, shown

if TYPE_CHECKING:
    from ..explainer import Explainer

Floats = NDArray[np.floating[Any]]

DELETED = 0.125
"""Share of the cells."""


def answer_tests(
    explainer: Explainer, data: DataSet, methods: Sequence[str], n: int, *, progress: ProgressCallback = silent
) -> Table:
    """Both tests as a table, a row per method and chance line.

    Args:
        explainer: the model, with its processor.
        data: questions with masks, such as "demo-locations"; their answers are not used.
        methods: names for `Explainer.explain`.
        n: number of samples, the first ones.
        progress: called with ``("asking", done, n)``.
    """
    hits: dict[str, list[float]] = {}
    flips: dict[str, list[float]] = {}
    samples: list[str] = []
    left_out: list[str] = []
    n = min(n, len(data))
    for index in range(n):
        progress("asking", index, n)
        try:
            sample = data[index]
        except InputError as error:  # a scene without such a question, or one that cannot be read
            left_out.append(str(error))
            continue
        inputs, ids = explainer.encode([sample.image], sample.prompt, None)
        if sample.mask is None or len(ids) == 0:
            left_out.append(f"{sample.key} has no mask" if sample.mask is None else f"{sample.key} was not answered")
            continue
        samples.append(sample.key)
        for method in methods:
            e = explainer.explain_ids(inputs, ids, image=sample.image, prompt=sample.prompt, method=method)
            touched = to_cells(sample.mask, e.grid) > 0
            strongest = e.answer_map == e.answer_map.max()
            hits.setdefault(method, []).append(float(touched[strongest].mean()))
            _, again = explainer.encode([without_cells(sample.image, e.answer_map, e.grid)], sample.prompt, None)
            flips.setdefault(method, []).append(float(again.tolist() != ids.tolist()))
            if method == methods[-1]:
                hits.setdefault(CEILING, []).append(1.0)
                share = to_cells(sample.mask, e.grid)
                _, again = explainer.encode([without_cells(sample.image, share, e.grid)], sample.prompt, None)
                flips.setdefault(CEILING, []).append(float(again.tolist() != ids.tolist()))
    progress("asking", n, n)
    body = []
    for name in (*(m for m in methods if m not in CHANCE), *(m for m in methods if m in CHANCE), CEILING):
        role = " (chance)" if name in CHANCE else " (the thing itself)" if name == CEILING else ""
        figures = [bootstrap(100 * np.array(each.get(name, [])), samples) for each in (hits, flips)]
        body.append(((f"{name}{role}", False), *((shown(one, 0), False) for one in figures)))
    note = (
        f"{len(samples)} questions, answered by the model. Pointing: the strongest cell of the answer map touches the "
        f"thing asked for. Flipped: the answer is another one when the first {100 * DELETED:g} % of the cells have the "
        "image's mean colour. Mean and 95 % bootstrap interval."
    )
    if left_out:
        note += f" {len(left_out)} samples were left out; the first: {left_out[0]}."
    return Table("The model's own answers", ("method", "pointing (%)", "answers flipped (%)"), tuple(body), note)


def without_cells(image: Image.Image, cell_map: Floats, grid: Grid, share: float = DELETED) -> Image.Image:
    """The image with this share of the cells, those of the largest values, in the mean colour of what was seen.

    Cells of equal value go in an arbitrary but fixed order.
    """
    pixels = np.asarray(image.convert("RGB")).copy()
    colour = pixels[seen(grid)].mean(axis=0).round().astype(np.uint8)
    rows, cols = cell_edges(grid)
    places = np.random.default_rng(0).permutation(cell_map.size)
    ranked = places[np.argsort(-cell_map.reshape(-1)[places], kind="stable")]
    for cell in ranked[: max(1, round(share * cell_map.size))]:
        row, col = divmod(int(cell), grid.cols)
        pixels[rows[row] : rows[row + 1], cols[col] : cols[col + 1]] = colour
    return Image.fromarray(pixels)
