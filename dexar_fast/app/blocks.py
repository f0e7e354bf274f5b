"""The app's page and what its buttons do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from PIL import Image

from ..errors import DexarFastError, InputError
from ..explainer import Explainer
from ..inputs.methods import COMPARISONS, DEFAULT, METHODS
from ..render.languages import ENGLISH, Language, labels
from ..result.explanation import Explanation
from .answers import Stopped, answers, first_question, takes_chats
from .demos import READER, about, draw
from .pictures import (
    coloured_token,
    coloured_words,
    readings,
    token_maps,
    two_words,
    word_choices,
    word_maps,
    write_files,
)

CSS = """
#maps .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) }
#maps .grid-wrap { max-height: none }
"""
"""A single map is as large as one of two, and none is cut off."""
LINE = 16
"""Requests that may wait; each runs when the model's turn has come to it."""
_SEEDS = 1_000_000
_CACHE_SECONDS = 3600, 86_400  # Gradio looks for old files, which are as old as that
_ALONE = "Each question stands alone"


def create_app(explainer: Explainer, *, lang: Language = ENGLISH) -> gr.Blocks:
    """The app for one model.

    Args:
        explainer: with a processor.
        lang: of the sentences about words and of the report, as for `Explanation.to_html`; the page itself is English.

    Raises:
        InputError: the explainer has no processor, or there is no such language.
    """
    labels(lang)  # an unknown language is told now
    if explainer.processor is None:
        raise InputError("explainer: expected one with a processor, which reads pictures and prompts")
    with gr.Blocks(title="dexar-fast", analytics_enabled=False, delete_cache=_CACHE_SECONDS) as app:
        gr.Markdown("# Which part of the image made the model write this word?")
        if text := about(explainer.model_name):
            gr.Markdown(text, elem_id="demo")
        else:
            gr.Textbox(explainer.model_name, label="Model", interactive=False)
        _fill(explainer, app, lang)
    app.queue(max_size=LINE, default_concurrency_limit=4)
    return app


class _Run:
    """One question of a page. Set by its buttons, in other threads.

    Attributes:
        stopped: what was written so far shall do.
        dropped: nobody wants any of it; the page is cleared.
    """

    def __init__(self) -> None:
        self.stopped = self.dropped = False

    def look(self) -> bool:
        """Whether the answer ends here.

        Raises:
            Stopped: nobody wants it.
        """
        if self.dropped:
            raise Stopped
        return self.stopped


