"""Two habits of the released DEX-AR code, for those who compare with it. Nothing else in the package has them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..engine.logit_lens import LogitLens
from ..engine.request import Request


def without_key_after_image(request: Request) -> Request:
    """The first key after the image block counts neither as image nor as text."""
    text_keys = request.text_keys.clone()
    text_keys[request.image_keys[-1] + 1] = False
    return replace(request, text_keys=text_keys)


@dataclass(frozen=True)
class NormLastLayerTwice(LogitLens):
    """The last layer's residual stream is read from `hidden_states[-1]`, which transformers has normed already."""

    def __call__(self, layer: int, residual: Tensor) -> Tensor:
        if layer == len(self.decoder.layers) - 1:
            residual = self.decoder.final_norm(residual)
        return super().__call__(layer, residual)


def with_reference_quirks(request: Request, lens: LogitLens) -> tuple[Request, LogitLens]:
    """Both habits at once, as `Explainer.run` takes them."""
    return without_key_after_image(request), NormLastLayerTwice(lens.decoder, lens.seeds)
