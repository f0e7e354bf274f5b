"""What a run is about, in a few characters: its rows and the model's weights. Records of others must not mix in."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..engine.provenance import provenance
from ..models.digest import weights_digest

if TYPE_CHECKING:
    from ..explainer import Explainer
    from .data import DataSet, Mask, Sample


def identity(explainer: Explainer, data: DataSet, n: int) -> dict[str, Any]:
    """Settings of a run besides its plan, as JSON values: equal for equal numbers, up to rounding.

    Args:
        explainer: the model.
        data: read once, as far as it goes.
        n: number of samples.
    """
    made = provenance(explainer.decoder, explainer.model_name, explainer.backend)
    return {
        "rows": rows_digest(data, n),
        "weights": weights_digest(explainer.model),
        **{name: made[name] for name in ("dtype", "attention", "backend")},
        "versions": {name: version for name, version in made["versions"].items() if name != "python"},
    }


def rows_digest(data: DataSet, n: int) -> str:
    """Of what the first n samples hold: pixels, texts, truth. A sample that cannot be read counts by its error."""
    digest = hashlib.blake2b(digest_size=8)
    for index in range(n):
        digest.update(data.key(index).encode("utf-8", "backslashreplace"))
        try:
            _add(digest, data[index])
        except Exception as error:
            digest.update(repr(error).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _add(digest: Any, sample: Sample) -> None:
    texts = [sample.prompt, sample.answer, sorted((index, truth.kind) for index, truth in sample.words.items())]
    digest.update(json.dumps(texts).encode())
    digest.update(f"{sample.image.size} {sample.image.mode}".encode())
    digest.update(sample.image.tobytes())
    for mask in (sample.mask, *(truth.mask for _, truth in sorted(sample.words.items()))):
        _add_mask(digest, mask)


def _add_mask(digest: Any, mask: Mask | None) -> None:
    digest.update(b"no mask" if mask is None else str(mask.shape).encode() + mask.tobytes())
