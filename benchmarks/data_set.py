"""Data-set runs (`dexar_fast.batch.run`) against the plain forward of the same batches.

What is compared, on the same answers in the same run: everything that a data-set run does (pictures read and decoded,
prompts encoded, answers explained, Parquet written), and one plain forward pass of the model over each batch of prompts
with their answers, already encoded, which keeps nothing. ``share`` is how much of the forward's throughput is left;
``lean_share`` the same of a forward that computes logits of the answer's rows alone, which weigh much in a small model.

Prediction (mid-size model on a CPU, T = 64 answer tokens behind P = 608 prompt tokens): prompts run once either way.
The answer pass runs 64 of 672 rows forwards and, for their gradient, about twice that backwards, so explaining costs
about (608 + 3 * 64) / 672 = 1.19 forwards: a lean share of 0.84. The logits of all rows are 40 % of this model's plain
forward, and no part of an explanation: a share above 1 is within reach.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dexar_fast import Explainer, batch
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.inputs.images import load_image

from . import models
from .files import RESULTS, put_between_markers, write_results
from .timing import described, environment, slug, timed

PROMPT = "describe the image"
WORDS = ["a", "red", "star", "at", "the", "top", "left", ".", "a", "large", "blue", "circle", "in", "the", "middle"]
SIDE = 336  # pixels of the mid-size model's pictures


def load(shape: str, device: str) -> Explainer:
    """The embedded model; or a random one of middle size, with the embedded one's tokenizer."""
    demo = Explainer.from_pretrained("demo", device=device, self_test=False)
    if shape == "demo":
        return demo
    model = models.llava(device=device)
    tokenizer = demo.processor.tokenizer
    model.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, resample=3
    )
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=demo.processor.chat_template,
        num_additional_image_tokens=1,
    )
    return Explainer(model, processor)


def write_input(folder: Path, n: int, length: int, scenes: int = 64) -> Path:
    """A JSONL file of answers of about ``length`` tokens about drawn scenes."""
    for seed in range(min(n, scenes)):
        draw_scene(seed).image.save(folder / f"{seed}.png")
    lines = []
    for row in range(n):
        words = [WORDS[(row + place) % len(WORDS)] for place in range(length)]
        record = {"id": row, "image": f"{row % scenes}.png", "prompt": PROMPT, "answer": " ".join(words)}
        lines.append(json.dumps(record))
    path = folder / "input.jsonl"
    path.write_text("\n".join(lines))
    return path


def joined(explainer: Explainer, source: Path, batch_size: int) -> list[dict[str, Tensor]]:
    """The batches of an input, each prompt with its answer, as one plain forward pass takes them."""
    batches = []
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for start in range(0, len(rows), batch_size):
        each = []
        for row in rows[start : start + batch_size]:
            inputs, ids = explainer.encode([load_image(source.parent / row["image"])], row["prompt"], row["answer"])
            each.append({**inputs, "input_ids": torch.cat([inputs["input_ids"], ids[None]], dim=1)})
        texts = [one["input_ids"][0] for one in each]
        ids = pad_sequence(texts, batch_first=True)
        mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        pixels = torch.cat([one["pixel_values"] for one in each])
        batches.append({"input_ids": ids, "attention_mask": mask, "pixel_values": pixels})
    return batches


