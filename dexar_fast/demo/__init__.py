"""Small models trained on drawn pictures whose ground truth is known; one of them, a LLaVA, is *the* embedded model.

Importing this package costs nothing: torch and transformers are imported by the modules that need them.
"""

from pathlib import Path

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
    """The folder of a model.

    Raises:
        FileNotFoundError: it is not part of this installation; the message says which command trains it.
    """
    folder = MODELS[name]
    if not (folder / "config.json").is_file():
        short = name.removeprefix("demo-")
        command = "train_reader" if short == "reader" else f"train_scenes {short}"
        raise FileNotFoundError(
            f"{name!r} does not come with the package. Train it (an hour or two): python -m dexar_fast.demo.{command} "
            f"--out models/{short}, and pass the folder models/{short}/checkpoint"
        )
    return folder
