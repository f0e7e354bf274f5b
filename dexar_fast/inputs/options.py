"""What of an explanation is the caller's choice: checked once, before anything expensive runs, and handed on whole."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import InputError, check_count
from ..layout.image_layout import THUMBNAILS
from .contrast import Contrast, check_contrast
from .images import ImageInput, load_images
from .layers import LayerSelection, select_layers
from .methods import DEFAULT, METHODS, MethodSelection, check_methods
from .only import Only, as_json, check_only
from .pixels import Colour, colour
from .targets import TargetSelection, check_targets

NORMALIZATIONS = ("paper", "reference")
TEXT_SETS = ("all_non_image", "content_only", "generated_only")

TextSet = str | Tensor | NDArray[np.bool_]


class AskedOptions(TypedDict, total=False):
    """Keyword arguments of `Explainer.explain`, which describes them; what is left out has its default there."""

    layers: LayerSelection
    method: MethodSelection
    normalization: str
    text_set: TextSet
    targets: TargetSelection
    contrast: Contrast
    unfiltered: bool
    grounding: bool
    thumbnail: str
    max_new_tokens: int
    row_chunk: int | str
    only: Only
    image_kwargs: Mapping[str, Any] | None
    background: Colour
    frame: int | None
    allow_urls: bool


@dataclass(frozen=True)
class Options:
    """Attributes are those of `Explainer.explain`; `layers` are indices from 0, `text_set` a name or a bool tensor.

    Of several methods `method` is the first, `beside` are the others.
    """

    layers: tuple[int, ...]
    method: str = "dexar"
    beside: tuple[str, ...] = ()
    normalization: str = "paper"
    text_set: str | Tensor = "all_non_image"
    targets: TargetSelection = "tokens"
    contrast: Contrast = None
    unfiltered: bool = False
    grounding: bool = False
    thumbnail: str = "blend"
    max_new_tokens: int = 256
    row_chunk: int | str = "auto"
    only: Only = None
    image_kwargs: Mapping[str, Any] = field(default_factory=dict)
    background: Colour = "white"
    frame: int | None = None
    allow_urls: bool = False

    def pictures(self, image: ImageInput | Sequence[ImageInput], *, turn: bool = True) -> list[Image.Image]:
        """The user's pictures, read as these options say; `turn` as for `images.load_image`.

        Raises:
            InputError: as for `images.load_image`.
        """
        return load_images(image, background=self.background, frame=self.frame, allow_urls=self.allow_urls, turn=turn)

    @property
    def methods(self) -> tuple[str, ...]:
        """All of them, the one that is shown first in front."""
        return self.method, *self.beside

    @property
    def our_own(self) -> bool:
        """Whether the answer pass computes all of the methods."""
        return all(method in METHODS for method in self.methods)

    @property
    def asked(self) -> dict[str, Any]:
        """What a result records of them, but for the text set, as JSON values."""
        targets: Any = self.targets
        if isinstance(targets, re.Pattern):
            targets = {"pattern": targets.pattern, "flags": targets.flags}
        elif not isinstance(targets, str):
            targets = [[int(end) for end in span] for span in targets]
        contrast: Any = self.contrast
        if isinstance(contrast, Integral):
            contrast = int(contrast)
        elif contrast is not None and not isinstance(contrast, str):
            contrast = [int(foil) if isinstance(foil, Integral) else foil for foil in contrast]
        return {
            "layers": list(self.layers),
            "method": self.method,
            "beside": list(self.beside),
            "normalization": self.normalization,
            "targets": targets,
            "contrast": contrast,
            "unfiltered": self.unfiltered,
            "thumbnail": self.thumbnail,
            "row_chunk": self.row_chunk,
            "only": as_json(self.only),
            "image_kwargs": _json_values(self.image_kwargs),
            "background": self.background if isinstance(self.background, str) else list(self.background),
            "frame": self.frame,
        }


def check_options(
    n_layers: int, with_attention: Collection[int] | None = None, **asked: Unpack[AskedOptions]
) -> Options:
    """The options of one call.

    Raises:
        InputError: layers that a model of ``n_layers`` does not have or that are not among those ``with_attention`` to
            the image, an unknown name, a number that is none, or targets or a contrast that the method cannot explain.
    """
    checked: dict[str, Any] = {**asked, "layers": select_layers(asked.get("layers"), n_layers, with_attention)}
    checked["method"], *beside = check_methods(asked.get("method"), _default_methods(asked))
    checked["beside"] = tuple(beside)
    if not isinstance(asked.get("text_set", ""), str):
        checked["text_set"] = _as_tensor(asked["text_set"])
    image_kwargs = asked.get("image_kwargs") or {}
    if not isinstance(image_kwargs, Mapping):
        raise InputError(f"image_kwargs: expected a mapping of settings; got {type(image_kwargs).__name__}")
    checked["image_kwargs"] = dict(image_kwargs)
    options = Options(**checked)
    if options.normalization not in NORMALIZATIONS:
        raise InputError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}; got {options.normalization!r}")
    if isinstance(options.text_set, str) and options.text_set not in TEXT_SETS:
        raise InputError(f"text_set: expected one of {', '.join(TEXT_SETS)} or a bool mask; got {options.text_set!r}")
    if options.thumbnail not in THUMBNAILS:
        raise InputError(f"thumbnail: expected one of {', '.join(THUMBNAILS)}; got {options.thumbnail!r}")
    check_count("max_new_tokens", options.max_new_tokens, "tokens")
    check_row_chunk(options.row_chunk)
    for method in options.methods:
        filters_heads = method in METHODS and METHODS[method].filters_heads
        if options.unfiltered and not filters_heads:
            raise InputError(f'unfiltered: method {method!r} filters no heads; leave it out, or use method="dexar"')
        if options.normalization == "reference" and method in METHODS and not filters_heads:
            raise InputError(f'normalization: method {method!r} has only "paper"; "reference" takes method="dexar"')
        check_targets(options.targets, method)
        check_contrast(options.contrast, method)
    check_only(options.only)
    colour(options.background)
    return options


def _default_methods(asked: AskedOptions) -> tuple[str, ...]:
    """`DEFAULT`; or the published method alone, where something is asked for that only this one has."""
    targets = asked.get("targets", "tokens")
    only_published = (
        asked.get("unfiltered", False)
        or asked.get("normalization", "paper") == "reference"
        or not isinstance(targets, str)
        or targets != "tokens"
    )
    return ("dexar",) if only_published else DEFAULT


def _as_tensor(mask: Any) -> Tensor:
    return mask if isinstance(mask, Tensor) else torch.as_tensor(mask, device="cpu")  # whatever the default device is


def _json_values(value: Any) -> Any:
    """Settings of a processor as JSON values; what is none of these as text."""
    if isinstance(value, Mapping):
        return {str(name): _json_values(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(each) for each in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def refuse_options(call: str, asked: AskedOptions, *names: str) -> None:
    """Refuse options that a call does not take.

    Raises:
        InputError: names the first one.
    """
    for name in names:
        if name in asked:
            raise InputError(f"{name}: {call}() does not take it; leave it out, or use explain()")


def check_row_chunk(row_chunk: int | str) -> None:
    """Refuse what is neither a number of rows nor "auto".

    Raises:
        InputError: says so.
    """
    if row_chunk == "auto" or (isinstance(row_chunk, int) and not isinstance(row_chunk, bool) and row_chunk > 0):
        return
    raise InputError(f'row_chunk: expected a number of answer tokens from 1 on, or "auto"; got {row_chunk!r}')
