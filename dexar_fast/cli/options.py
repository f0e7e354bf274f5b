"""The options that commands share, and how their text becomes values."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..inputs.layers import LayerSelection
    from ..inputs.only import Only as Part
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


ImageFile = Annotated[
    str | None,
    typer.Argument(help="The picture: a file, a data URI or, with --allow-urls, a URL.", show_default=False),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        "-p",
        help="The question or instruction. The model's chat template is put around it.",
        show_default=False,
    ),
]
ChatFile = Annotated[
    Path | None,
    typer.Option(
        "--messages",
        help="In place of --prompt: a JSON file with a chat of several turns, pictures in any of them.",
        metavar="FILE",
        show_default=False,
    ),
]
Answer = Annotated[
    str | None, typer.Option("--answer", "-a", help="The answer to explain; without it the model writes one.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help='A hub id, a folder, or "demo", the small embedded model, which knows drawn scenes alone.',
        show_default=False,
    ),
]
Load = Annotated[
    list[str] | None,
    typer.Option(
        "--load",
        help="How to load the model, as Explainer.from_pretrained takes it; repeat it: revision=v2, load_in_4bit=true, "
        "device_map=auto.",
        metavar="NAME=VALUE",
        show_default=False,
    ),
]
ImageKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--image-kwargs",
        help="A setting of the model's image processor; repeat it: do_pan_and_scan=true, max_pixels=500000.",
        metavar="NAME=VALUE",
        show_default=False,
    ),
]
Background = Annotated[str, typer.Option(help="What shows through where the picture is transparent: white, #336699.")]
Frame = Annotated[
    int | None,
    typer.Option(help="Which frame of an animation or page of a file, from 0.", min=0, show_default=False),
]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures that are given as http(s) URLs.")]
Only = Annotated[
    str | None,
    typer.Option(
        help="Explain this part of the answer: a range of tokens (10:20), the last sentence, what follows a reasoning "
        "model's closing tag, or the first match of a regular expression.",
        metavar="START:STOP|last_sentence|after_thinking|/REGEX/",
        show_default=False,
    ),
]
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
Csv = Annotated[bool, typer.Option("--csv", help="Also write words.csv and tokens.csv.")]
Json = Annotated[bool, typer.Option("--json", help="Also write explanation.json, with the maps as lists of numbers.")]
Npz = Annotated[bool, typer.Option("--npz", help="Also write explanation.npz, for NumPy and Explanation.load.")]
_LANGUAGES = "en, de, es, fr, zh, or a JSON file with labels of your own."
Lang = Annotated[str, typer.Option(help=f"Language of the pages: {_LANGUAGES}", metavar="NAME|FILE")]
AppLang = Annotated[
    str, typer.Option(help=f"Language of the report and of what is said of a word: {_LANGUAGES}", metavar="NAME|FILE")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the path of the report and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

DEFAULT_OUT = Path("dexar-fast-report")


def chosen_formats(csv: bool, json: bool, npz: bool) -> list[str]:
    """What `write_files` takes."""
    return [name for name, chosen in (("csv", csv), ("json", json), ("npz", npz)) if chosen]


def parse_lang(text: str) -> str | dict[str, str]:
    """What `--lang` names: a language as it is, or the labels of a JSON file.

    Raises:
        InputError: no such language, or a table that is not complete.
    """
    from ..render.languages import labels, read_labels

    if text.lower().endswith(".json"):
        return read_labels(Path(text))
    labels(text)
    return text


def parse_targets(text: str) -> TargetSelection:
    """What `--targets` names: a name as it is, or the regular expression between slashes.

    Raises:
        InputError: neither, or not a regular expression.
    """
    pattern = _pattern("--targets", text)
    if pattern is not None:
        return pattern
    if text not in ("tokens", "words", "phrases"):
        raise InputError(f"--targets: expected tokens, words, phrases or a /regular expression/; got {text!r}")
    return text


def parse_only(text: str | None) -> Part:
    """What `--only` names: a name as it is, a range of tokens, or the regular expression between slashes.

    Raises:
        InputError: none of these.
    """
    if text is None or text in ("last_sentence", "after_thinking"):
        return text
    pattern = _pattern("--only", text)
    if pattern is not None:
        return pattern
    found = re.fullmatch(r"(-?\d+):(-?\d+)", text.replace(" ", ""))
    if found is None:
        raise InputError(
            f"--only: expected last_sentence, after_thinking, a range of tokens (10:20) or a /regular expression/; got "
            f"{text!r}"
        )
    return int(found[1]), int(found[2])


def parse_settings(option: str, texts: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` texts as a mapping; a value is read as JSON (true, 3, {"height": 448}), or else as text.

    Raises:
        InputError: a text without a name, or a name twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise InputError(f"{option}: expected NAME=VALUE; got {text!r}")
        if name in found:
            raise InputError(f"{option}: {name} is given twice")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


def read_chat(path: Path | None) -> Any:
    """The messages of a JSON file.

    Raises:
        InputError: no such file, or not JSON.
    """
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--messages: {path} is no readable JSON file ({reason})") from error


def require_model(model: str | None) -> str:
    """The model that was named.

    Raises:
        InputError: none was.
    """
    if model is None:
        raise InputError(
            "--model: expected the model whose answer is explained: a hub id or a folder, such as -m "
            "llava-hf/llava-1.5-7b-hf. The small embedded one, -m demo, knows drawn scenes alone (dexar-fast demo)."
        )
    return model


def _pattern(option: str, text: str) -> re.Pattern[str] | None:
    """The regular expression between slashes, None where there are none.

    Raises:
        InputError: it is none.
    """
    if len(text) <= 2 or not text[0] == text[-1] == "/":
        return None
    try:
        return re.compile(text[1:-1])
    except re.error as error:
        raise InputError(f"{option}: {text} is not a regular expression ({error})") from error


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
