"""The tables of docs/models.md, from the tests' outcomes and from the library's declarations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from dexar_fast.models.family import Family
from dexar_fast.models.registry import FAMILIES, REFUSED, family_of

from .case import Case, all_cases

COLUMNS = {
    "test_exact": "exact",
    "test_sdpa_and_eager_agree": "sdpa = eager",
    "test_logits_are_those_of_generating": "logits",
    "test_lit_region_lands_where_it_is": "lit region",
    "test_whole_way_from_pictures": "whole way",
    "test_self_test_reports_what_runs": "self-test",
    "test_model_is_left_as_it_was": "untouched",
}

GENERIC = "generic, not tried: declare it with `register_family`"


def results_table(outcomes: dict[str, dict[str, list[str]]]) -> str:
    """One row per case: how many of its tests passed, by column."""
    rows = [["model", "family", "gradient path", "keys", *COLUMNS.values()], ["---"] * (4 + len(COLUMNS))]
    cases = sorted(all_cases().values(), key=lambda case: case.name)
    for case in cases:
        family = _family(case)
        cells = [_cell(outcomes.get(case.name, {}).get(test, ())) for test in COLUMNS]
        rows.append([case.name, family.name, family.gradient_path, family.keys, *cells])
    where = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return (
        _markdown(rows)
        + f"\n\nRun on {where}, on a CPU. n/m: n of m tests passed; -: none was run."
        + "".join(f" {case.unavailable}." for case in cases if case.unavailable)
    )


def types_table() -> str:
    """Every type of this transformers release that is loaded for image and text to text."""
    entry_of = {model_type: family for family in FAMILIES for model_type in family.model_types}
    known = {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *entry_of, *REFUSED}
    with_text = sorted(model_type.split("/") for model_type in entry_of if "/" in model_type)
    texts = {model_type: [t for of, t in with_text if of == model_type] for model_type, _ in with_text}
    known |= {*texts}
    rows = [["model type", "status"], ["---", "---"]]
    for model_type in sorted(known):
        if model_type in entry_of:
            status = f"supported, family `{entry_of[model_type].name}`"
        elif model_type in REFUSED:
            status = f"refused: {REFUSED[model_type]}"
        elif model_type in texts:
            status = f"with text models other than {', '.join(texts[model_type])}: {GENERIC}"
        else:
            status = GENERIC
        rows.append([f"`{model_type}`", status])
    return _markdown(rows)


def put_between(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its markers of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no {start} ... {end}")
    return f"{before}{start}\n{text}\n{end}{after}"


def _family(case: Case) -> Family:
    return family_of(case.model(case.attentions[0]).config)


def _cell(outcomes: Sequence[str]) -> str:
    ran = [outcome for outcome in outcomes if outcome != "skipped"]
    return f"{ran.count('passed')}/{len(ran)}" if ran else "-"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
