"""What a processor does to an image: its own settings, and those that its call was given."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from ..errors import InputError

_NOT_OF_IMAGES = ("text_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")


def image_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a processor's call, those that transformers hands on to images, nested ones included."""
    flat = {name: value for name, value in settings.items() if name not in (*_NOT_OF_IMAGES, "images_kwargs")}
    return {**flat, **settings.get("images_kwargs", {})}


def called_with(processor: Any, settings: Mapping[str, Any]) -> Any:
    """The image processor with what a call of ``processor`` with these settings sees in place of its own.

    In transformers the arguments of the call go before what the processor as a whole asks of its image processor, and
    that before the image processor's own values. The processor itself is not changed.
    """
    images = copy(processor.image_processor)
    own, given = _own_names(images), image_settings(settings)
    seen = {**_of_processor(processor), **{name: value for name, value in given.items() if name in own}}
    if not seen:
        return images
    known = {name: value for name in own if (value := getattr(images, name, None)) is not None}
    standard = {**known, **seen}
    if hasattr(images, "_standardize_kwargs"):  # "size": 24 becomes what the class makes of it
        standard = images._standardize_kwargs(**standard)
    for name in seen:
        setattr(images, name, standard[name])
    return images


def check_image_settings(processor: Any, settings: Mapping[str, Any]) -> None:
    """Refuse settings that the image processor does not know: transformers would leave them out without a word.

    Raises:
        InputError: names them.
    """
    own = _own_names(processor.image_processor)
    unknown = [name for name in image_settings(settings) if name not in own]
    if unknown:
        raise InputError(
            f"image_kwargs: {type(processor.image_processor).__name__} has no {', '.join(sorted(unknown))}; it takes "
            f"{', '.join(sorted(own))}"
        )


def _own_names(images: Any) -> set[str]:
    """Settings that an image processor has."""
    return set(getattr(getattr(images, "valid_kwargs", None), "__annotations__", ())) - {
        "return_tensors",
        "input_data_format",
    }


def _of_processor(processor: Any) -> dict[str, Any]:
    """What a processor asks of its image processor without being told: a private place of transformers, but the only
    one, for defaults that a class, a configuration and a call have a say in."""
    defaults = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("images_kwargs", {})
    asked = {**(getattr(processor, "images_kwargs", None) or {}), **defaults}
    return {name: value for name, value in asked.items() if name in _own_names(processor.image_processor)}
