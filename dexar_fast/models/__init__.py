"""Model families: one small declarative entry each. docs/models.md says how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError, UnsupportedModelError
from . import (
    cohere2_vision,
    deepseek,
    fast_vlm,
    florence2,
    gemma3,
    got_ocr2,
    granite4_vision,
    idefics3,
    internvl,
    lfm2_vl,
    llava,
    llava_next,
    mllama,
    molmo2,
    ovis2,
    paligemma,
    perception_lm,
    phi4_multimodal,
    pixtral,
    qwen_vl,
)
from .decoder import Decoder
from .family import Family, Prompt, fixed_grid

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The built-in ones; one line per entry, alphabetically.
FAMILIES: tuple[Family, ...] = (
    cohere2_vision.FAMILY,
    deepseek.DEEPSEEK_VL,
    deepseek.DEEPSEEK_VL_HYBRID,
    deepseek.JANUS,
    fast_vlm.FAMILY,
    florence2.FAMILY,
    gemma3.FAMILY,
    got_ocr2.FAMILY,
    granite4_vision.FAMILY,
    idefics3.FAMILY,
    internvl.INTERNVL,
    internvl.QIANFAN_OCR,
    lfm2_vl.FAMILY,
    llava.LLAVA,
    llava.VIPLLAVA,
    llava_next.FAMILY,
    mllama.FAMILY,
    molmo2.FAMILY,
    ovis2.FAMILY,
    paligemma.FAMILY,
    perception_lm.FAMILY,
    phi4_multimodal.FAMILY,
    pixtral.LIGHTON_OCR,
    pixtral.MISTRAL3,
    qwen_vl.QWEN2_VL,
    qwen_vl.QWEN2_5_VL,
)


# Types that an entry cannot help, and why.
REFUSED: dict[str, str] = {
    "gemma3n": "its residual stream is four (AltUp), and what a single layer says about a token is not defined",
}


_registered: list[Family] = []


def register_family(family: Family) -> None:
    """Declare a family of your own, for this process; see docs/models.md.

    The self-check guards it as it guards the built-in ones: a model that is not what the declaration says is refused.

    Raises:
        InputError: one of its model types has an entry already.
    """
    for model_type in family.model_types:
        taken = _entry(model_type)
        if taken is not None:
            raise InputError(
                f"family: expected model types without an entry; {model_type!r} belongs to family {taken.name!r}"
            )
    _registered.append(family)


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's configuration.

    Raises:
        UnsupportedModelError: no entry for `config.model_type`; the message lists what is supported.
    """
    family = _entry(config.model_type)
    if family is not None:
        return family
    if config.model_type in REFUSED:
        raise UnsupportedModelError(f"model: {config.model_type} cannot be explained: {REFUSED[config.model_type]}")
    supported = ", ".join(t for family in (*FAMILIES, *_registered) for t in family.model_types)
    raise UnsupportedModelError(
        f"model: expected a model of type {supported}; got {config.model_type!r}. "
        "Declare its family with dexar_fast.register_family (docs/models.md)."
    )


def _entry(model_type: str) -> Family | None:
    return next((f for f in (*FAMILIES, *_registered) if model_type in f.model_types), None)


__all__ = ["FAMILIES", "REFUSED", "Decoder", "Family", "Prompt", "family_of", "fixed_grid", "register_family"]
