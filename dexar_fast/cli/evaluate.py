"""The command `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from ..evaluate.data import DataSet
    from ..evaluate.run import Plan
    from ..evaluate.tables import Table
    from ..explainer import Explainer
    from ..progress import ProgressCallback

DEFAULT_OUT = Path("dexar-fast-evaluation")


def evaluate(
    model: Model = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="Several models with commas between them, or shipped: all that come with the package, which is the "
            "default. One table of all.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="demo, demo-questions, voc:FOLDER, or a .jsonl or .parquet file (see docs/evaluation.md). By default "
            "what the model was trained for, held out.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="cheap (one pass each), all, or names with commas. Chance lines are always added.")
    ] = "cheap",
    n: Annotated[int, typer.Option("--n", "-n", help="Number of samples of each model.", min=1)] = 25,
    skip: Annotated[int, typer.Option(help="Leave out so many of the data set's first samples.", min=0)] = 0,
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
    answers: Annotated[
        bool, typer.Option(help="Also let the model answer: does the map point at what was asked for, and flip it?")
    ] = False,
    superpixels: Annotated[
        bool, typer.Option(help="Also insert and delete superpixels (EAGLE), of at most 20 samples.")
    ] = False,
    maps: Annotated[bool, typer.Option("--maps", help="Also write all maps, maps/*.npz, for other metrics.")] = False,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure explanations: localisation, perturbation, chance lines, with intervals.

    Says first how long it will take. Writes records.parquet (one row per map), report.md, report.html, the curves as a
    plot and pictures of the best, median and worst sample; of several models each in a folder of its name, and
    models.md. An interrupted run goes on where it stopped; a sample that fails is recorded and left out.

    \b
    Examples:
      dexar-fast evaluate
      dexar-fast evaluate -m demo --methods all --n 200 --sanity
      dexar-fast evaluate --models demo,demo-reader --no-perturbation
      dexar-fast evaluate -m llava-hf/llava-1.5-7b-hf --data voc:VOCdevkit/VOC2012 --n 1449
    """
    with failures_as_exit_codes(debug):
        chosen_layers = parse_layers(layers)
        from ..evaluate.data import open_data
        from ..evaluate.perturbation import REMOVALS
        from ..evaluate.records import require_pyarrow
        from ..evaluate.run import Plan
        from ..evaluate.superpixels import require_skimage
        from .output import make_folder

        # Wrong input is told before a model is loaded.
        require_pyarrow()
        if superpixels:
            require_skimage()
        if removal not in REMOVALS:
            raise InputError(f"--removal: expected one of {', '.join(REMOVALS)}; got {removal!r}")
        names = parse_models(model, models, data)
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
            maps,
        )
        samples = {name: open_data(data or name, skip) for name in names}
        extras = [
            extra
            for extra, wanted in (
                ("ablations", ablations),
                ("sanity", sanity),
                ("grounding", grounding),
                ("answers", answers),
                ("superpixels", superpixels),
            )
            if wanted
        ]
        make_folder(out)
        evaluate_models(samples, plan, extras, out, how, quiet)


def evaluate_models(
    samples: Mapping[str, DataSet], plan: Plan, extras: Sequence[str], out: Path, how: Mapping[str, Any], quiet: bool
) -> None:
    """Run every model's plan on its samples; of several models, each in a folder of its own, and their table."""
    from ..evaluate import write_evaluation
    from ..evaluate.records import RECORDS, read_records
    from ..evaluate.several import table_of_models, write_table_of_models
    from .output import make_folder, shown_path
    from .progress import shown_progress
    from .run import load_explainer

    several = len(samples) > 1
    records = {}
    for number, (name, data) in enumerate(samples.items(), 1):
        folder = out / Path(name).name if several else out
        make_folder(folder)
        with shown_progress(quiet) as progress:
            explainer = load_explainer(name, progress, **how)
        if not quiet:
            _announce(f"{name} ({number} of {len(samples)})" if several else name, explainer, data, plan)
        with shown_progress(quiet) as progress:
            extra = _extra(explainer, data, plan, folder, progress, extras)
            written = write_evaluation(explainer, data, plan, folder, extra=extra, progress=progress)
        if quiet:
            print(shown_path(written))
        elif not several:
            _print(
                written.with_suffix(".md").read_text(encoding="utf-8"), {"Report": written, "Records": folder / RECORDS}
            )
        records[name] = list(read_records(folder / RECORDS))
    if several:
        table = write_table_of_models(records, out)
        if quiet:
            print(shown_path(table))
        else:
            _print(table_of_models(records, intervals=False).markdown(), {"Table": table, "Reports": out})


