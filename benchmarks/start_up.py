"""What a command takes before and around its work: ``python -m benchmarks.start_up``.

Each is a process of its own, in turns; processor time of all its threads. The answer of plain transformers is what no
command that loads a model and lets it write can do without. Puts a table into ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dexar_fast.demo import model_folder
from dexar_fast.demo.scenes import draw_scene

from .files import put_between_markers
from .ops.tables import PAGE
from .timing import described, environment

PROMPT = "describe the image ."
PLAIN = """
import sys
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor
folder, picture, prompt = sys.argv[1:]
model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
content = [{"type": "image"}, {"type": "text", "text": prompt}]
text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
inputs = processor(images=Image.open(picture), text=text, return_tensors="pt")
model.generate(**inputs, max_new_tokens=128, do_sample=False)
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed, by what the table calls it."""
    picture = folder / "scene.png"
    draw_scene(0).image.save(picture)
    explain = ["explain", str(picture), "-m", "demo", "-p", PROMPT, "--out", str(folder / "out"), "--quiet"]
    ours = [sys.executable, "-m", "dexar_fast"]
    plain = [sys.executable, "-c", PLAIN, str(model_folder("demo")), str(picture), PROMPT]
    return {
        "`import torch`": [sys.executable, "-c", "import torch"],
        "`import dexar_fast`": [sys.executable, "-c", "import dexar_fast"],
        "`dexar-fast --help`": [*ours, "--help"],
        "plain transformers: load the embedded model, write the answer": plain,
        "`dexar-fast explain`: the same, explained, with report, overlays and file": [*ours, *explain],
    }


def processor_and_wall_seconds(command: list[str]) -> tuple[float, float]:
    """Of one process; an exit status that is not 0 raises."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.start_up", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--docs", type=Path, default=PAGE)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(Path(folder))
        for _ in range(options.repetitions):
            for name in random.sample(list(timed), len(timed)):
                found.setdefault(name, []).append(processor_and_wall_seconds(timed[name]))
    lines = ["| process | processor seconds | wall seconds |", "|---|---:|---:|"]
    for name in timed:
        columns = zip(*found[name], strict=True)
        cells = [f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join([*lines, "", f"Median of {options.repetitions}, least and most. {described(environment('cpu'))}."])
    print(text)
    put_between_markers(options.docs, "start-up", text)


if __name__ == "__main__":
    main()
