"""The command `batch`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .failures import failures_as_exit_codes
from .garbage import garbage_left_alone
from .options import (
    AllowUrls,
    Background,
    Contrast,
    Debug,
    Device,
    Dtype,
    Frame,
    ImageKwargs,
    Lang,
    Layers,
    Load,
    MaxNewTokens,
    Methods,
    Model,
    Normalization,
    OneNormalization,
    OneTextSet,
    Only,
    Quiet,
    Targets,
    TextSet,
    parse_lang,
    parse_layers,
    parse_methods,
    parse_only,
    parse_settings,
    parse_targets,
    require_model,
)
from .progress import shown_progress
from .rate import shown_rate

INTERRUPTED = 130


class MapsType(StrEnum):
    uint8 = "uint8"
    float16 = "float16"
    float32 = "float32"


class Keep(StrEnum):
    answer = "answer"
    words = "words"
    tokens = "tokens"
    scores = "scores"


class RunsOn(StrEnum):
    local = "local"
    ray = "ray"


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A .jsonl, .csv, .tsv, .xlsx or .parquet file, a saved data set, or a folder of pictures; also what "
            "vLLM, SGLang, OpenAI's interface, lmms-eval and VLMEvalKit write.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="For rows that have none.", show_default=False)
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="A table with image and prompt, by id, for answers that come without.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    model: Model = "demo",
    layers: Layers = None,
    method: Methods = None,
    normalization: OneNormalization = Normalization.paper,
    text_set: OneTextSet = TextSet.all_non_image,
    targets: Targets = "tokens",
    contrast: Contrast = None,
    only: Only = None,
    unfiltered: Annotated[
        bool, typer.Option("--unfiltered", help="Also keep the maps with every head weight 1 (method dexar).")
    ] = False,
    thumbnail: Annotated[
        str, typer.Option(help="Of a model that sees tiles and the whole image.", metavar="blend|only|without")
    ] = "blend",
    max_new_tokens: MaxNewTokens = 256,
    grounding: Annotated[bool, typer.Option(help="Also measure how much the image supports each word.")] = True,
    background: Background = "white",
    frame: Frame = None,
    allow_urls: AllowUrls = False,
    image_kwargs: ImageKwargs = None,
    keep: Annotated[Keep, typer.Option(help="Whose maps are kept; scores are those of the heads.")] = Keep.tokens,
    maps: Annotated[MapsType, typer.Option(help="How the maps are kept.")] = MapsType.uint8,
    exact: Annotated[bool, typer.Option("--exact", help="Also write each saved explanation, bit for bit.")] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also keep the pictures, and the answer map as PNG, in the rows.")
    ] = False,
    batch_size: Annotated[str, typer.Option(help="Answers that run together, or auto.", metavar="N|auto")] = "8",
    part_size: Annotated[int, typer.Option(help="Rows per part file.", min=1)] = 64,
    row_chunk: Annotated[
        str, typer.Option(help="Tokens of answers that run at once, or auto.", metavar="N|auto")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first rows.", min=1, show_default=False)] = None,
    shard: Annotated[str, typer.Option(help="Every n-th part, from the i-th on; i from 0.", metavar="I/N")] = "0/1",
    max_errors: Annotated[
        int | None, typer.Option(help="Stop when more rows than this fail.", min=0, show_default=False)
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try rows again that failed.")] = False,
    reports: Annotated[
        str, typer.Option(help="Which answers get an HTML report.", metavar="none|lowest:N|all")
    ] = "none",
    lang: Lang = "en",
    engine: Annotated[RunsOn, typer.Option(help="Where it runs: here, or on a Ray cluster.")] = RunsOn.local,
    workers: Annotated[
        str,
        typer.Option(help="With --engine ray: how many have the model, or the fewest and the most.", metavar="N[:M]"),
    ] = "1",
    gpus: Annotated[float, typer.Option(help="With --engine ray: of one worker.", min=0)] = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain every answer of a data set: a Parquet row for each, a table of words, and an index page.

    An interrupted run goes on when it is started again. A row that fails keeps its error in the column "error".

    \b
    Examples:
      dexar-fast batch answers.jsonl --out results
      dexar-fast batch photos/ --prompt "Describe the image." -m ./my-llava --out results --reports lowest:20
      dexar-fast batch vllm-output.jsonl --questions vllm-input.jsonl -m ./my-qwen --out results
      dexar-fast batch answers.parquet -m ./my-qwen --out /shared/results --engine ray --workers 8 --gpus 1

    \b
    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """
    with failures_as_exit_codes(debug):
        how = {"device": device, "dtype": dtype, **parse_settings("--load", load)}
        asked: dict[str, Any] = {
            "layers": parse_layers(layers),
            "method": parse_methods(method),
            "normalization": normalization.value,
            "text_set": text_set.value,
            "targets": parse_targets(targets),
            "contrast": contrast,
            "only": parse_only(only),
            "unfiltered": unfiltered,
            "thumbnail": thumbnail,
            "max_new_tokens": max_new_tokens,
            "row_chunk": parse_number("--row-chunk", row_chunk),
            "grounding": grounding,
            "background": background,
            "frame": frame,
            "allow_urls": allow_urls,
            "image_kwargs": parse_settings("--image-kwargs", image_kwargs),
        }
        options: dict[str, Any] = {
            "prompt": prompt,
            "questions": questions,
            "batch_size": parse_number("--batch-size", batch_size),
            "part_size": part_size,
            "keep": keep.value,
            "maps": maps.value,
            "exact": exact,
            "pictures": pictures,
            "limit": limit,
            "max_errors": max_errors,
            "retry_errors": retry_errors,
            "reports": parse_reports(reports),
            "lang": parse_lang(lang),
        }
        chosen_shard, chosen_workers = parse_shard(shard), parse_workers(workers)
        model = require_model(model)
        if engine is RunsOn.ray and chosen_shard != (0, 1):
            raise InputError("--shard: Ray spreads the parts by itself; leave it out, or --engine ray")
        if engine is RunsOn.local and (chosen_workers != (1, 1) or gpus):
            raise InputError("--workers, --gpus: go with --engine ray")
        if not source.exists():
            raise InputError(f"input: no file or folder {source}")
        with garbage_left_alone():
            from ..batch import run, run_on_ray
        from .run import load_explainer

        if engine is RunsOn.ray:
            with shown_rate(quiet) as progress:
                summary = run_on_ray(
                    model,
                    source,
                    out,
                    how=how,
                    workers=chosen_workers,
                    gpus=gpus,
                    progress=progress,
                    **options,
                    **asked,
                )
        else:
            with shown_progress(quiet) as progress:
                explainer = load_explainer(model, progress, **how)
            with shown_rate(quiet) as progress:
                summary = run(explainer, source, out, shard=chosen_shard, progress=progress, **options, **asked)
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


def parse_number(option: str, text: str) -> int | str:
    """A number, or "auto".

    Raises:
        InputError: neither.
    """
    if text != "auto" and not (text.isascii() and text.isdigit() and int(text)):
        raise InputError(f"{option}: expected a number from 1 on, or auto; got {text!r}")
    return text if text == "auto" else int(text)


def parse_workers(text: str) -> tuple[int, int]:
    """What `--workers` names: the fewest and the most.

    Raises:
        InputError: not one or two numbers.
    """
    first, _, second = text.partition(":")
    if not all(part.isascii() and part.isdigit() for part in (first, second or first)):
        raise InputError(f"--workers: expected N or N:M; got {text!r}")
    return int(first), int(second or first)


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
