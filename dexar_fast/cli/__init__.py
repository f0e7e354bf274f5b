"""The command `dexar-fast`. Importing it loads typer and rich, but neither torch nor transformers."""

from .app import app, main

__all__ = ["app", "main"]
