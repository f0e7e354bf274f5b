"""Put the kept results of ops and end-to-end into README.md and docs/benchmarks.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .end_to_end.tables import README, write_pages
from .ops.tables import PAGE, write_page


def main(arguments: Sequence[str]) -> None:
    if arguments:
        sys.exit(f"tables: expected no options; got {' '.join(arguments)}")
    write_page()
    write_pages()
    print(f"Written: {PAGE}, {README}")
