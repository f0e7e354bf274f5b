"""Measure the trained models on held-out scenes: `python -m dexar_fast.demo.evaluate`.

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
from transformers import AutoModelForMultimodalLM, AutoProcessor, PreTrainedModel, ProcessorMixin

from . import MODELS, model_folder
from .evaluate_reader import measure as measure_reader
from .figures import Figures, shares
from .language import PLAIN, Language
from .scenes import HELD_OUT_SEEDS, Scene, draw_scene
from .worlds import WORLDS

BATCH = 64


def conversation(question: str) -> list[dict[str, object]]:
    """One image and one question, as `apply_chat_template` takes it."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def prompt_text(processor: ProcessorMixin, question: str) -> str:
    """What the processor takes for one image and one question."""
    if processor.chat_template is None:
        return f"{processor.image_token}{question}"
    text: str = processor.apply_chat_template(conversation(question), add_generation_prompt=True)
    return text


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
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
            texts = [prompt_text(processor, asked[i][1]) for i in chosen]
            inputs = processor(images=[[asked[i][0]] for i in chosen], text=texts, return_tensors="pt").to(device)
            inputs.pop("labels", None)  # PaliGemma's processor makes some
            ids = model.generate(**inputs, max_new_tokens=128, do_sample=False)[:, inputs["input_ids"].shape[1] :]
            pad = processor.tokenizer.pad_token_id
            for index, row in zip(chosen, ids.tolist(), strict=True):
                answers[index] = processor.tokenizer.decode([token for token in row if token != pad])
    return answers


def measure(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    seeds: Sequence[int],
    device: torch.device,
    draw: Callable[[int], Scene] = draw_scene,
    language: Language = PLAIN,
) -> Figures:
    """Shares in percent, and how many cases they are of (keys that end in "cases").

    `objects` counts drawn objects whose sentence (the one at the same place in the order) is right word for
    word. `descriptions` counts whole descriptions, and `answers` questions of all kinds, with every word
    right and the end in its place. Each scene is asked every unambiguous question about it.
    """
    scenes = [draw(seed) for seed in seeds]
    right: dict[str, list[bool]] = defaultdict(list)
    prompts = [language.prompts[index % len(language.prompts)] for index in range(len(scenes))]
    described = generate(
        model, processor, [(scene.image, prompt) for scene, prompt in zip(scenes, prompts, strict=True)], device
    )
    for scene, prompt, text in zip(scenes, prompts, described, strict=True):
        truth = str(language.describe(scene.objects, prompt))
        right["descriptions"].append(text == f"{truth} </s>")
        for name, value in _sentences(truth, text, len(scene.objects), language):
            right[name].append(value)
    asked = [(scene.image, question) for scene in scenes for question in scene.questions]
    answers = generate(model, processor, [(image, question.text) for image, question in asked], device)
    for (_, question), text in zip(asked, answers, strict=True):
        exact = text == f"{question.answer} </s>"
        right["answers"].append(exact)
        right[f"answers: {question.kind}"].append(exact)
    order = [
        "objects",
        *(f"objects: {aspect}" for aspect in language.aspects),
        "descriptions",
        "answers",
        *(f"answers: {kind}" for kind in language.kinds),
    ]
    return shares(right, order)


def _sentences(truth: str, text: str, objects: int, language: Language) -> list[tuple[str, bool]]:
    """For each object, whether its sentence is right, and the words in it for each aspect."""
    of_objects = slice(language.opening, language.opening + objects)
    wanted, said = (
        [sentence.split() for sentence in each.removesuffix(" </s>").split(" .")][of_objects] for each in (truth, text)
    )
    said += [[]] * (objects - len(said))
    found = []
    for right, words in zip(wanted, said, strict=True):
        found.append(("objects", words == right))
        for aspect, names in language.aspects.items():
            if any(word in names for word in right):
                found.append(
                    (f"objects: {aspect}", [w for w in words if w in names] == [w for w in right if w in names])
                )
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dexar_fast.demo.evaluate", description=__doc__)
    parser.add_argument("--name", choices=list(MODELS), default="demo", help="what is measured; default: demo")
    parser.add_argument("--model", type=Path, help="folder of the model; default: the one of that name")
    parser.add_argument("--scenes", type=int, default=500, help="number of held-out scenes or pages")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args(arguments)
    folder = given.model or model_folder(given.name)
    model = AutoModelForMultimodalLM.from_pretrained(folder, local_files_only=True).to(given.device).eval()
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    seeds = HELD_OUT_SEEDS[: given.scenes]
    if given.name in WORLDS:
        figures = measure(model, processor, seeds, given.device, *WORLDS[given.name])
    else:
        figures = measure_reader(model, processor, seeds, given.device)
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
