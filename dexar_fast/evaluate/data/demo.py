"""Drawn scenes with exact masks per object, and which word is about which object. Held out from training."""

from __future__ import annotations

from ...demo.language import COLOURS, DESCRIBE, NUMBERS, SHAPES, SIZES, Text
from ...demo.scenes import HELD_OUT_SEEDS, Scene, draw_scene
from ...errors import InputError
from .sample import Sample, WordTruth

_KINDS = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "number": NUMBERS, "yes or no": ("yes", "no")}


def kind_of(word: str, refers_to: tuple[int, ...]) -> str:
    """What a word of the demo's language says of the objects that it refers to; "function" if it refers to none."""
    if not refers_to:
        return "function"
    return next((kind for kind, words in _KINDS.items() if word in words), "place")


class DemoScenes:
    """Scenes described: the right description is the answer, the mask is all objects."""

    name = "demo"

    def __init__(self, first_seed: int = 0) -> None:
        self.seeds = HELD_OUT_SEEDS[first_seed:]

    def __len__(self) -> int:
        return len(self.seeds)

    def key(self, index: int) -> str:
        return f"scene-{self.seeds[index]}"

    def __getitem__(self, index: int) -> Sample:
        scene = draw_scene(self.seeds[index])
        everything = scene.mask(range(len(scene.objects)))
        return Sample(
            self.key(index),
            scene.image,
            DESCRIBE[0],
            str(scene.description),
            everything,
            _word_truths(scene, scene.description),
        )


class DemoQuestions(DemoScenes):
    """Scenes asked: one question per scene that has something to point at, the kinds by turns; its answer's objects are
    the mask."""

    name = "demo-questions"

    def __getitem__(self, index: int) -> Sample:
        scene = draw_scene(self.seeds[index])
        pointing = [question for question in scene.questions if any(question.answer.refers_to)]
        if not pointing:
            raise InputError(f"data: scene {self.seeds[index]} has no question that points at an object")
        question = pointing[index % len(pointing)]
        about = {thing for refers_to in question.answer.refers_to for thing in refers_to}
        return Sample(
            self.key(index),
            scene.image,
            question.text,
            str(question.answer),
            scene.mask(about),
            _word_truths(scene, question.answer),
        )


def _word_truths(scene: Scene, text: Text) -> dict[int, WordTruth]:
    return {
        index: WordTruth(kind_of(word, refers_to), scene.mask(refers_to) if refers_to else None)
        for index, (word, refers_to) in enumerate(zip(text.words, text.refers_to, strict=True))
    }
