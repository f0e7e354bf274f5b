"""The options that commands share, and how their text becomes values."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..inputs.layers import LayerSelection
    from ..inputs.targets import TargetSelection


# The engine's names, repeated because it can only be asked after torch has been imported.
class Method(StrEnum):
    dexar_focus = "dexar-focus"
    dexar = "dexar"
    dexar_scores = "dexar-scores"
    dexar_contribution = "dexar-contribution"
    dexar_attention = "dexar-attention"
    # For comparison, from `evaluate.methods`.
    attention = "attention"
    attention_contrast = "attention-contrast"
    attention_gradient = "attention-gradient"
    dexar_unfiltered = "dexar-unfiltered"
    gradient_input = "gradient-input"
    grad_cam = "grad-cam"
    tam = "tam"
    occlusion = "occlusion"
    random = "random"
    uniform = "uniform"
    centre = "centre"


class Normalization(StrEnum):
    paper = "paper"
    reference = "reference"


class TextSet(StrEnum):
    all_non_image = "all_non_image"
    content_only = "content_only"
    generated_only = "generated_only"


ImageFile = Annotated[Path, typer.Argument(help="The picture, in any format that Pillow reads.", show_default=False)]
Prompt = Annotated[
    str,
    typer.Option(
        "--prompt",
        "-p",
        help="The question or instruction. The model's chat template is put around it.",
        show_default=False,
    ),
]
Answer = Annotated[
    str | None, typer.Option("--answer", "-a", help="The answer to explain; without it the model writes one.")
]
Model = Annotated[str, typer.Option("--model", "-m", help='A hub id, a folder, or "demo", the small embedded model.')]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Decoder layers to sum: -10 (the last ten), 4:12 (from 4, before 12) or 1,3,5. All by default.",
        metavar="LAYERS",
    ),
]
Methods = Annotated[
    list[Method] | None,
    typer.Option(
        "--method",
        help=f"Where the maps come from: {', '.join(Method)}. Give it several times for maps beside each other; by "
        "default dexar-focus (what the model looked at) and dexar (what would have moved the word, as published).",
        metavar="NAME",
        show_default=False,
    ),
]
OneNormalization = Annotated[Normalization, typer.Option(help="As in the paper, or as in the authors' released code.")]
OneTextSet = Annotated[TextSet, typer.Option(help="Which positions count as text when image and text are weighed.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer that the model may write.", min=1)]
Targets = Annotated[
    str,
    typer.Option(
        help="What is explained as one: tokens, words, phrases, or what a regular expression between slashes matches.",
        metavar="tokens|words|phrases|/REGEX/",
    ),
]
Contrast = Annotated[
    str | None,
    typer.Option(help="Explain why each token was written rather than this word.", metavar="WORD", show_default=False),
]
Live = Annotated[
    bool,
    typer.Option("--live", help="Show the answer as the model writes it, coloured by how much the image supports it."),
]
Block = Annotated[
    int | None, typer.Option(help="With --live: explain so many tokens at once, behind the writing. Default: 1.", min=1)
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... By default the first GPU, or else the CPU.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto for the checkpoint's own.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the report, the overlays and the saved explanation.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the path of the report and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

DEFAULT_OUT = Path("dexar-fast-report")


def parse_targets(text: str) -> TargetSelection:
    """What `--targets` names: a name as it is, or the regular expression between slashes.

    Raises:
        InputError: neither, or not a regular expression.
    """
    if len(text) > 2 and text[0] == text[-1] == "/":
        try:
            return re.compile(text[1:-1])
        except re.error as error:
            raise InputError(f"--targets: {text} is not a regular expression ({error})") from error
    if text not in ("tokens", "words", "phrases"):
        raise InputError(f"--targets: expected tokens, words, phrases or a /regular expression/; got {text!r}")
    return text


def parse_layers(text: str | None) -> LayerSelection:
    """What `--layers` names: `-10` from that layer on, `4:12` a band, `1,3,5` exactly these.

    Raises:
        InputError: none of these forms.
    """
    if text is None:
        return None
    compact = text.replace(" ", "")
    number = r"-?\d+"
    if re.fullmatch(number, compact):
        return int(compact)
    if re.fullmatch(f"{number}:{number}", compact):
        start, stop = compact.split(":")
        return int(start), int(stop)
    if re.fullmatch(f"{number}(,{number})*,?", compact):  # "3," is layer 3 alone, as "3" is layer 3 and all after it
        return [int(layer) for layer in compact.split(",") if layer]
    raise InputError(f"--layers: expected a layer to start from (-10), a band (4:12) or a list (1,3,5); got {text!r}")


def parse_methods(methods: list[Method] | None) -> list[str] | None:
    """What `Explainer.explain` takes; None for its default."""
    return [method.value for method in methods] if methods else None