def parse_models(model: str | None, models: str | None, data: str | None) -> list[str]:
    """The models that are evaluated.

    Raises:
        InputError: `--model` and `--models` together, a model of neither the package nor with `--data`, or two that
            would share a folder.
    """
    from ..demo import MODELS
    from ..evaluate.data import DEMO
    from ..evaluate.several import shipped

    if model is not None and models is not None:
        raise InputError("--models: expected this or --model; got both")
    if models is not None and models != "shipped":
        names = [name.strip() for name in models.split(",") if name.strip()]
    elif model is not None:
        names = [model]
    elif models == "shipped" or data is None:
        names = shipped()
    else:  # a data set of ours is what one of the models knows
        owner = data.removesuffix("-questions").removesuffix("-locations")
        names = [owner if data in DEMO else require_model(None)]
    for name in names:
        if data is None and name not in MODELS:
            raise InputError(f"--data: expected samples for {name}; only the package's own models bring some")
    if not names or len({Path(name).name for name in names}) < len(names):
        raise InputError(f"--models: expected names that differ in their last part; got {models!r}")
    return names


def _announce(name: str, explainer: Explainer, data: DataSet, plan: Plan) -> None:
    """How long it will take, before it does."""
    from rich.console import Console

    from ..evaluate.run import predicted_seconds

    seconds = predicted_seconds(explainer, data, plan)
    shown = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    n = min(plan.n, len(data))
    Console(stderr=True).print(f"{name}: {n} samples by {len(plan.methods)} methods, about {shown}.", highlight=False)


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
        raise InputError(f"--methods: expected cheap, all, or some of {', '.join(known)}; got {text!r}")
    return tuple(dict.fromkeys((*(name for name in names if name not in CHANCE), *CHANCE)))


def _extra(
    explainer: Explainer, data: DataSet, plan: Plan, out: Path, progress: ProgressCallback, extras: Sequence[str]
) -> list[Table]:
    """Tables besides those of the records; an interrupted run makes them anew."""
    from ..evaluate.summary import CHANCE

    tables = []
    blind = [name for name in plan.methods if name in CHANCE]
    seeing = [name for name in plan.methods if name not in CHANCE]
    if "ablations" in extras:
        from ..evaluate.ablations import ablation_tables

        tables += ablation_tables(explainer, data, plan.n, progress=progress)
    if "sanity" in extras:
        from ..evaluate.sanity import sanity as check

        tables.append(check(explainer, data, seeing, min(plan.n, 20), progress=progress))
    if "grounding" in extras:
        from ..evaluate.grounding import study

        table, calibration = study(explainer, plan.n, progress=progress)
        calibration.save(out / "calibration.json")
        tables.append(table)
    if "answers" in extras:
        from ..evaluate.answer_tests import answer_tests

        tables.append(answer_tests(explainer, data, [*seeing, *blind], plan.n, progress=progress))
    if "superpixels" in extras:
        from ..evaluate.superpixels import superpixel_table

        chosen = [*seeing, *(name for name in blind if name == "random")]
        tables.append(superpixel_table(explainer, data, chosen, min(plan.n, 20), progress=progress))
    return tables


def _print(text: str, places: Mapping[str, Path]) -> None:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.text import Text

    from ..inputs.tokens import printable

    console = Console()
    console.print(Markdown(printable(text, running=True)))
    for name, path in places.items():
        console.print(Text.assemble((f"{name:<8}", "bold"), printable(str(path))), soft_wrap=True)
