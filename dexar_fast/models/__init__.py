"""Model families: one small declarative entry each. docs/models.md says how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from . import florence2, gemma3, idefics3, llava, llava_next, mllama, paligemma, qwen_vl
from .decoder import Decoder
from .family import Family, Prompt

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# One line per entry, alphabetically.
FAMILIES: tuple[Family, ...] = (
    florence2.FAMILY,
    gemma3.FAMILY,
    idefics3.FAMILY,
    llava.LLAVA,
    llava.VIPLLAVA,
    llava_next.FAMILY,
    mllama.FAMILY,
    paligemma.FAMILY,
    qwen_vl.QWEN2_VL,
    qwen_vl.QWEN2_5_VL,
)


# Types that an entry cannot help, and why.
REFUSED: dict[str, str] = {
    "gemma3n": "its residual stream is four (AltUp), and what a single layer says about a token is not defined",
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's configuration.

    Raises:
        UnsupportedModelError: no entry for `config.model_type`; the message lists what is supported.
    """
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    if config.model_type in REFUSED:
        raise UnsupportedModelError(f"model: {config.model_type} cannot be explained: {REFUSED[config.model_type]}")
    supported = ", ".join(model_type for family in FAMILIES for model_type in family.model_types)
    raise UnsupportedModelError(
        f"model: expected a model of type {supported}; got {config.model_type!r}. "
        "A new family is one entry in dexar_fast/models/."
    )


__all__ = ["FAMILIES", "REFUSED", "Decoder", "Family", "Prompt", "family_of"]
