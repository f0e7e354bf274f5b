"""Drawn scenes and pages with exact masks, and which word is about which of them. Held out from training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...demo.language import PLAIN, Language, Text
from ...demo.pages import draw_page
from ...demo.rich_language import PIECES, RICH
from ...demo.scenes import HELD_OUT_SEEDS, Scene, draw_scene
from ...demo.worlds import WORLDS
from ...errors import InputError
from .sample import DataSet, Sample, WordTruth


class DemoScenes:
    """Scenes described: the right description is the answer, the mask is all objects.

    Args:
        first_seed: of the scenes.
        name: of the data set.
        draw: the scene of a seed.
        language: what is said of it.
        prompts: what is asked, by turns; prompts of the language.
    """

    def __init__(
        self,
        first_seed: int = 0,
        *,
        name: str = "demo",
        draw: Callable[[int], Scene] = draw_scene,
        language: Language = PLAIN,
        prompts: tuple[str, ...] = PLAIN.prompts[:1],
    ) -> None:
        self.seeds = HELD_OUT_SEEDS[first_seed:]
        self.name, self.draw, self.language, self.prompts = name, draw, language, prompts

    def __len__(self) -> int:
        return len(self.seeds)

    def key(self, index: int) -> str:
        return f"scene-{self.seeds[index]}"

    def __getitem__(self, index: int) -> Sample:
        scene = self.draw(self.seeds[index])
        prompt = self.prompts[index % len(self.prompts)]
        text = self.language.describe(scene.objects, prompt)
        everything = scene.mask(range(len(scene.objects)))
        return Sample(self.key(index), scene.image, prompt, str(text), everything, self.word_truths(scene, text))

    def word_truths(self, scene: Scene, text: Text) -> dict[int, WordTruth]:
        """Truth by word. A word of several tokens is of the kind "several tokens", whatever it says."""
        truths = {}
        for index, (word, refers_to) in enumerate(zip(text.words, text.refers_to, strict=True)):
            kind = self.language.kind_of(word, refers_to)
            if self.language is RICH and word in PIECES:
                kind = "several tokens"
            truths[index] = WordTruth(kind, scene.mask(refers_to) if refers_to else None)
        return truths


class DemoQuestions(DemoScenes):
    """Scenes asked: one question per scene that has something to point at, the kinds by turns; its answer's objects are
    the mask.

    Args:
        kind: the only kind that is asked, such as "place"; None for all. Reading a scene without one raises.
    """

    def __init__(
        self,
        first_seed: int = 0,
        *,
        name: str = "demo-questions",
        draw: Callable[[int], Scene] = draw_scene,
        language: Language = PLAIN,
        kind: str | None = None,
    ) -> None:
        super().__init__(first_seed, name=name, draw=draw, language=language)
        self.kind = kind

    def __getitem__(self, index: int) -> Sample:
        scene = self.draw(self.seeds[index])
        pointing = [
            question
            for question in scene.questions
            if any(question.answer.refers_to) and self.kind in (None, question.kind)
        ]
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
            self.word_truths(scene, question.answer),
        )


class DemoPages:
    """Pages read: the text is the answer. A word is about the boxes of its characters; all of them are the mask."""

    name = "demo-reader"

    def __len__(self) -> int:
        return len(HELD_OUT_SEEDS)

    def key(self, index: int) -> str:
        return f"page-{HELD_OUT_SEEDS[index]}"

    def __getitem__(self, index: int) -> Sample:
        page = draw_page(HELD_OUT_SEEDS[index])
        words = {
            number: WordTruth("number" if word.isdigit() else "text", page.boxes(glyphs))
            for number, (word, glyphs) in enumerate(page.words())
        }
        everything = page.boxes(range(len(page.glyphs)))
        return Sample(self.key(index), page.image, "", page.text, everything, words)


def _scenes(name: str) -> DemoScenes:
    draw, language = WORLDS[name]
    prompts = language.prompts[:1] if language is PLAIN else language.prompts
    return DemoScenes(name=name, draw=draw, language=language, prompts=prompts)


def _questions(name: str, suffix: str, kind: str | None = None) -> DemoQuestions:
    draw, language = WORLDS[name]
    return DemoQuestions(name=f"{name}-{suffix}", draw=draw, language=language, kind=kind)


DEMO: dict[str, Callable[[], DataSet]] = {
    **{name: partial(_scenes, name) for name in WORLDS},
    **{f"{name}-questions": partial(_questions, name, "questions") for name in WORLDS},
    **{f"{name}-locations": partial(_questions, name, "locations", "place") for name in WORLDS},
    DemoPages.name: DemoPages,
}
"""Data sets by name: that of a model of `demo.MODELS` has the model's name, with -questions for its questions,
with -locations for those that ask where something is."""
