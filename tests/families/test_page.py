"""docs/models.md says what is so; `pytest tests/families --write-table docs/models.md` writes it anew."""

from pathlib import Path

import pytest
import transformers

from .case import all_cases
from .table import types_table


def section(page: str, name: str) -> str:
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]


def test_every_case_has_a_row_without_failures(root: Path) -> None:
    rows = section((root / "docs" / "models.md").read_text(), "results").splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    assert [row[0] for row in cells] == sorted(all_cases())
    for row in cells:
        for cell in row[4:]:
            passed, _, ran = cell.partition("/")
            assert cell == "-" or passed == ran, row


def test_every_type_of_transformers_is_listed(root: Path) -> None:
    newest = next(
        line.partition("==")[2]
        for line in (root / "constraints-newest.txt").read_text().splitlines()
        if line.startswith("transformers==")
    )
    if transformers.__version__ != newest:
        pytest.skip(f"the page lists the types of transformers {newest}, this is {transformers.__version__}")
    assert section((root / "docs" / "models.md").read_text(), "types") == types_table()
