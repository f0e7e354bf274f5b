"""Drop-in faces for code written against other tools: the released DEX-AR code here, others in a file each.

Import their names from here, those of other tools from their files (`docs/adapters.md`), which load the tool when they
are called; the files know `explainer` and what is below it.
"""

from .dexar import DexarResult, DexarWrapper, visualize, visualize_multi
from .install import install

__all__ = ["DexarResult", "DexarWrapper", "install", "visualize", "visualize_multi"]
