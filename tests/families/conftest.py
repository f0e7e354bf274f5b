"""`pytest tests/families --write-table docs/models.md` puts into the page what ran for each family."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from .case import Case
from .table import put_between, results_table, types_table

_COLLECTED = pytest.StashKey[dict[str, dict[str, list[str]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", type=Path, help="put the tables of families into this page")


def pytest_configure(config: pytest.Config) -> None:
    collected: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    config.stash[_COLLECTED] = collected


@pytest.fixture(autouse=True)
def _skip_with_reason(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    if not isinstance(case, Case):
        return
    if case.unavailable:
        pytest.skip(case.unavailable)
    if case.skip and request.node.originalname in case.skip:
        pytest.skip(case.skip[request.node.originalname])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = (yield).get_result()
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
    if case and (report.when == "call" or (report.when == "setup" and report.outcome != "passed")):
        item.config.stash[_COLLECTED][case.name][item.originalname].append(report.outcome)  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--write-table", default=None)
    if path is not None:
        collected = session.config.stash[_COLLECTED]
        page = put_between(path.read_text(), "results", results_table(collected))
        path.write_text(put_between(page, "types", types_table()))
