"""Run the benchmarks: ``python -m benchmarks.run [--device cuda] [--shape mid] [--lengths 8 32 128]``.

Prints a table and writes ``benchmarks/results/<shape>-<device>.json``; on the default shape and the CPU the table also
goes into the README, between its markers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from . import end_to_end
from .timing import environment

ROOT = Path(__file__).resolve().parent.parent
MARKERS = ("<!-- benchmark -->", "<!-- /benchmark -->")


def main() -> None:
    parser = end_to_end.arguments()
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument(
        "--naive-lengths", type=int, nargs="*", help="where to run the naive method; default: everywhere"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=None, help="also put the table into this file")
    options = parser.parse_args()

    where = environment(options.device)
    calls = end_to_end.prepare(options.shape, options.device)
    rows = []
    for length in options.lengths:
        row = end_to_end.measure(
            calls,
            options.shape,
            length,
            options.device,
            repetitions=options.repetitions,
            with_naive=options.naive_lengths is None or length in options.naive_lengths,
        )
        rows.append(row)
        print(end_to_end.table([row]).splitlines()[-1], flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", str(where["device"]).lower()).strip("-")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.shape}-{slug}.json"
    path.write_text(json.dumps({"environment": where, "shape": options.shape, "rows": rows}, indent=1) + "\n")
    versions = ", ".join(f"{name} {where['packages'][name]}" for name in ("torch", "transformers"))
    text = (
        f"{end_to_end.table(rows)}\n\nMedian of {options.repetitions} runs (naive: 1) on {where['device']}, "
        f"{where['threads']} threads, {versions}, {where['date']}."
    )
    print(f"\n{text}\n\nWritten: {path}")
    if options.readme is not None:
        put_between_markers(options.readme, text)


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers of a Markdown file."""
    start, end = MARKERS
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    path.write_text(f"{before}{start}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
