"""Model families: one small declarative entry each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from . import llava
from .family import Decoder, Family, ImageLayout

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAMILIES: tuple[Family, ...] = (llava.FAMILY,)


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's configuration.

    Raises:
        UnsupportedModelError: no entry for `config.model_type`; the message lists what is supported.
    """
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    supported = ", ".join(model_type for family in FAMILIES for model_type in family.model_types)
    raise UnsupportedModelError(
        f"model: expected a model of type {supported}; got {config.model_type!r}. "
        "A new family is one entry in dexar_fast/models/."
    )


__all__ = ["FAMILIES", "Decoder", "Family", "ImageLayout", "family_of"]
