"""Train the models besides the embedded one and measure them: `python -m dexar_fast.demo.make`, or `make models`.

Each takes twenty minutes to two hours on one core. An interrupted training goes on where it was.
"""

import argparse
from pathlib import Path

import torch

from . import MODELS
from .evaluate import main as evaluate
from .train_reader import Settings as ReaderSettings
from .train_reader import train as train_reader
from .train_scenes import ARCHITECTURES, SETTINGS
from .train_scenes import train as train_scenes

NAMES = [name.removeprefix("demo-") for name in MODELS if name != "demo"]


def make(name: str, out: Path, device: torch.device, scenes: int) -> Path:
    """Train one model in `out` and write its figures on so many held-out scenes; returns its folder."""
    if name in ARCHITECTURES:
        folder = train_scenes(ARCHITECTURES[name], SETTINGS[name], out, device)
    else:
        folder = train_reader(ReaderSettings(), out, device)
    evaluate(
        ["--name", f"demo-{name}", "--model", str(folder), "--scenes", str(scenes), "--json",
         str(folder / "heldout.json"), "--device", str(device)]
    )  # fmt: skip
    return folder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dexar_fast.demo.make", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("models"), help="each gets a folder of its name in it")
    parser.add_argument("--scenes", type=int, default=500, help="number of held-out scenes or pages to measure on")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in NAMES:
            parser.error(f"names: expected some of {', '.join(NAMES)}; got {name!r}")
        print(f"{name}: {make(name, given.out / name, given.device, given.scenes)}")


if __name__ == "__main__":
    main()
