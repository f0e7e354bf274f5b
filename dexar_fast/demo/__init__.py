"""Small models trained on drawn pictures whose ground truth is known; one of them, a LLaVA, is *the* embedded model.

Import from the files; this package itself costs nothing, torch and transformers come with those that need them.
"""

from os import PathLike
from pathlib import Path

from ..errors import InputError

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
"""Folder of the embedded model, in the layout of a hub checkpoint."""
CHECKPOINTS: Path = Path(__file__).parent / "checkpoints"
"""The other models' folders."""

MODELS: dict[str, Path] = {
    "demo": CHECKPOINT,
    "demo-qwen": CHECKPOINTS / "qwen",
    "demo-gemma": CHECKPOINTS / "gemma",
    "demo-paligemma": CHECKPOINTS / "paligemma",
    "demo-reader": CHECKPOINTS / "reader",
    "demo-deep": CHECKPOINTS / "deep",
}
"""Folders by the name that `Explainer.from_pretrained` takes. The data set of the same name (`evaluate.data`) is what
the model was trained to describe or read, drawn from held-out seeds."""


def model_folder(name: str) -> Path:
    """The folder of one of `MODELS`.

    Raises:
        InputError: it is not part of this installation; the message says which command trains it.
    """
    folder = MODELS[name]
    if not (folder / "config.json").is_file():
        short = name.removeprefix("demo-")
        command = "train_reader" if short == "reader" else f"train_scenes {short}"
        raise InputError(
            f"model: {name!r} does not come with the package. Train it (an hour or two): python -m "
            f"dexar_fast.demo.{command} --out models/{short}, and pass the folder models/{short}/checkpoint"
        )
    return folder


def source_of(model: str | PathLike[str]) -> str | PathLike[str]:
    """Where a model is loaded from: the folder of one of `MODELS`, or what was given."""
    return model_folder(model) if isinstance(model, str) and model in MODELS else model
