"""Run the benchmarks: ``python -m benchmarks.run [part] [options]``.

Parts: ``ops``, ``end-to-end``, ``batches``; ``data-set``, runs over data sets; ``report``, the HTML report in a
browser; ``estimate``, a comparison of `Explainer.estimate` with what is measured; ``tables`` puts the results of ops
and end-to-end into README.md and docs/benchmarks.md. Without a part: ops, end-to-end, batches, as they are by default,
on the CPU, and the tables.
``<part> --help`` shows a part's options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from . import batches, data_set, estimate, report
from .end_to_end import run as end_to_end_run
from .end_to_end.tables import README, write_pages
from .ops import run as ops_run
from .ops.tables import PAGE, write_page


def tables(arguments: Sequence[str]) -> None:
    if arguments:
        sys.exit(f"tables: expected no options; got {' '.join(arguments)}")
    write_page()
    write_pages()
    print(f"Written: {PAGE}, {README}")


PARTS: dict[str, Callable[[Sequence[str]], None]] = {
    "ops": ops_run.main,
    "end-to-end": end_to_end_run.main,
    "batches": batches.main,
}


def main(arguments: Sequence[str]) -> None:
    parts = {**PARTS, "data-set": data_set.main, "estimate": estimate.main, "report": report.main, "tables": tables}
    if not arguments:
        for part in PARTS.values():
            part([])
        tables([])
    elif arguments[0] in parts:
        parts[arguments[0]](arguments[1:])
    else:
        print(__doc__)
        sys.exit(0 if arguments[0] in ("-h", "--help") else f"expected one of {', '.join(parts)}; got {arguments[0]!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
