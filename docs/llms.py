"""A Sphinx extension: ``llms.txt``, the site for language models (https://llmstxt.org), from the table of contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SUMMARY = "Shows which part of an image made a vision-language model write each word of its answer. Exact, in one pass."


def first_sentence(app: Sphinx, page: str) -> str:
    """Of the page's first paragraph."""
    for paragraph in app.env.get_doctree(page).findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        return text.split(". ")[0].rstrip(".:")
    return ""


def write(app: Sphinx, exception: Exception | None) -> None:
    """A line for each page, with its source as Markdown, and all of it in ``llms-full.txt``."""
    if exception is not None or app.builder.format != "html":
        return
    pages = [page for page in app.env.toctree_includes[app.config.root_doc] if page in app.env.all_docs]
    lines = [f"# {app.config.project}", "", f"> {SUMMARY}", "", "## Pages", ""]
    whole = []
    for page in pages:
        source = Path(app.env.doc2path(page))
        link = f"_sources/{source.relative_to(app.srcdir).as_posix()}.txt"
        lines.append(f"- [{app.env.titles[page].astext()}]({link}): {first_sentence(app, page)}")
        if source.suffix == ".md":
            whole.append(source.read_text(encoding="utf-8"))
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path(app.outdir, "llms-full.txt").write_text("\n\n".join(whole), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
