"""The command `batch`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .failures import failures_as_exit_codes
from .options import (
    Contrast,
    Debug,
    Device,
    Dtype,
    Layers,
    MaxNewTokens,
    Method,
    Model,
    Normalization,
    OneNormalization,
    OneTextSet,
    Quiet,
    Targets,
    TextSet,
    parse_layers,
    parse_targets,
    require_model,
)
from .progress import shown_progress

INTERRUPTED = 130


class MapsType(StrEnum):
    uint8 = "uint8"
    float16 = "float16"
    float32 = "float32"


def batch(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A .jsonl, .csv or .parquet file, a saved data set, or pictures.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="For rows that have none.")] = None,
    model: Model = "demo",
    layers: Layers = None,
    method: Annotated[
        Method, typer.Option(help=f"Where the maps come from: {', '.join(Method)}.", show_default=True)
    ] = Method.dexar_focus,
    normalization: OneNormalization = Normalization.paper,
    text_set: OneTextSet = TextSet.all_non_image,
    targets: Targets = "tokens",
    contrast: Contrast = None,
    max_new_tokens: MaxNewTokens = 256,
    grounding: Annotated[bool, typer.Option(help="Also measure how much the image supports each word.")] = True,
    maps: Annotated[MapsType, typer.Option(help="How the maps are kept.")] = MapsType.uint8,
    batch_size: Annotated[int, typer.Option(help="Answers that run together.", min=1)] = 8,
    part_size: Annotated[int, typer.Option(help="Rows per part file.", min=1)] = 64,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.", min=1)] = None,
    shard: Annotated[str, typer.Option(help="Every n-th part, from the i-th on; i from 0.", metavar="I/N")] = "0/1",
    max_errors: Annotated[int | None, typer.Option(help="Stop when more rows than this fail.", min=0)] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try rows again that failed.")] = False,
    reports: Annotated[
        str, typer.Option(help="Which answers get an HTML report.", metavar="none|lowest:N|all")
    ] = "none",
    device: Device = None,
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain every answer of a data set: a Parquet row for each, a table of words, and an index page.

    An interrupted run goes on when it is started again. A row that fails keeps its error in the column "error".

    \b
    Examples:
      dexar-fast batch answers.jsonl --out results
      dexar-fast batch photos/ --prompt "Describe the image." -m ./my-llava --out results --reports lowest:20

    \b
    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """
    with failures_as_exit_codes(debug):
        chosen_layers, chosen_targets = parse_layers(layers), parse_targets(targets)
        chosen_shard, chosen_reports = parse_shard(shard), parse_reports(reports)
        if not source.exists():
            raise InputError(f"input: no file or folder {source}")
        from ..batch import run
        from .run import load_explainer

        with shown_progress(quiet) as progress:
            explainer = load_explainer(require_model(model), progress, device=device, dtype=dtype)
            summary = run(
                explainer,
                source,
                out,
                prompt=prompt,
                batch_size=batch_size,
                part_size=part_size,
                maps=maps.value,
                limit=limit,
                shard=chosen_shard,
                max_errors=max_errors,
                retry_errors=retry_errors,
                reports=chosen_reports,
                progress=progress,
                layers=chosen_layers,
                method=method.value,
                normalization=normalization.value,
                text_set=text_set.value,
                targets=chosen_targets,
                contrast=contrast,
                max_new_tokens=max_new_tokens,
                grounding=grounding,
            )
        if quiet:
            print(out)
        else:
            rate = summary.explained / max(summary.seconds, 1e-9)
            print(f"Explained  {summary.explained} ({rate:.1f} per second), {summary.done_before} were done before")
            print(f"Failed     {summary.failed}")
            for kind, number in sorted(summary.errors.items(), key=lambda item: -item[1]):
                print(f"           {number} x {kind}")
            print("Stopped    call it again to go on" if summary.stopped else f"Index      {out / 'index.html'}")
        if summary.stopped:
            raise typer.Exit(INTERRUPTED)


def parse_shard(text: str) -> tuple[int, int]:
    """What `--shard` names.

    Raises:
        InputError: not two numbers.
    """
    first, _, second = text.partition("/")
    if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        raise InputError(f"--shard: expected I/N as in 0/4; got {text!r}")
    return int(first), int(second)


def parse_reports(text: str) -> str | int:
    """What `--reports` names.

    Raises:
        InputError: none of these forms.
    """
    if text in ("none", "all"):
        return text
    name, _, number = text.partition(":")
    if name != "lowest" or not (number.isascii() and number.isdigit()):
        raise InputError(f"--reports: expected none, lowest:N or all; got {text!r}")
    return int(number)
