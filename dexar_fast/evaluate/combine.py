"""Other ways from token maps to an answer map, and from a token's own evidence to what earlier rows read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..engine.logit_lens import LogitLens
from ..engine.request import Request
from ..result.explanation import Explanation, Floats, minmax

if TYPE_CHECKING:
    from ..explainer import Explainer


def gain(explanation: Explanation) -> NDArray[np.float64]:
    """``relu(log p(y_t | image) - log p(y_t | blank image))``, ``(T,)``: what the image adds to each token, in nats.

    The explanation must have been made with ``grounding=True``.
    """
    assert explanation.log_probabilities is not None, "explain(..., grounding=True)"
    log_p = explanation.log_probabilities.astype(np.float64)
    return np.maximum(log_p[:, 0] - log_p[:, 1], 0)


def weighted(explanation: Explanation, weights: Any) -> Floats:
    """Answer map ``(h, w)`` in [0, 1]: ``minmax(sum_t weights[t] * token_maps[t])``, Eq. 6 with other weights."""
    return minmax(np.tensordot(np.asarray(weights), np.asarray(explanation.token_maps), axes=1))


def focused(explanation: Explanation, weights: Any) -> Floats:
    """Answer map of maps that count the more the more focused they are: ``minmax(sum_t weights[t] * p_t ** 2)``.

    ``p_t`` is a token's map scaled to the sum one; a map spread over all cells then adds next to nothing.
    """
    maps = np.asarray(explanation.token_maps, dtype=np.float64)
    sums = maps.sum(axis=(1, 2), keepdims=True)
    shares = np.divide(maps, sums, out=np.zeros_like(maps), where=sums > 0)
    return minmax(np.tensordot(np.asarray(weights), shares**2, axes=1))


def with_flow(explainer: Explainer, image: Image.Image, prompt: str, answer: str, method: str) -> Explanation:
    """Token maps that follow relevance through earlier answer rows back to the image.

    With R the method's unfiltered relevance of a key, summed over layers and heads, and every token's R scaled to the
    sum one over the image and the rows before it:

        flow[t] = R[t, image] + sum over rows s < t of R[t, s] * flow[s]

    The key at the position that predicted y_s is row s, so R[t, s] says how much y_t rests on what row s had
    gathered. The relevance of rows comes from the same op, with the rows in place of the image keys.
    """
    plain = explainer.explain(image, prompt, answer, method=method, unfiltered=True)
    options = explainer.options(method=method, unfiltered=True)
    encoded = explainer.encoded([image], prompt, answer, options)

    def rows_as_keys(request: Request, lens: LogitLens) -> tuple[Request, LogitLens]:
        return replace(request, image_keys=request.row_positions), lens

    on_image = explainer.run(encoded, options)
    on_rows = explainer.run(encoded, options, adapt=rows_as_keys)
    request, sums = on_image
    assert sums.unfiltered is not None
    assert on_rows[1].unfiltered is not None
    of_image = request.layout.to_cells(sums.unfiltered).double()  # [T, C]
    of_rows = on_rows[1].unfiltered.double().tril(-1)  # [T, T]
    total = sums.unfiltered.double().sum(dim=1) + of_rows.sum(dim=1)
    total = total.where(total > 0, 1)[:, None]
    # (I - R) flow = own, with R strictly lower triangular.
    unit = torch.eye(len(of_rows), dtype=of_rows.dtype, device=of_rows.device)
    flow = torch.linalg.solve_triangular(unit - of_rows / total, of_image / total, upper=False)
    return with_token_maps(plain, flow)


def with_token_maps(plain: Explanation, cells: Tensor) -> Explanation:
    """The same explanation with other maps ``(T, C)`` of its tokens, not yet scaled; its answer map sums them up."""
    maps = [minmax(one) for one in cells.cpu().numpy().reshape(np.asarray(plain.token_maps).shape)]
    ranges = torch.stack((cells.amin(dim=1), cells.amax(dim=1)), dim=1).cpu().numpy()
    changed = replace(plain, token_maps=np.stack(maps), token_map_ranges=ranges)
    return replace(changed, answer_map=weighted(changed, np.ones(len(maps))))