def _fill(explainer: Explainer, app: gr.Blocks, lang: Language) -> None:
    folders = TemporaryDirectory(prefix="dexar-fast-app-")  # one in it for each page that is open
    explained = gr.State(None)  # the explanation, in this process alone
    chosen = gr.State(None)  # index of a word
    runs: dict[str, _Run] = {}  # by page
    chats = takes_chats(explainer)
    with gr.Row():
        with gr.Column():
            picture = gr.Image(type="pil", label="Picture", height=320, sources=["upload", "clipboard"])
            scene = gr.Button("Draw a page" if explainer.model_name == READER else "Draw a scene", elem_id="scene")
            talk = gr.Chatbot(
                label="Chat" if chats else _ALONE, height=220, render_markdown=False, buttons=["copy_all"],
                elem_id="talk",
            )  # fmt: skip
            prompt = gr.Textbox(first_question(explainer), label="Question", elem_id="prompt")
            with gr.Row():
                ask = gr.Button("Ask", variant="primary", min_width=90, elem_id="ask")
                stop = gr.Button("Stop", min_width=90, elem_id="stop")
                anew = gr.Button("New chat", min_width=90, elem_id="anew")
            with gr.Accordion("Options", open=False):
                contrast = gr.Textbox("", label="Why each word rather than", elem_id="contrast")
                methods = gr.Dropdown(
                    [*METHODS, *COMPARISONS], value=list(DEFAULT), multiselect=True, label="Methods, the first in front"
                )
                longest = gr.Slider(1, 512, 128, step=1, label="Longest answer, in tokens")
        with gr.Column():
            words = gr.HighlightedText(
                [], label="Answer: violet rests on the image, red is against it", show_legend=False, elem_id="words",
                show_whitespaces=False, color_map={},
            )  # fmt: skip
            said = gr.Textbox("", label="Reading", lines=2, interactive=False, elem_id="said")
            maps = gr.Gallery(label="Maps", columns=2, height="auto", object_fit="contain", elem_id="maps")
            with gr.Row():
                one = gr.Dropdown([], label="Compare", elem_id="one")
                other = gr.Dropdown([], label="with", elem_id="other")
            compare = gr.Button("Compare the two words", elem_id="compare")
            with gr.Row():
                report = gr.DownloadButton("Report", min_width=90, interactive=False, elem_id="report")
                table = gr.DownloadButton("CSV", min_width=90, interactive=False, elem_id="csv")
                png = gr.DownloadButton("PNG", min_width=90, interactive=False, elem_id="png")

    files = [report, table, png]
    shown = [talk, words, said, maps, one, other, explained, chosen, *files]

    def name_of(page: gr.Request) -> str:
        return str(page.session_hash)

    def folder_of(page: gr.Request) -> Path:
        return Path(folders.name) / name_of(page)

    def stopped(page: gr.Request) -> None:
        if run := runs.get(name_of(page)):
            run.stopped = True

    def drop(page: gr.Request) -> None:
        if run := runs.pop(name_of(page), None):
            run.dropped = True

    def closed(page: gr.Request) -> None:
        drop(page)
        rmtree(folder_of(page), ignore_errors=True)

    def nothing() -> dict[Any, Any]:
        """Of an answer: neither words nor maps, and no files of the one before."""
        off = {button: gr.DownloadButton(interactive=False) for button in files}
        none = gr.Dropdown([], value=None)
        return {words: [], maps: [], said: "", one: none, other: none, explained: None, chosen: None, **off}

    def answered(
        image: Image.Image | None,
        before: list[Any],
        text: str,
        names: list[str],
        foil: str,
        most: int,
        page: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        run = runs[name_of(page)] = _Run()
        told = [*before, {"role": "user", "content": text or "(no question)"}]
        pieces: list[tuple[str, float]] = []
        yield {**nothing(), talk: told, said: "Waiting for the model …"}
        try:
            for found in answers(
                explainer, image, _turns(before) if chats else [], text,
                methods=names, contrast=foil, max_new_tokens=int(most), stopped=run.look,
            ):  # fmt: skip
                if isinstance(found, Explanation):
                    answer = {"role": "assistant", "content": found.answer.strip()}
                    choices, (first, second) = word_choices(found), two_words(found)
                    yield {
                        talk: [*told, answer], words: coloured_words(found), explained: found, chosen: None,
                        one: gr.Dropdown(choices, value=first), other: gr.Dropdown(choices, value=second),
                        **_shown(found, None, page),
                    }  # fmt: skip
                else:
                    assert image is not None
                    pieces.append(coloured_token(found))
                    yield {words: pieces, maps: token_maps(found, image), said: "Writing …"}
        except Stopped:
            yield {**nothing(), talk: before, said: "Stopped."}
        except DexarFastError as error:
            yield {**nothing(), talk: before}  # a question without an answer is taken back
            raise _toast(error) from error
        if run.dropped:  # the last word is ours: what was on its way would else come behind that of `cleared`
            yield {**nothing(), talk: []}

    def _shown(found: Explanation, word: int | None, page: gr.Request) -> dict[Any, Any]:
        paths = dict(zip(files, write_files(found, word, folder_of(page), lang)))
        downloads = {button: gr.DownloadButton(value=path, interactive=True) for button, path in paths.items()}
        return {maps: word_maps(found, word), said: readings(found, word, lang=lang), **downloads}

    def choose(found: Explanation | None, before: int | None, event: gr.SelectData, page: gr.Request) -> dict[Any, Any]:
        if found is None:
            return {chosen: None}
        word = None if event.index == before else int(event.index)  # a second click shows the answer again
        with _errors_as_toasts():
            return {chosen: word, **_shown(found, word, page)}

    def compared(found: Explanation | None, first: int, second: int) -> dict[Any, Any]:
        if found is None:
            raise gr.Error("Ask first.")
        with _errors_as_toasts():
            return {maps: word_maps(found, first, second), said: readings(found, first, second, lang=lang)}

    def cleared(page: gr.Request) -> dict[Any, Any]:
        drop(page)
        return {**nothing(), talk: []}

    def draw_one() -> Image.Image:
        return draw(explainer.model_name, random.randrange(_SEEDS))

    question = [picture, talk, prompt, methods, contrast, longest]
    gr.on([ask.click, prompt.submit], answered, question, shown, trigger_mode="once")
    stop.click(stopped, queue=False)
    scene.click(draw_one, None, picture)
    gr.on([picture.change, anew.click, talk.clear], cleared, None, shown)
    words.select(choose, [explained, chosen], [chosen, maps, said, *files])
    app.unload(closed)
    compare.click(compared, [explained, one, other], [maps, said])


def _turns(messages: list[Any]) -> list[tuple[str, str]]:
    """Questions with answers, of what the chat shows; a question that was stopped has none."""
    turns: list[tuple[str, str]] = []
    for first, second in pairwise(messages):
        if (first["role"], second["role"]) == ("user", "assistant"):
            turns.append((_text(first), _text(second)))
    return turns


def _text(message: Any) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextmanager
def _errors_as_toasts() -> Iterator[None]:
    """What the user can mend is shown to the user."""
    try:
        yield
    except DexarFastError as error:
        raise _toast(error) from error


def _toast(error: DexarFastError) -> gr.Error:
    return gr.Error(escape(str(error)), print_exception=False)
