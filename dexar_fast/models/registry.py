"""Which family a model belongs to: the built-in entries, and those that users register."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError, UnsupportedModelError
from .families import (
    aya_vision,
    cohere2_vision,
    deepseek,
    deepseek_ocr2,
    ernie4_5_vl,
    fast_vlm,
    florence2,
    gemma3,
    gemma4,
    glm4v,
    got_ocr2,
    granite4_vision,
    granite_docling,
    hunyuan_vl,
    idefics2,
    idefics3,
    internvl,
    kimi_k25,
    kosmos2,
    lfm2_vl,
    llama4,
    llava,
    llava_next,
    llava_onevision,
    minicpm_v,
    mllama,
    molmo2,
    ovis2,
    paddleocr_vl,
    paligemma,
    perception_lm,
    phi4_multimodal,
    pixtral,
    qformer,
    qwen_omni,
    qwen_vl,
    video_llama3,
    vision_encoder_decoder,
)
from .family import Family
from .modules import ModuleConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The built-in ones; one line per entry, alphabetically.
FAMILIES: tuple[Family, ...] = (
    aya_vision.FAMILY,
    cohere2_vision.FAMILY,
    deepseek.DEEPSEEK_VL,
    deepseek.DEEPSEEK_VL_HYBRID,
    deepseek.JANUS,
    deepseek_ocr2.FAMILY,
    ernie4_5_vl.FAMILY,
    fast_vlm.FAMILY,
    florence2.FAMILY,
    gemma3.FAMILY,
    gemma4.FAMILY,
    glm4v.FAMILY,
    got_ocr2.FAMILY,
    granite4_vision.FAMILY,
    granite_docling.FAMILY,
    hunyuan_vl.FAMILY,
    idefics2.FAMILY,
    idefics3.FAMILY,
    internvl.INTERNVL,
    internvl.QIANFAN_OCR,
    kimi_k25.FAMILY,
    kosmos2.FAMILY,
    lfm2_vl.FAMILY,
    llama4.FAMILY,
    llava.LLAVA,
    llava.VIPLLAVA,
    llava_next.LLAVA_NEXT,
    llava_next.LLAVA_NEXT_VIDEO,
    llava_onevision.FAMILY,
    minicpm_v.MINICPM_OCR,
    minicpm_v.MINICPM_V4_6,
    minicpm_v.MINICPM_V4_7,
    mllama.FAMILY,
    molmo2.FAMILY,
    ovis2.FAMILY,
    paddleocr_vl.FAMILY,
    paligemma.FAMILY,
    perception_lm.FAMILY,
    phi4_multimodal.FAMILY,
    pixtral.LIGHTON_OCR,
    pixtral.MISTRAL3,
    qformer.BLIP_2_OPT,
    qformer.BLIP_2_T5,
    qformer.INSTRUCTBLIP_LLAMA,
    qformer.INSTRUCTBLIP_T5,
    qwen_omni.QWEN2_5_OMNI,
    qwen_omni.QWEN3_OMNI,
    qwen_vl.QWEN2_VL,
    qwen_vl.QWEN2_5_VL,
    qwen_vl.QWEN3_VL,
    qwen_vl.QWEN3_5,
    video_llama3.FAMILY,
    vision_encoder_decoder.GPT2,
    vision_encoder_decoder.MBART,
    vision_encoder_decoder.TROCR,
)


# Types that an entry cannot help, and why.
REFUSED: dict[str, str] = {
    "diffusion_gemma": "it writes by denoising, not token after token",
    "evolla": "it reads proteins, not images",
    "gemma3n": "its residual stream is four (AltUp), and what a single layer says about a token is not defined",
    "pi0": "it gives a robot's actions by denoising, not text",
    "step3p7": "its layers have different numbers of heads, and scores are kept by token, layer and head",
    "shieldgemma2": "it classifies, it writes no answer",
}

# Types of checkpoints that bring code of their own, which is not run, and what holds such models for transformers.
OTHER_CHECKPOINTS: dict[str, str] = {
    "ernie4_5_moe_vl": "ernie4_5_vl_moe",
    "GOT": "got_ocr2, such as stepfun-ai/GOT-OCR-2.0-hf",
    "internvl_chat": "internvl, such as OpenGVLab/InternVL3-1B-hf",
    "llava_llama": "llava or llava_next, such as llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "llava_next, such as llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "llava_onevision, such as llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "minicpmv": "minicpmv4_6, such as openbmb/MiniCPM-V-4.6",
    "molmo": "molmo2",
    "multi_modality": "janus or deepseek_vl, such as deepseek-community/Janus-Pro-1B",
    "ovis": "ovis2",
    "phi4mm": "phi4_multimodal",
}


_registered: list[Family] = []


def register_family(family: Family) -> None:
    """Declare a family of your own, for this process; see docs/models.md.

    The self-check guards it as it guards the built-in ones: a model that is not what the declaration says is refused.
    It takes the place of earlier declarations of yours for one of its model types.

    Raises:
        InputError: one of its model types has a built-in entry.
    """
    for model_type in family.model_types:
        taken = next((built_in for built_in in FAMILIES if model_type in built_in.model_types), None)
        if taken is not None:
            raise InputError(
                f"family: expected model types without a built-in entry; {model_type!r} belongs to family "
                f"{taken.name!r}"
            )
    _registered[:] = [earlier for earlier in _registered if not {*earlier.model_types} & {*family.model_types}]
    _registered.append(family)


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's configuration.

    Raises:
        UnsupportedModelError: no entry for `config.model_type`; the message lists what is supported.
    """
    if isinstance(config, ModuleConfig):
        return config.family
    model_type, with_text = config.model_type, _with_text_type(config)
    family = _entry(model_type) or _entry(with_text)
    if family is not None:
        return family
    if config.model_type in REFUSED:
        raise UnsupportedModelError(f"model: {config.model_type} cannot be explained: {REFUSED[config.model_type]}")
    if config.model_type in OTHER_CHECKPOINTS:
        raise UnsupportedModelError(f"model: {config.model_type} is not known. {other_checkpoint(config.model_type)}")
    types = [t for family in (*FAMILIES, *_registered) for t in family.model_types]
    supported = ", ".join(types)
    if any(t.startswith(f"{model_type}/") for t in types):
        model_type = with_text
    raise UnsupportedModelError(
        f"model: expected a model of type {supported}; got {model_type!r}. "
        "Declare its family with dexar_fast.register_family (docs/models.md)."
    )


def other_checkpoint(model_type: str) -> str:
    """Where a model of a type with code of its own is found for transformers; "" if nothing is known."""
    if model_type not in OTHER_CHECKPOINTS:
        return ""
    return (
        f"Checkpoints of type {model_type} bring code of their own, which is not run. Load one of type "
        f"{OTHER_CHECKPOINTS[model_type]}."
    )


def _with_text_type(config: PretrainedConfig) -> str:
    """ "type/text model's type", for the types that take text models of any type."""
    text = getattr(config, "decoder", None) or getattr(config, "text_config", None)
    return f"{config.model_type}/{getattr(text, 'model_type', None)}"


def _entry(model_type: str) -> Family | None:
    return next((f for f in (*FAMILIES, *_registered) if model_type in f.model_types), None)
