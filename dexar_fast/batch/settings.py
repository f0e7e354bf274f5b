"""What a folder of results was made with: kept in it, and refused where it differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..engine.provenance import provenance
from ..engine.row_chunk import rows_at_once
from ..errors import InputError
from ..explainer import Explainer
from ..inputs.options import AskedOptions
from ..models.digest import weights_digest
from ..result.atomic import write_atomically
from .schema import SCHEMA_VERSION, Keep

AUTO = 32
"""The most answers that ``batch_size="auto"`` takes up at once; how many of them run together, their lengths say."""


def explaining(explainer: Explainer, asked: AskedOptions) -> dict[str, Any]:
    """All that an explanation depends on besides its question and answer, as JSON values: a part of every key."""
    options = explainer.options(**asked)
    if not isinstance(options.text_set, str):
        raise InputError("text_set: expected a name; got a mask, which is of one prompt and answer")
    name = getattr(explainer, "model_name", None) or explainer.model.config.name_or_path
    made = provenance(explainer.decoder, name, explainer.backend)
    return {
        **{each: made[each] for each in ("model", "revision", "dtype", "attention", "backend")},
        "weights": weights_digest(explainer.model),
        "versions": {each: version for each, version in made["versions"].items() if each != "python"},
        "options": {
            **options.asked,
            "text_set": options.text_set,
            "grounding": options.grounding,
            "max_new_tokens": options.max_new_tokens,
        },
    }


def of_folder(
    explaining: dict[str, Any], keep: Keep, batch_size: int | str, part_size: int, shard: tuple[int, int]
) -> dict[str, Any]:
    """All that the bytes of the parts depend on besides the input."""
    return {
        "schema_version": SCHEMA_VERSION,
        **explaining,
        "keep": keep.what,
        "maps": keep.dtype,
        "exact": keep.exact,
        "pictures": keep.pictures,
        "batch_size": batch_size,
        "part_size": part_size,
        "shard": list(shard),
    }


def row_chunk(explainer: Explainer, folder: Path, batch_size: int | str, asked: AskedOptions) -> int | str:
    """How many rows of answers run at once.

    With ``batch_size="auto"`` the free memory says so when a folder is begun; whoever goes on there takes the same
    number, because it changes results by rounding.
    """
    chosen = asked.get("row_chunk", "auto")
    if batch_size != "auto" or chosen != "auto":
        return chosen
    path = folder / "settings.json"
    if path.exists():
        before: int | str = json.loads(path.read_text(encoding="utf-8"))["options"]["row_chunk"]
        return before
    return rows_at_once(explainer.decoder, "auto")


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or refuse a folder whose settings are others.

    Raises:
        InputError: says which differ.
    """
    path = folder / "settings.json"
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2).encode())
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if differences := list(_differences(before, settings)):
        raise InputError(
            f"out: {folder} was made with other settings ({'; '.join(differences)}). "
            "Pass these again, or name another folder"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name}: then {before!r}, now {now!r}"
