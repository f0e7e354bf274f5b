"""The commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import InputError
from .batch import batch
from .browser_app import browser_app
from .compare import compare
from .evaluate import evaluate
from .failures import failures_as_exit_codes
from .options import (
    DEFAULT_OUT,
    AllowUrls,
    Answer,
    Background,
    Block,
    ChatFile,
    Contrast,
    Csv,
    Debug,
    Device,
    Dtype,
    Frame,
    ImageFile,
    ImageKwargs,
    Json,
    Lang,
    Layers,
    Live,
    Load,
    MaxNewTokens,
    Methods,
    Model,
    Normalization,
    Npz,
    OneNormalization,
    OneTextSet,
    Only,
    Out,
    Prompt,
    Quiet,
    Targets,
    TextSet,
    chosen_formats,
    parse_lang,
    parse_layers,
    parse_methods,
    parse_only,
    parse_settings,
    parse_targets,
    read_chat,
    require_model,
)
from .progress import shown_progress
from .serve import serve

DEMO_SEED = 24
DEMO_PROMPT = "describe the image"
# The model sees a scene at scale 1; people see it enlarged.
DEMO_SCALE = 4

app = typer.Typer(
    name="dexar-fast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    app(prog_name="dexar-fast")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dexar-fast {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Show which part of an image made a vision-language model write each word of its answer.

    \b
    Examples:
      dexar-fast demo
      dexar-fast explain photo.jpg --prompt "What is on the table?" --model llava-hf/llava-1.5-7b-hf
      dexar-fast info
    """


