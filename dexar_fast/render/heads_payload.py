"""What the report's panel of heads reads: scores (Eq. 4) of the whole answer, and of single tokens where they fit."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..result.heads import head_means, scores_heads

if TYPE_CHECKING:
    from ..result.explanation import Explanation, Floats

MOST_BYTES = 8_000_000  # of the file, for the heads of single tokens; above, the panel shows the whole answer alone


def heads_payload(explanation: Explanation) -> dict[str, Any] | None:
    """JSON values, or None where the method scores no heads.

    Returns:
        - ``count``: H.
        - ``answer``: base64 of float32 ``(4, L, H)``, means over all rows of w, of w > 0, of S_img and of S_text.
        - ``bytes``: what ``tokens`` adds to the file.
        - ``tokens``: None where that is above ``MOST_BYTES``; else ``image``, base64 of uint8 ``(T, L, H)``, S_img in
          255 steps up to the token's largest; ``margin``, base64 of int8 ``(T, L, H)``, S_img - S_text in 127 steps up
          to the token's largest (where it is w) and 127 down to its lowest; ``scales``, per token
          ``[largest S_img, largest S_img - S_text, largest S_text - S_img]``.

    Raises:
        InputError: a score is NaN or infinite.
    """
    if not scores_heads(explanation):
        return None
    if not (np.isfinite(explanation.image_scores).all() and np.isfinite(explanation.text_scores).all()):
        raise InputError("explanation: expected finite scores, got NaN or infinity")
    means = head_means(explanation, 0, len(explanation.row_texts))
    answer = np.stack([means.weight, means.share, means.image_score, means.text_score])
    n_bytes = 2 * 4 * explanation.image_scores.size // 3
    result = {"count": explanation.image_scores.shape[2], "answer": _base64(answer.astype("<f4")), "bytes": n_bytes}
    return {**result, "tokens": _tokens(explanation) if n_bytes <= MOST_BYTES else None}


def _tokens(explanation: Explanation) -> dict[str, Any]:
    image = explanation.image_scores.astype(np.float32)
    margin = image - explanation.text_scores.astype(np.float32)
    parts = image, margin.clip(min=0), (-margin).clip(min=0)
    scales = np.stack([part.max(axis=(1, 2), initial=0) for part in parts], axis=1)  # (T, 3)
    image, above, below = (_steps(part, scales[:, i]) for i, part in enumerate(parts))
    return {
        "image": _base64(np.rint(image * 255).astype(np.uint8)),
        "margin": _base64(np.rint((above - below) * 127).astype(np.int8)),
        "scales": [[float(str(one)) for one in of_token] for of_token in scales],
    }


def _steps(values: Floats, largest: Floats) -> Floats:
    """``(T, L, H)`` over the largest of each token, 0 where that is 0."""
    scaled: Floats = values / np.where(largest > 0, largest, 1)[:, None, None]
    return scaled


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
