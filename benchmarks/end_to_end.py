"""Explaining an answer, against the plain forward pass over prompt and answer, and against the naive method.

Prediction, from the operations counted (mid-size model, P = 608 prompt tokens, L = 8): the answer pass adds to the
plain forward the backward of each layer's tail over T rows (projection and MLP, some 80 % of a layer's forward over
these rows) and the product dO V^T over T rows and all keys. At T = 128 of 736 positions that is 128 / 736 * 0.8 + a
few percent: a ratio of about 1.2. Measured: 1.3; the answer rows run apart from the prompt, in smaller products.
The naive method runs T forwards and L backward passes over everything each: some 3 T times the forward.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dexar_fast import Explainer, Explanation

from . import models, naive
from .files import RESULTS, put_between_markers, write_results
from .memory import peak_in_fresh_process
from .timing import described, environment, side_by_side, slug, timed

# Largest difference of maps and scores to the naive method's; a row that differs by more prints no speed.
GATES = {torch.float32: 1e-3, torch.bfloat16: 1e-1}

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 2, "width": 64, "heads": 2, "intermediate": 96},
    "mid": {},
    "llava-7b": {
        "layers": 32,
        "width": 4096,
        "heads": 32,
        "intermediate": 11008,
        "dtype": torch.bfloat16,
        "vision_layers": 24,
        "vision_width": 1024,
    },
}


@dataclass
class Calls:
    """The three ways over one model and prompt, each for an answer of a given length."""

    model: Any
    naive_model: Any
    inputs: dict[str, torch.Tensor]
    explainer: Explainer

    def plain(self, length: int) -> None:
        """The forward that the model had to do anyway, with the logits of the answer rows."""
        ids = torch.cat((self.inputs["input_ids"], models.answer(self.model, length)[None]), dim=1)
        with torch.no_grad():
            self.model(input_ids=ids, pixel_values=self.inputs["pixel_values"], logits_to_keep=length, use_cache=False)

    def explain(self, length: int) -> Explanation:
        return self.explainer.explain_ids(self.inputs, models.answer(self.model, length))

    def naive(self, length: int) -> naive.NaiveResult:
        prompt = self.inputs["input_ids"][0]
        text = torch.cat((prompt != models.IMAGE_TOKEN_ID, torch.ones(length, dtype=torch.bool, device=prompt.device)))
        layers = list(range(self.model.config.text_config.num_hidden_layers))
        answer = models.answer(self.model, length)
        return naive.explain(self.naive_model, self.inputs, answer, layers, "paper", text)


def prepare(shape: str, device: str) -> Calls:
    model = models.llava(**SHAPES[shape], device=device)
    # The same weights under the eager attention that the naive method needs; no second copy in memory.
    naive_model = models.llava(**SHAPES[shape], device="meta", attention="eager")
    naive_model.load_state_dict(model.state_dict(), assign=True)
    naive_model.model.language_model.rotary_emb = model.model.language_model.rotary_emb
    naive_model.model.vision_tower = model.model.vision_tower
    return Calls(model, naive_model, models.prompt(model), Explainer(model))


def measure(
    calls: Calls, shape: str, length: int, device: str, *, repetitions: int, with_naive: bool
) -> dict[str, Any]:
    """One row: seconds, ratios and peak memory at one answer length."""
    plain, explain = side_by_side(
        [lambda: calls.plain(length), lambda: calls.explain(length)], repetitions=repetitions, device=device
    )
    row: dict[str, Any] = {
        "answer_tokens": length,
        "plain_s": asdict(plain),
        "explain_s": asdict(explain),
        "explain_over_plain": explain.median / plain.median,
        "plain_peak_mib": peak_in_fresh_process("plain", length, device, shape),
        "explain_peak_mib": peak_in_fresh_process("explain", length, device, shape),
    }
    if with_naive:
        unfiltered = calls.explainer.explain_ids(calls.inputs, models.answer(calls.model, length), unfiltered=True)
        seconds, expected = timed(lambda: calls.naive(length), device)
        difference = largest_difference(unfiltered, expected)
        row["largest_difference_to_naive"] = difference
        if not difference <= GATES[calls.model.dtype]:  # NaN is no agreement
            raise RuntimeError(
                f"T={length}: results differ from the naive method's by {difference:.1e}; no speed is shown"
            )
        row |= {"naive_s": seconds, "naive_over_explain": seconds / explain.median}
        row["naive_peak_mib"] = peak_in_fresh_process("naive", length, device, shape)
    return row


def largest_difference(ours: Explanation, reference: naive.NaiveResult) -> float:
    """Over maps, weights and scores, each relative to the largest value there is; NaN if there is one."""
    differences = []
    for name in naive.NaiveResult.__dataclass_fields__:
        wanted = getattr(reference, name).cpu()
        actual = torch.from_numpy(getattr(ours, name)).reshape(wanted.shape)
        differences.append((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    return float(torch.stack(differences).max())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| answer tokens | explain / plain forward | naive / explain | memory above the model: plain, explain, naive |",
        "|---:|---:|---:|---:|",
    ]
    for row in rows:
        naive_ratio = f"{row['naive_over_explain']:.0f}x" if "naive_over_explain" in row else "not compared"
        peaks = [row[f"{name}_peak_mib"] for name in ("plain", "explain", "naive") if f"{name}_peak_mib" in row]
        memory = ", ".join(f"{peak:.0f}" for peak in peaks)
        lines.append(f"| {row['answer_tokens']} | {row['explain_over_plain']:.2f}x | {naive_ratio} | {memory} MiB |")
    return "\n".join(lines)


def arguments(extra: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in extra:
        parser.add_argument(name)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="mid")
    return parser


def main(given: Sequence[str]) -> None:
    parser = arguments()
    parser.prog = "benchmarks.run end-to-end"
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument(
        "--naive-lengths", type=int, nargs="*", help="where to run the naive method; default: everywhere"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=None, help="also put the table into this file")
    options = parser.parse_args(given)

    where = environment(options.device)
    calls = prepare(options.shape, options.device)
    path = options.out / f"{options.shape}-{slug(where)}.json"
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        with_naive = options.naive_lengths is None or length in options.naive_lengths
        repetitions = options.repetitions
        row = measure(calls, options.shape, length, options.device, repetitions=repetitions, with_naive=with_naive)
        rows.append(row)
        write_results(path, {"environment": where, "shape": options.shape, "rows": rows})
        print(table([row]).splitlines()[-1], flush=True)
    text = f"{table(rows)}\n\nMedian of {options.repetitions} runs (naive: 1) on {described(where)}."
    print(f"\n{text}\n\nWritten: {path}")
    if options.readme is not None:
        put_between_markers(options.readme, "end-to-end", text)
