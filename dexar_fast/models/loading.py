"""Load a model and its processor by hub id or folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import is_torchvision_available

from ..errors import InputError, UnsupportedModelError
from ..paths import home_written_out
from .hub import from_cache_alone, hub_error, unreachable
from .registry import family_of, other_checkpoint


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; `Explainer.from_pretrained` describes it.

    Attributes:
        device, dtype, attn_implementation, revision, device_map, max_memory, quantization_config, load_in_4bit,
            load_in_8bit, trust_remote_code: as there.
        model_kwargs: further arguments of the model's own `from_pretrained`.
    """

    device: str | torch.device | None = None
    dtype: str | torch.dtype = "auto"
    attn_implementation: str | None = None
    revision: str | None = None
    device_map: Any = None
    max_memory: Mapping[int | str, int | str] | None = None
    quantization_config: Any = None
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    trust_remote_code: bool = False
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device is not None and (self.device_map is not None or self.max_memory is not None):
            raise InputError("device: expected a device, or device_map (and max_memory); got both")
        ways = [name for name in ("quantization_config", "load_in_4bit", "load_in_8bit") if getattr(self, name)]
        if len(ways) > 1:
            raise InputError(f"{ways[0]}: expected one way to quantise; got {' and '.join(ways)}")

    def placement(self, place: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments for transformers that say where weights go, and as what; empty for a model that is moved later."""
        found: dict[str, Any] = {}
        if self.quantization_config is not None:
            found["quantization_config"] = self.quantization_config
        elif self.load_in_4bit:
            found["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        elif self.load_in_8bit:
            found["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        if self.max_memory is not None:
            memory = {int(at) if str(at).isdecimal() else at: most for at, most in self.max_memory.items()}
            found["max_memory"] = memory
        if self.device_map is not None:
            found["device_map"] = self.device_map
        elif found:
            found["device_map"] = "auto" if self.max_memory is not None else {"": place}
        return found


def load_model(model: str | PathLike[str], how: Loading) -> tuple[PreTrainedModel, ProcessorMixin]:
    """See `Explainer.from_pretrained`. Code from a hub is run only where the caller trusts it."""
    place = _resolve_device(how.device)
    if str(model).startswith("~"):
        model = home_written_out("model", model)
    common: dict[str, Any] = {"trust_remote_code": how.trust_remote_code, "revision": how.revision}
    if from_cache_alone(model, how.revision):
        common["local_files_only"] = True  # else every file is asked for again and again
    config = _load_config(model, common)
    family_of(config)  # refuse before the weights are read
    values = _resolve_dtype(how.dtype, config.dtype, place)
    try:
        # The small files first: a folder without them is refused before the weights are read.
        processor = _load_processor(model, common)
        loaded, info = _load_weights(model, config, values, how, {**common, **how.placement(place, values)})
    except OSError as error:
        if hub_error(error) is not None:
            raise unreachable(model, how.revision, error) from error
        raise InputError(f"model: {str(model)!r} lacks files of a model or its processor ({error})") from error
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise InputError(
            f"model: {str(model)!r} lacks {len(absent)} weights or has them in another shape (first: {absent[0]}); "
            "transformers would fill them with random numbers. Get the whole checkpoint."
        )
    placed = how.placement(place, values)
    return (loaded if placed else loaded.to(place)).eval(), processor


def _load_weights(
    model: str | PathLike[str],
    config: Any,
    values: torch.dtype,
    how: Loading,
    further: Mapping[str, Any],
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and what transformers tells of its weights."""
    try:
        loaded, info = AutoModelForMultimodalLM.from_pretrained(
            model,
            config=config,
            dtype=values,
            attn_implementation=how.attn_implementation,
            output_loading_info=True,
            **further,
            **how.model_kwargs,
        )
    except ImportError as error:  # of attention, quantisation, or placement
        raise InputError(
            f"model: {str(model)!r} cannot be loaded this way, a package is missing ({_first_lines(error)})"
        ) from error
    except TypeError as error:
        if not how.model_kwargs:
            raise
        raise InputError(
            f"model_kwargs: {', '.join(sorted(how.model_kwargs))} cannot be loaded with ({_first_lines(error)})"
        ) from error
    except (SafetensorError, KeyError) as error:  # cut off, or another release's
        raise InputError(
            f"model: the weights of {str(model)!r} cannot be read, a file is cut off or damaged, or they do not go "
            f"with its config.json. Get the whole checkpoint again. transformers says: {_first_lines(error)}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"model: {str(model)!r} cannot be loaded this way, or its weights do not go with its config.json "
            f"({_first_lines(error)})"
        ) from error
    return loaded, info


def check_prompt(model: str | PathLike[str], prompt: str) -> None:
    """Refuse an empty prompt before the weights are read, from the config alone.

    Raises:
        InputError: the family takes no empty prompt, or there is no such model.
        UnsupportedModelError: the model's family is not supported.
    """
    if not prompt.strip() and family_of(_load_config(model, {"trust_remote_code": False})).prompt_needed:
        raise InputError("prompt: expected text; got an empty prompt")


def _load_config(model: str | PathLike[str], common: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(model, **common)
    except ValueError as error:  # transformers does not know the type, or would have to run the checkpoint's own code
        raise UnsupportedModelError(
            f"model: {str(model)!r} is of no type that transformers itself can load. "
            f"{_other_checkpoint(model)}({error})"
        ) from error
    except OSError as error:
        raise unreachable(model, common.get("revision"), error) from error


def _other_checkpoint(model: str | PathLike[str]) -> str:
    """Where the model is found for transformers, if that is known of its type."""
    found = other_checkpoint(str(PreTrainedConfig.get_config_dict(model)[0].get("model_type")))
    return f"{found} " if found else ""


def _load_processor(model: str | PathLike[str], common: Mapping[str, Any]) -> ProcessorMixin:
    try:
        processor = AutoProcessor.from_pretrained(model, **common)
    except OSError:
        raise  # a file is missing
    except (ImportError, ValueError) as error:  # a package is missing; with some processors transformers says less
        wanted = "" if is_torchvision_available() else "torchvision is not installed, and some processors need it: "
        raise InputError(
            f"model: the processor of {str(model)!r} cannot be built. {wanted}Install what is missing (pip install "
            "torchvision), or build model and processor yourself and pass Explainer(model, processor). transformers "
            f"says: {error}"
        ) from error
    except Exception as error:  # the tokenizers library raises no class of its own
        raise InputError(
            f"model: the tokenizer or processor of {str(model)!r} cannot be read, a file is cut off or damaged. Get "
            f"the whole checkpoint again. transformers says: {error}"
        ) from error
    check_processor(processor)
    return processor


def model_and_processor(model: Any, processor: Any) -> tuple[Any, Any]:
    """A model and its processor, also where both come in a pipeline of transformers.

    Raises:
        InputError: no model.
    """
    if isinstance(model, str | PathLike):
        raise InputError(
            f"model: expected a loaded model; got {str(model)!r}. Explainer.from_pretrained({str(model)!r}) loads one."
        )
    if isinstance(model, Pipeline):
        return model.model, getattr(model, "processor", None) if processor is None else processor
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a model of transformers, or a pipeline with one; got {type(model).__name__}")
    return model, processor


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


def _first_lines(error: BaseException) -> str:
    """The beginning of what another library says."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


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
