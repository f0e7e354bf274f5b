"""The commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from .evaluate import evaluate
from .failures import failures_as_exit_codes
from .options import DEFAULT_OUT, Debug, Method, Normalization, Out, Quiet, TextSet, parse_layers

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

        explain_and_write("demo", draw_scene(seed, scale=DEMO_SCALE).image, DEMO_PROMPT, out, quiet=quiet)


@app.command(short_help="Explain an image: report, overlays, saved maps.")
def explain(
    image: Annotated[Path, typer.Argument(help="The picture, in any format that Pillow reads.", show_default=False)],
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt",
            "-p",
            help="The question or instruction. The model's chat template is put around it.",
            show_default=False,
        ),
    ],
    answer: Annotated[
        str | None,
        typer.Option("--answer", "-a", help="The answer to explain; without it the model writes one."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help='A hub id, a folder, or "demo", the small embedded model.')
    ] = "demo",
    layers: Annotated[
        str | None,
        typer.Option(
            help="Decoder layers to sum: -10 (the last ten), 4:12 (from 4, before 12) or 1,3,5. All by default.",
            metavar="LAYERS",
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="What is read off a key: its gradient, or that weighted by its attention.")
    ] = Method.dexar,
    normalization: Annotated[
        Normalization, typer.Option(help="As in the paper, or as in the authors' released code.")
    ] = Normalization.paper,
    text_set: Annotated[
        TextSet, typer.Option(help="Which positions count as text when image and text are weighed.")
    ] = TextSet.all_non_image,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer that the model may write.", min=1)] = 256,
    out: Out = DEFAULT_OUT,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... By default the first GPU, or else the CPU.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto for the checkpoint's own.")] = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain one image: write an HTML report, PNG overlays and the saved explanation.

    \b
    Examples:
      dexar-fast explain photo.jpg --prompt "What is on the table?" --model llava-hf/llava-1.5-7b-hf
      dexar-fast explain photo.jpg -p "Describe it." -m ./my-llava --answer "A cat on a mat." --layers -10
      dexar-fast explain scene.png -p "is there a red star ?" --out star --quiet

    \b
    Exit codes: 0 done, 1 the run failed, 2 bad input.
    """
    with failures_as_exit_codes(debug):
        from ..images import load_image
        from .run import explain_and_write

        # Wrong input is told before the model is loaded.
        chosen_layers = parse_layers(layers)
        picture = load_image(image)
        explain_and_write(
            model,
            picture,
            prompt,
            out,
            quiet=quiet,
            device=device,
            dtype=dtype,
            answer=answer,
            layers=chosen_layers,
            method=method.value,
            normalization=normalization.value,
            text_set=text_set.value,
            max_new_tokens=max_new_tokens,
        )


app.command(short_help="Measure explanations against ground truth and chance.")(evaluate)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs and bug reports.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, devices and backends.

    \b
    Examples:
      dexar-fast info
      dexar-fast info --json > environment.json
    """
    with failures_as_exit_codes(debug):
        from rich.console import Console

        from ..environment import info as collect
        from .tables import info_table

        facts = collect()
        if as_json:
            print(json.dumps(facts, indent=2))
        else:
            Console().print(info_table(facts))
