"""Run the benchmarks: ``python -m benchmarks.run [part] [options]``.

Parts: ``ops``, ``end-to-end``, ``batches``; ``lenses``, two methods in one pass, and grounding; ``data-set``, runs over
data sets; ``report``, the HTML report in a browser; ``estimate``, a comparison of `Explainer.estimate` with what is
measured; ``tables`` puts the results of ops and end-to-end into README.md and docs/benchmarks.md. Without a part: ops,
end-to-end, batches, as they are by default, on the CPU, and the tables.
``<part> --help`` shows a part's options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

ALL = ("ops", "end-to-end", "batches")
PARTS = {
    "ops": "ops.run",
    "end-to-end": "end_to_end.run",
    "batches": "batches",
    "lenses": "end_to_end.lenses",
    "data-set": "data_set",
    "report": "report",
    "estimate": "estimate",
    "tables": "tables",
}
"""The module of each. A part that is not run may need what is not installed, as Parquet on a GPU machine."""


def run(part: str, arguments: Sequence[str]) -> None:
    """Import a part and run it."""
    import_module(f".{PARTS[part]}", __package__).main(arguments)


def main(arguments: Sequence[str]) -> None:
    if not arguments:
        for part in (*ALL, "tables"):
            run(part, [])
    elif arguments[0] in PARTS:
        run(arguments[0], arguments[1:])
    else:
        print(__doc__)
        sys.exit(0 if arguments[0] in ("-h", "--help") else f"expected one of {', '.join(PARTS)}; got {arguments[0]!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
