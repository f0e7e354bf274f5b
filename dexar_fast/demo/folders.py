"""A trained model as a folder that plain transformers loads, and the command line of its training."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, ProcessorMixin

from .training import Training


def save_model(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write weights as float16 safetensors, config, tokenizer and processor into `folder`.

    The config still asks for float32, which is how `from_pretrained` loads it: half precision only saves space.
    """
    halves = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        if "dtype" in part:
            part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_folder(
    model: PreTrainedModel, processor: ProcessorMixin, folder: Path, command: str, settings: Any, training: Training
) -> Path:
    """`save_model`, and in training.json how the weights came about."""
    save_model(model, processor, folder)
    record = {
        "command": command,
        "settings": asdict(settings),
        "seconds": round(training.seconds()),
        "device": training.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    training.say(f"wrote {folder}")
    return folder


def command(module: str, settings: Any, defaults: Any) -> str:
    """The command line that trains with these settings where the others are the defaults."""
    words = [f"python -m {module}"]
    for name, value in asdict(settings).items():
        if value != getattr(defaults, name):
            words.append(f"--{name.replace('_', '-')}")
            words += [str(part) for part in (value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def run(
    defaults: Any,
    train: Callable[..., Path],
    module: str,
    description: str | None,
    arguments: list[str] | None = None,
) -> None:
    """The command line: an option for each field of the default settings, and where and on what."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    for name, value in asdict(defaults).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple):
            parser.add_argument(option, type=type(value[0]), nargs="+", default=value)
        else:
            parser.add_argument(option, type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True, help="folder for the state file and the checkpoint")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = vars(parser.parse_args(arguments))
    out, device = given.pop("out"), given.pop("device")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    train(type(defaults)(**given), out, device)
