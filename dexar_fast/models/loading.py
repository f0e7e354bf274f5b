"""Load a model and its processor by hub id or folder."""

from __future__ import annotations

from os import PathLike

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import is_torchvision_available

from ..errors import InputError, UnsupportedModelError
from .registry import family_of, other_checkpoint


def load_model(
    model: str | PathLike[str],
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype,
    attn_implementation: str | None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """See `Explainer.from_pretrained`. Code from a hub is never run."""
    place = _resolve_device(device)
    config = _load_config(model)
    family_of(config)  # refuse before the weights are read
    values = _resolve_dtype(dtype, config.dtype, place)
    try:
        # The small files first: a folder without them is refused before the weights are read.
        processor = _load_processor(model)
        loaded, info = AutoModelForMultimodalLM.from_pretrained(
            model,
            config=config,
            dtype=values,
            attn_implementation=attn_implementation,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except OSError as error:
        raise InputError(f"model: {model!r} lacks files of a model or its processor ({error})") from error
    except (SafetensorError, ValueError, KeyError) as error:  # cut off, or another release's
        raise InputError(
            f"model: the weights of {model!r} cannot be read, a file is cut off or damaged, or they do not go with its "
            f"config.json. Get the whole checkpoint again. transformers says: {error}"
        ) from error
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise InputError(
            f"model: {model!r} lacks {len(absent)} weights or has them in another shape (first: {absent[0]}); "
            "transformers would fill them with random numbers. Get the whole checkpoint."
        )
    return loaded.to(place).eval(), processor


def check_prompt(model: str | PathLike[str], prompt: str) -> None:
    """Refuse an empty prompt before the weights are read, from the config alone.

    Raises:
        InputError: the family takes no empty prompt, or there is no such model.
        UnsupportedModelError: the model's family is not supported.
    """
    if not prompt.strip() and family_of(_load_config(model)).prompt_needed:
        raise InputError("prompt: expected text; got an empty prompt")


def _load_config(model: str | PathLike[str]) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except ValueError as error:  # transformers does not know the type, or would have to run the checkpoint's own code
        raise UnsupportedModelError(
            f"model: {model!r} is of no type that transformers itself can load. {_other_checkpoint(model)}({error})"
        ) from error
    except OSError as error:
        raise InputError(
            f"model: {model!r} is neither a folder with a config.json, nor a hub id that can be reached or is cached, "
            f'nor "demo" ({error})'
        ) from error


def _other_checkpoint(model: str | PathLike[str]) -> str:
    """Where the model is found for transformers, if that is known of its type."""
    found = other_checkpoint(str(PreTrainedConfig.get_config_dict(model)[0].get("model_type")))
    return f"{found} " if found else ""


def _load_processor(model: str | PathLike[str]) -> ProcessorMixin:
    try:
        processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
    except OSError:
        raise  # a file is missing
    except (ImportError, ValueError) as error:  # a package is missing; with some processors transformers says less
        wanted = "" if is_torchvision_available() else "torchvision is not installed, and some processors need it: "
        raise InputError(
            f"model: the processor of {model!r} cannot be built. {wanted}Install what is missing (pip install "
            "torchvision), or build model and processor yourself and pass Explainer(model, processor). transformers "
            f"says: {error}"
        ) from error
    except Exception as error:  # the tokenizers library raises no class of its own
        raise InputError(
            f"model: the tokenizer or processor of {model!r} cannot be read, a file is cut off or damaged. Get the "
            f"whole checkpoint again. transformers says: {error}"
        ) from error
    check_processor(processor)
    return processor


def check_processor(processor: object) -> None:
    """Refuse what encodes text alone or images alone.

    Raises:
        InputError: it has no tokenizer or no image processor.
    """
    missing = [part for part in ("tokenizer", "image_processor") if not hasattr(processor, part)]
    if missing:
        raise InputError(
            f"processor: expected one of images and text; got {type(processor).__name__}, which has no "
            f"{' and no '.join(missing)}. Put one together from both, of the class that belongs to the model or, where "
            "it has none, as transformers.TrOCRProcessor(image_processor, tokenizer), and pass "
            "Explainer(model, processor)."
        )


def _resolve_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a build of torch without that device
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device: expected one that this machine has, such as 'cpu'; got {str(device)!r} ({reason})"
        ) from error
    return place


def _resolve_dtype(dtype: str | torch.dtype, of_checkpoint: torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        of_checkpoint = of_checkpoint or torch.float32
        return torch.float32 if of_checkpoint == torch.float16 and device.type == "cpu" else of_checkpoint
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise InputError(f'dtype: expected "auto" or a floating point dtype such as "bfloat16"; got {dtype!r}')
    return named
