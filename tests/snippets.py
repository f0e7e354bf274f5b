"""The code blocks of Markdown pages, and what their pages say about running them.

Comments of a page, which readers do not see, stand in front of a block:

- ``<!-- not run: REASON -->``: the next block cannot run in a test;
- ``<!-- run before: CODE -->``: Python that the page's next blocks need and do not show;
- ``<!-- needs: MODULE -->``: the next block runs where that module is installed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

PYTHON, SHELL = "python", ("sh", "bash")
HUB_ID = re.compile(r"\b(?:llava-hf|Qwen)/[\w.-]+")
_COMMENT = re.compile(r"<!--\s*(not run|run before|needs):\s*(.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, the line where it begins, why it is not run (None: it is), and the module
    that it needs."""

    language: str
    code: str
    line: int
    not_run: str | None = None
    needs: str | None = None

    def commands(self) -> list[list[str]]:
        """Of a shell block, the words of each line, without comments; names of hub models are the embedded one."""
        lines = self.code.replace("\\\n", " ").splitlines()
        words = [shlex.split(HUB_ID.sub("demo", line), comments=True) for line in lines]
        return [line for line in words if line]


def blocks(page: Path) -> Iterator[Block]:
    """The page's Python and shell blocks, in order, and hidden Python as blocks too."""
    reason: str | None = None
    module: str | None = None
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            for kind, text in _COMMENT.findall(token.content):
                if kind == "not run":
                    reason = text
                elif kind == "needs":
                    module = text
                else:
                    yield Block(PYTHON, text, line)
        elif token.type == "fence":
            language = token.info.split()[0] if token.info.strip() else ""
            if language == PYTHON or language in SHELL:
                yield Block(language, token.content, line, reason, module)
            reason = module = None
