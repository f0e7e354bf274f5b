"""Measure the embedded model on held-out scenes: `python -m dexar_fast.demo.evaluate`.

Everything is measured by greedy generation from the prompt alone. Scoring the next word after the right words
so far (teacher forcing) says little: a model that is right nine times in ten that way may get few whole
objects right.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from . import CHECKPOINT
from .language import DESCRIBE, KINDS
from .scenes import HELD_OUT_SEEDS, SQUARE, Scene, draw_scene

Figures = dict[str, float]
BATCH = 64
ASPECTS: dict[str, slice] = {
    "place": slice(0, -4),
    "size": slice(-3, -2),
    "colour": slice(-2, -1),
    "shape": slice(-1, None),
}
"""Where a clause without its full stop ("at the top left a small red square") names each aspect."""


def conversation(question: str) -> list[dict[str, object]]:
    """One image and one question, as `apply_chat_template` takes it."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


@torch.no_grad()
def generate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[tuple[Image.Image, str]],
    device: torch.device,
) -> list[str]:
    """Greedy answers, each with " </s>" where the model ended it.

    Prompts of one length about images of one size run together, so that nothing is padded.
    """
    alike: dict[tuple[int, tuple[int, int]], list[int]] = defaultdict(list)
    for index, (image, question) in enumerate(asked):
        alike[len(processor.tokenizer(question)["input_ids"]), image.size].append(index)
    answers = [""] * len(asked)
    for group in alike.values():
        for at in range(0, len(group), BATCH):
            chosen = group[at : at + BATCH]
            texts = [
                processor.apply_chat_template(conversation(asked[i][1]), add_generation_prompt=True) for i in chosen
            ]
            inputs = processor(images=[[asked[i][0]] for i in chosen], text=texts, return_tensors="pt").to(device)
            ids = model.generate(**inputs, max_new_tokens=80, do_sample=False)[:, inputs["input_ids"].shape[1] :]
            pad = processor.tokenizer.pad_token_id
            for index, row in zip(chosen, ids.tolist(), strict=True):
                answers[index] = processor.tokenizer.decode([token for token in row if token != pad])
    return answers


def measure(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    seeds: Sequence[int],
    device: torch.device,
    size_of: Callable[[int], tuple[int, int]] = lambda seed: SQUARE,
) -> Figures:
    """Shares in percent, and how many cases they are of (keys that end in "cases").

    `objects` counts drawn objects whose clause (the one at the same place in the order) is right word for
    word. `descriptions` counts whole descriptions, and `answers` questions of all kinds, with every word
    right and the end in its place. Each scene is asked every unambiguous question about it.
    """
    scenes = [draw_scene(seed, size=size_of(seed)) for seed in seeds]
    right: dict[str, list[bool]] = defaultdict(list)
    described = generate(
        model, processor, [(s.image, DESCRIBE[i % len(DESCRIBE)]) for i, s in enumerate(scenes)], device
    )
    for scene, text in zip(scenes, described, strict=True):
        right["descriptions"].append(text == f"{scene.description} </s>")
        for name, value in _clauses(scene, text):
            right[name].append(value)
    asked = [(scene.image, question) for scene in scenes for question in scene.questions]
    answers = generate(model, processor, [(image, question.text) for image, question in asked], device)
    for (_, question), text in zip(asked, answers, strict=True):
        exact = text == f"{question.answer} </s>"
        right["answers"].append(exact)
        right[f"answers: {question.kind}"].append(exact)
    figures: Figures = {}
    order = [
        "objects",
        *(f"objects: {a}" for a in ASPECTS),
        "descriptions",
        "answers",
        *(f"answers: {k}" for k in KINDS),
    ]
    for name in order:
        if right[name]:
            figures[name] = round(100 * sum(right[name]) / len(right[name]), 2)
            figures[f"{name} cases"] = len(right[name])
    return figures


def _clauses(scene: Scene, text: str) -> list[tuple[str, bool]]:
    """For each object, whether its clause and each aspect of it is right."""
    said = [clause.split() for clause in text.split(" . ")][: len(scene.objects)]
    said += [[]] * (len(scene.objects) - len(said))
    found = []
    for thing, words in zip(scene.objects, said, strict=True):
        truth = f"{thing.place} a {thing.size} {thing.colour} {thing.shape}".split()
        found.append(("objects", words == truth))
        found += [(f"objects: {name}", words[part] == truth[part]) for name, part in ASPECTS.items()]
    return found


def summary(figures: Figures) -> str:
    """One line of all shares."""
    return "  ".join(f"{name} {value:.1f}" for name, value in figures.items() if not name.endswith("cases"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dexar_fast.demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="folder of the model; default: the embedded one")
    parser.add_argument("--scenes", type=int, default=500, help="number of held-out scenes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args(arguments)
    model = LlavaForConditionalGeneration.from_pretrained(given.model, local_files_only=True).to(given.device).eval()
    processor = AutoProcessor.from_pretrained(given.model, local_files_only=True)
    seeds = HELD_OUT_SEEDS[: given.scenes]
    figures = measure(model, processor, seeds, given.device)
    for name, value in figures.items():
        if not name.endswith("cases"):
            print(f"{name:<20} {value:6.2f} %  of {figures[f'{name} cases']:.0f}")
    if given.json is not None:
        record = {
            "seeds": f"{seeds.start} to {seeds.stop - 1}",
            "decoding": "greedy generation",
            "percent": figures,
        }
        given.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