def compare(explainer: Explainer, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Answers per second of both, in turns, and the share."""
    batches = joined(explainer, source, options.batch_size)
    n, seconds = options.answers, {name: list[float]() for name in ("forward", "lean_forward", "explained")}

    @torch.no_grad()
    def plain(rows: int) -> None:
        for inputs in batches:
            explainer.model(**inputs, use_cache=False, logits_to_keep=rows)

    def run() -> int:
        with tempfile.TemporaryDirectory() as out:
            summary = batch.run(
                explainer, source, out, batch_size=options.batch_size, maps="uint8", part_size=options.part_size,
                method=options.method,
            )  # fmt: skip
            if summary.explained != n:
                raise RuntimeError(f"expected {n} answers; got {summary}; no speed is shown")
            return sum(path.stat().st_size for path in Path(out, "parts").iterdir())

    plain(0)
    size = run()
    for _ in range(options.repetitions):
        seconds["forward"].append(timed(lambda: plain(0), options.device)[0])
        seconds["lean_forward"].append(timed(lambda: plain(options.length + 1), options.device)[0])
        seconds["explained"].append(timed(run, options.device)[0])
    best = {name: min(each) for name, each in seconds.items()}
    return {
        "answers": n,
        "bytes_per_answer": size / n,
        **{f"{name}_per_s": n / each for name, each in best.items()},
        "share": best["forward"] / best["explained"],
        "lean_share": best["lean_forward"] / best["explained"],
    }


def shards(source: Path, workers: int, options: argparse.Namespace) -> float:
    """Answers per second of so many processes, without loading the model."""
    with tempfile.TemporaryDirectory() as out:
        common = ["--shape", options.shape, "--device", options.device, "--batch-size", str(options.batch_size),
                  "--part-size", str(options.part_size), "--method", options.method]  # fmt: skip
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.data_set", *common, "--worker", str(source), f"{out}/{n}",
                 str(n), str(workers)],
                stdout=subprocess.PIPE, text=True,
            )
            for n in range(workers)
        ]  # fmt: skip
        found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    return sum(each["explained"] for each in found) / max(each["seconds"] for each in found)


def memory(explainer: Explainer, folder: Path, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after a tenth of the answers and at the end, in MiB."""
    source, seen = write_input(folder, n, options.length), {}

    def note(stage: str, done: int, total: int | None) -> None:
        if done in (n // 10, n):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[done] = pages * 4096 / 2**20

    started = time.monotonic()
    batch.run(explainer, source, folder / "many", batch_size=options.batch_size, progress=note, method=options.method)
    return {"answers": n, "seconds": time.monotonic() - started, "after_a_tenth_mib": seen[n // 10], "end_mib": seen[n]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, and what they make of a million and a billion answers."""
    lines = [
        "| model | answers | forwards per second | explained per second | share | lean share | processes | bytes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        two = f"2: {row['workers_2_per_s'] / row['workers_1_per_s']:.2f}x" if "workers_2_per_s" in row else "1"
        lines.append(
            f"| {row['shape']}, T = {row['length']} | {row['answers']} | {row['forward_per_s']:.2f} | "
            f"{row['explained_per_s']:.2f} | {row['share']:.2f} | {row['lean_share']:.2f} | {two} | "
            f"{row['bytes_per_answer']:.0f} |"
        )
    for row in rows:
        if "memory" in row:
            of = row["memory"]
            lines.append(
                f"\n{of['answers']} answers of the {row['shape']} model in one go: {of['after_a_tenth_mib']:.0f} MiB "
                f"after a tenth of them, {of['end_mib']:.0f} MiB at the end."
            )
    return "\n".join(lines)


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.run data-set", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("demo", "mid"), default="mid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--length", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--part-size", type=int, default=64)
    parser.add_argument("--method", default="dexar-focus")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", action="store_true", help="also run one and two processes")
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="also watch the memory of N answers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=None, help="also put the table into this file")
    parser.add_argument("--worker", nargs=4, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(given)

    explainer = load(options.shape, options.device)
    if options.worker:
        source, out, n, of = options.worker
        summary = batch.run(
            explainer, source, out, batch_size=options.batch_size, part_size=options.part_size, method=options.method,
            shard=(int(n), int(of)),
        )  # fmt: skip
        print(json.dumps({"explained": summary.explained, "seconds": summary.seconds}))
        return
    where = environment(options.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_input(folder, options.answers, options.length)
        row = {"shape": options.shape, "length": options.length, **compare(explainer, source, options)}
        if options.workers:
            row |= {f"workers_{n}_per_s": shards(source, n, options) for n in (1, 2)}
        if options.memory:
            row["memory"] = memory(explainer, folder, options.memory, options)
    path = options.out / f"data-set-{slug(where)}.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [old for old in before if (old["shape"], old["length"]) != (row["shape"], row["length"])] + [row]
    write_results(path, {"environment": where, "rows": rows})
    text = f"{table(rows)}\n\nBest of {options.repetitions} runs on {described(where)}."
    print(f"{text}\n\nWritten: {path}")
    if options.page is not None:
        put_between_markers(options.page, "data-set", text)


if __name__ == "__main__":
    main(sys.argv[1:])