@app.command(short_help="Explain a drawn scene with the embedded model.")
def demo(
    out: Out = DEFAULT_OUT,
    seed: Annotated[int, typer.Option(help="Which scene to draw.", min=0)] = DEMO_SEED,
    lang: Lang = "en",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw a scene, let the embedded model describe it, and explain the description. Needs no network.

    \b
    Examples:
      dexar-fast demo
      dexar-fast demo --seed 7 --out scene-7
    """
    with failures_as_exit_codes(debug):
        from ..demo.scenes import draw_scene
        from .run import explain_and_write

        said = parse_lang(lang)
        image = draw_scene(seed, scale=DEMO_SCALE).image
        explain_and_write("demo", out, quiet=quiet, lang=said, image=image, prompt=DEMO_PROMPT)


@app.command(short_help="Explain an image: report, overlays, saved maps.")
def explain(
    image: ImageFile = None,
    prompt: Prompt = None,
    answer: Answer = None,
    messages: ChatFile = None,
    model: Model = None,
    layers: Layers = None,
    method: Methods = None,
    normalization: OneNormalization = Normalization.paper,
    text_set: OneTextSet = TextSet.all_non_image,
    targets: Targets = "tokens",
    contrast: Contrast = None,
    only: Only = None,
    max_new_tokens: MaxNewTokens = 256,
    live: Live = False,
    block: Block = None,
    background: Background = "white",
    frame: Frame = None,
    allow_urls: AllowUrls = False,
    image_kwargs: ImageKwargs = None,
    out: Out = DEFAULT_OUT,
    csv: Csv = False,
    as_json: Json = False,
    npz: Npz = False,
    lang: Lang = "en",
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain one image: write an HTML report, PNG overlays and the saved explanation.

    \b
    Examples:
      dexar-fast explain photo.jpg --prompt "What is on the table?" --model llava-hf/llava-1.5-7b-hf
      dexar-fast explain photo.jpg -p "Describe it." -m ./my-llava --answer "A cat on a mat." --layers -10
      dexar-fast explain photo.jpg -p "What is it?" -m ./my-llava --targets words --contrast dog
      dexar-fast explain photo.jpg -p "What is it?" -m ./my-qwen --only after_thinking --load load_in_4bit=true
      dexar-fast explain --messages chat.json -m ./my-qwen
      dexar-fast explain scene.png -p "is there a red star ?" -m demo --out star --quiet
      dexar-fast explain scene.png -p "describe the image" -m demo --live
      dexar-fast explain scene.png -p "describe the image" -m demo --csv --json
      dexar-fast explain scene.png -p "describe the image" -m demo --lang de

    \b
    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """
    with failures_as_exit_codes(debug):
        from .live import check_live
        from .run import asked, explain_and_write, explain_live_and_write, name_the_demo

        # Wrong input is told before the model is loaded.
        model = require_model(model)
        chosen_layers, chosen_targets, part = parse_layers(layers), parse_targets(targets), parse_only(only)
        formats, said = chosen_formats(csv, as_json, npz), parse_lang(lang)
        how = {"device": device, "dtype": dtype, **parse_settings("--load", load)}
        if live:
            check_live(answer, normalization, text_set, targets, contrast, only, quiet=quiet)
        elif block is not None:
            raise InputError("--block: goes with --live")
        question = asked(image, prompt, read_chat(messages), background=background, frame=frame, allow_urls=allow_urls)
        settings = parse_settings("--image-kwargs", image_kwargs)
        name_the_demo(model, quiet)
        if live:
            explain_live_and_write(
                model,
                out,
                how=how,
                formats=formats,
                lang=said,
                block=block or 1,
                layers=chosen_layers,
                method=parse_methods(method),
                text_set=text_set.value,
                max_new_tokens=max_new_tokens,
                image_kwargs=settings,
                **question,
            )
            return
        explain_and_write(
            model,
            out,
            quiet=quiet,
            how=how,
            formats=formats,
            lang=said,
            answer=answer,
            layers=chosen_layers,
            method=parse_methods(method),
            normalization=normalization.value,
            text_set=text_set.value,
            targets=chosen_targets,
            contrast=contrast,
            only=part,
            max_new_tokens=max_new_tokens,
            image_kwargs=settings,
            **question,
        )


@app.command(short_help="Show where the time and memory of an explanation go.")
def profile(
    image: ImageFile = None,
    prompt: Prompt = None,
    answer: Answer = None,
    messages: ChatFile = None,
    model: Model = None,
    layers: Layers = None,
    method: Methods = None,
    normalization: OneNormalization = Normalization.paper,
    text_set: OneTextSet = TextSet.all_non_image,
    max_new_tokens: MaxNewTokens = 256,
    background: Background = "white",
    frame: Frame = None,
    allow_urls: AllowUrls = False,
    image_kwargs: ImageKwargs = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Also write every operation to this JSON file, for https://ui.perfetto.dev.", metavar="FILE"),
    ] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the stages and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Explain one image twice, the second time with a clock on every stage, and print the stages.

    \b
    Examples:
      dexar-fast profile photo.jpg --prompt "What is on the table?" --model llava-hf/llava-1.5-7b-hf
      dexar-fast profile photo.jpg -p "Describe it." -m ./my-llava --answer "A cat on a mat." --trace trace.json

    \b
    Exit codes: 0 done, 1 the run failed, 2 bad input.
    """
    with failures_as_exit_codes(debug):
        from .run import asked, name_the_demo, profile_and_print

        model, chosen_layers = require_model(model), parse_layers(layers)
        question = asked(image, prompt, read_chat(messages), background=background, frame=frame, allow_urls=allow_urls)
        name_the_demo(model, quiet)
        profile_and_print(
            model,
            quiet=quiet,
            how={"device": device, "dtype": dtype, **parse_settings("--load", load)},
            answer=answer,
            layers=chosen_layers,
            method=parse_methods(method),
            normalization=normalization.value,
            text_set=text_set.value,
            max_new_tokens=max_new_tokens,
            image_kwargs=parse_settings("--image-kwargs", image_kwargs),
            trace=trace,
            **question,
        )


app.command(short_help="Explain every answer of a data set; goes on after an interruption.")(batch)
app.command(short_help="Draw saved explanations, methods or models, in one figure.")(compare)
app.command("app", short_help="Ask about a picture in the browser.")(browser_app)
app.command(short_help="Serve a model over HTTP, with a page to try it.")(serve)
app.command(short_help="Measure explanations against ground truth and chance.")(evaluate)


@app.command(short_help="Show versions, devices, a model, and what explaining takes.")
def info(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also load this model, test it, and say how it is explained.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    estimate: Annotated[
        int | None,
        typer.Option(help="With --model: also estimate what explaining so many answer tokens takes.", min=1),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="With --estimate: the picture. By default a small one.", metavar="FILE")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="With --estimate: the question.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs and bug reports.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, devices and backends, what a model is to dexar-fast, and what explaining its answers takes.

    \b
    Examples:
      dexar-fast info
      dexar-fast info --model llava-hf/llava-1.5-7b-hf
      dexar-fast info --model llava-hf/llava-1.5-7b-hf --estimate 256 --image photo.jpg
      dexar-fast info --json > environment.json
    """
    with failures_as_exit_codes(debug):
        from rich.console import Console

        from ..environment import info as collect
        from .tables import info_table, model_table

        if model is None and estimate is not None:
            raise InputError("--estimate: needs --model, whose explanations it is about")
        if model is None and (device is not None or dtype != "auto" or load):
            raise InputError("--device, --dtype, --load: go with --model, which they are for")
        if estimate is None and (image is not None or prompt is not None):
            raise InputError("--image, --prompt: go with --estimate")
        facts = collect()
        expected = None
        if model is not None:
            from .run import estimated, load_explainer

            how = {"device": device, "dtype": dtype, **parse_settings("--load", load)}
            with shown_progress(quiet=as_json) as progress:
                explainer = load_explainer(model, progress, **how, self_test=False)
                facts["model"] = dataclasses.asdict(explainer.self_test())
                if estimate is not None:
                    expected = estimated(explainer, image, prompt, estimate)
                    facts["estimate"] = expected.as_dict()
        if as_json:
            print(json.dumps(facts, indent=2))
            return
        console = Console()
        console.print(info_table(facts))
        if model is not None:
            console.print()
            console.print(model_table(facts["model"]))
        if expected is not None:
            console.print(expected.table())
