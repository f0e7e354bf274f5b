"""Load, explain, write, print: what the commands have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ..demo import MODELS, source_of
from ..errors import InputError
from ..inputs.methods import MEANINGS
from ..inputs.tokens import printable, require_characters
from ..progress import ProgressCallback
from ..render.languages import ENGLISH, Language
from .garbage import garbage_left_alone
from .live import show_live
from .output import Written, make_folder, shown_path, write_files
from .progress import shown_progress
from .tables import word_table

if TYPE_CHECKING:
    from ..explainer import Explainer
    from ..result.explanation import Explanation
    from ..runs.estimate.result import Estimate


def explain_and_write(
    model: str,
    out: Path,
    *,
    quiet: bool,
    how: Mapping[str, Any] | None = None,
    formats: Sequence[str] = (),
    lang: Language = ENGLISH,
    **options: Any,
) -> None:
    """Explain one answer, write the files into `out` and print what came of it.

    Args:
        model, how: what is loaded, and with which options of `Explainer.from_pretrained`.
        out: the folder.
        quiet: print the path of the report alone.
        formats: further files: see `dexar_fast.cli.output.FURTHER`.
        lang: of the report.
        options: for `Explainer.explain`, image and prompt among them.
    """
    make_folder(out)
    check_texts(model, options.get("prompt"), options.get("answer"))
    with shown_progress(quiet) as progress:
        explainer = load_explainer(model, progress, **(how or {}))
        explanation = explainer.explain(grounding=True, progress=progress, **options)
        written = write_files(explanation, out, progress, formats, lang)
    if quiet:
        print(shown_path(written.report))
    else:
        print_result(explanation, written)


def explain_live_and_write(
    model: str,
    out: Path,
    *,
    how: Mapping[str, Any],
    formats: Sequence[str] = (),
    lang: Language = ENGLISH,
    **options: Any,
) -> None:
    """As `explain_and_write`, and show the answer as it is written; `options` go to `Explainer.stream`."""
    make_folder(out)
    check_texts(model, options.get("prompt"))
    with shown_progress(quiet=False) as progress:
        explainer = load_explainer(model, progress, **how)
    stream = explainer.stream(grounding=True, **options)
    explanation = show_live(stream, Console())
    with shown_progress(quiet=False) as progress:
        written = write_files(explanation, out, progress, formats, lang)
    print_files(written)


def profile_and_print(model: str, *, quiet: bool, how: Mapping[str, Any], **options: Any) -> None:
    """Profile one explanation and print its stages; `options` go to `Explainer.profile`."""
    check_texts(model, options.get("prompt"), options.get("answer"))
    with shown_progress(quiet) as progress:
        explainer = load_explainer(model, progress, **how)
        profile = explainer.profile(progress=progress, **options)
    console = Console()
    if not quiet:
        console.print(Text.assemble(("Answer  ", "bold"), printable(profile.explanation.answer.strip())))
    console.print(profile.table())
    if options["trace"] is not None and not quiet:
        console.print(Text.assemble(("Trace  ", "bold"), printable(str(options["trace"]))), soft_wrap=True)


def estimated(explainer: Explainer, image: Path | None, prompt: str | None, answer_tokens: int) -> Estimate:
    """What an answer takes after this prompt; where there is none, after that of the self-test."""
    from ..inputs.images import load_image
    from ..models.report import probe_image
    from ..runs.estimate.estimate import lengths

    picture = probe_image() if image is None else load_image(image)
    prompt = explainer.prompt_encoder.probe() if prompt is None else prompt
    return explainer.estimate(*lengths(explainer, [picture], prompt), answer_tokens)


def check_texts(model: str, prompt: str | None, answer: str | None = None) -> None:
    """Refuse texts that no model takes, or not this one, before it is loaded.

    Raises:
        InputError: the prompt or the answer is empty, or holds halves of characters.
    """
    require_characters("prompt", prompt or "")
    require_characters("answer", answer or "")
    if answer == "":
        raise InputError("answer: expected at least one token; got an empty answer. Without one the model writes.")
    if prompt is not None and not prompt.strip():
        from ..models.loading import check_prompt

        check_prompt(source_of(model), prompt)


def asked(
    image: str | None, prompt: str | None, messages: Any, *, background: str, frame: int | None, allow_urls: bool
) -> dict[str, Any]:
    """The arguments of `Explainer.explain` that are the question, its pictures read.

    Raises:
        InputError: not one of prompt and messages, no picture, or one that cannot be read.
    """
    from ..inputs.images import load_image
    from ..inputs.messages import check_prompt_or_messages

    if prompt is None and messages is None:
        raise InputError('--prompt: expected the question, -p "What is it?", or a chat as --messages FILE')
    check_prompt_or_messages(prompt, messages)
    if image is None and messages is None:
        raise InputError("image: expected a picture, as in dexar-fast explain photo.jpg; got none")
    reading: dict[str, Any] = {"background": background, "allow_urls": allow_urls}
    if messages is not None:
        return {"messages": messages, "image": image, "frame": frame, **reading}
    assert image is not None
    # Read now: a wrong file is told before a model is loaded.
    return {"image": load_image(image, frame=frame, **reading), "prompt": prompt, **reading}


def name_the_demo(model: str, quiet: bool) -> None:
    """Say what a model of ours is: its answers to photos are as fluent as wrong."""
    if model in MODELS and not quiet:
        article = "the" if model == "demo" else "a"
        knows = "drawn pages of text" if model == "demo-reader" else "drawn scenes (dexar-fast demo)"
        text = f"The model is {article} small embedded one: it knows {knows}, and no photos."
        Console(stderr=True).print(text, style="bold", soft_wrap=True)


def load_explainer(model: str, progress: ProgressCallback, **options: Any) -> Explainer:
    """The model, loaded with options of `Explainer.from_pretrained`.

    Without transformers' bars for local files; those for downloads and its warnings stay.
    """
    # A bar of ours would fight with the bars of a download.
    if model in MODELS or Path(model).is_dir():
        progress("loading", 0, None)
    with garbage_left_alone():
        from transformers.utils import logging

        from ..explainer import Explainer

        logging.disable_progress_bar()
        return Explainer.from_pretrained(model, **options)


def print_result(explanation: Explanation, written: Written) -> None:
    """The answer, its tokens, and where the files are."""
    console = Console()
    console.print(Text.assemble(("Prompt  ", "bold"), printable(explanation.prompt)))
    console.print(Text.assemble(("Answer  ", "bold"), printable(explanation.answer.strip())))
    foils = explanation.rather_than(0, len(explanation.tokens))
    if foils:
        console.print(Text.assemble(("Rather than  ", "bold"), printable(foils)))
    console.print(word_table(explanation))
    for method in explanation.methods:
        if method in MEANINGS:
            console.print(Text.assemble((f"{method:<12}", "bold"), f" {MEANINGS[method]}"))
    print_files(written)


def print_files(written: Written) -> None:
    """Where the files are."""
    console = Console()
    # Paths are printed unwrapped, to be copied or clicked.
    console.print(Text.assemble(("Report    ", "bold"), printable(str(written.report))), soft_wrap=True)
    console.print(
        Text.assemble(("Overlays  ", "bold"), f"{printable(str(written.overlays))} ({written.n_overlays} PNG images)"),
        soft_wrap=True,
    )
    for path in (written.saved, *written.further):
        console.print(Text.assemble(("Saved     ", "bold"), printable(str(path))), soft_wrap=True)
