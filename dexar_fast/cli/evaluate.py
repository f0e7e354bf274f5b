"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .failures import failures_as_exit_codes
from .options import (
    Debug,
    Device,
    Dtype,
    Layers,
    Load,
    MaxNewTokens,
    Model,
    Normalization,
    OneNormalization,
    OneTextSet,
    Quiet,
    TextSet,
    parse_layers,
    parse_settings,
    require_model,
)

if TYPE_CHECKING:
    from ..evaluate.tables import Table
    from ..explainer import Explainer
    from ..progress import ProgressCallback

DEFAULT_OUT = Path("dexar-fast-evaluation")


def evaluate(
    model: Model = None,
    data: Annotated[
        str,
        typer.Option(help="demo, demo-questions, voc:FOLDER, or a .jsonl or .parquet file (see docs/evaluation.md)."),
    ] = "demo",
    methods: Annotated[
        str, typer.Option(help="all, cheap (one pass each), or names with commas. Chance lines are always added.")
    ] = "all",
    n: Annotated[int, typer.Option("--n", "-n", help="Number of samples, the data set's first ones.", min=1)] = 200,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for records and report.")] = DEFAULT_OUT,
    layers: Layers = None,
    normalization: OneNormalization = Normalization.paper,
    text_set: OneTextSet = TextSet.all_non_image,
    prompt: Annotated[str | None, typer.Option(help="Asked of every image instead of the data set's prompt.")] = None,
    max_new_tokens: MaxNewTokens = 256,
    perturbation: Annotated[bool, typer.Option(help="Remove the images piece by piece.")] = True,
    word_curves: Annotated[bool, typer.Option(help="Remove them in the order of every word's map, too. Slow.")] = False,
    steps: Annotated[int, typer.Option(help="Steps to 100 % removed.", min=1)] = 10,
    removal: Annotated[str, typer.Option(help="What takes a pixel's place: mean, blur or zero.")] = "mean",
    batch_size: Annotated[int, typer.Option(help="Pictures per forward pass.", min=1)] = 32,
    sanity: Annotated[bool, typer.Option(help="Also run the sanity checks, on at most 20 samples.")] = False,
    grounding: Annotated[bool, typer.Option(help="Also measure what tells swapped words; on demo scenes.")] = False,
    ablations: Annotated[bool, typer.Option(help="Also vary layers, normalization, text set and weights.")] = False,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure explanations: localisation, perturbation, chance lines, with intervals.

    Writes records.parquet (one row per map), report.md, report.html, the curves as a plot and pictures of the best,
    median and worst sample. An interrupted run goes on where it stopped; a sample that fails is recorded and left out.

    \b
    Examples:
      dexar-fast evaluate
      dexar-fast evaluate --methods cheap --n 50 --sanity
      dexar-fast evaluate -m llava-hf/llava-1.5-7b-hf --data voc:VOCdevkit/VOC2012 --n 1449 --methods cheap
    """
    with failures_as_exit_codes(debug):
        chosen_layers = parse_layers(layers)
        from ..evaluate import write_evaluation
        from ..evaluate.data import open_data
        from ..evaluate.perturbation import REMOVALS
        from ..evaluate.records import require_pyarrow
        from ..evaluate.run import Plan
        from .output import make_folder, shown_path
        from .progress import shown_progress
        from .run import load_explainer

        # Wrong input is told before the model is loaded.
        require_pyarrow()
        if removal not in REMOVALS:
            raise InputError(f"--removal: expected one of {', '.join(REMOVALS)}; got {removal!r}")
        # The demo's scenes are what the embedded model knows.
        model = "demo" if model is None and data in ("demo", "demo-questions") else require_model(model)
        how = {"device": device, "dtype": dtype, **parse_settings("--load", load)}
        options: dict[str, Any] = {"normalization": normalization.value, "text_set": text_set.value}
        if chosen_layers is not None:
            options["layers"] = chosen_layers
        plan = Plan(
            parse_methods(methods),
            n,
            options,
            prompt,
            max_new_tokens,
            perturbation,
            steps,
            removal,
            word_curves,
            batch_size,
        )
        samples = open_data(data)
        make_folder(out)
        with shown_progress(quiet) as progress:
            explainer = load_explainer(model, progress, **how)
            extra = _extra(explainer, data, plan, out, progress, sanity, grounding, ablations)
            written = write_evaluation(explainer, samples, plan, out, extra=extra, progress=progress)
        if quiet:
            print(shown_path(written))
        else:
            _print(written, out)


def parse_methods(text: str) -> tuple[str, ...]:
    """What `--methods` names, with the chance lines behind.

    Raises:
        InputError: a name that is no method.
    """
    from ..evaluate.summary import CHANCE
    from ..inputs.methods import COMPARISONS, METHODS, SLOW

    known = (*METHODS, *COMPARISONS)
    groups = {"all": known, "cheap": tuple(name for name in known if name not in SLOW)}
    names = groups.get(text) or tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"--methods: expected all, cheap, or some of {', '.join(known)}; got {text!r}")
    return tuple(dict.fromkeys((*(name for name in names if name not in CHANCE), *CHANCE)))


def _extra(
    explainer: Explainer,
    data: str,
    plan: Any,
    out: Path,
    progress: ProgressCallback,
    sanity: bool,
    grounding: bool,
    ablations: bool,
) -> list[Table]:
    """Tables besides those of the records; an interrupted run makes them anew."""
    from ..evaluate.data import open_data
    from ..evaluate.summary import CHANCE

    tables = []
    if ablations:
        from ..evaluate.ablations import ablation_tables

        tables += ablation_tables(explainer, open_data(data), plan.n, progress=progress)
    if sanity:
        from ..evaluate.sanity import sanity as check

        methods = [name for name in plan.methods if name not in CHANCE]
        tables.append(check(explainer, open_data(data), methods, min(plan.n, 20), progress=progress))
    if grounding:
        from ..evaluate.grounding import study

        table, calibration = study(explainer, plan.n, progress=progress)
        calibration.save(out / "calibration.json")
        tables.append(table)
    return tables


def _print(report: Path, out: Path) -> None:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.text import Text

    from ..inputs.tokens import printable

    console = Console()
    console.print(Markdown(printable(report.with_suffix(".md").read_text(encoding="utf-8"), running=True)))
    for name, path in (("Report  ", report), ("Records ", out / "records.parquet")):
        console.print(Text.assemble((name, "bold"), printable(str(path))), soft_wrap=True)
