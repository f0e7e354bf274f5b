"""Drop-in faces for code written against other tools.

Import their names from here; the files know `explainer` and what is below it.
"""

from .dexar import DexarResult, DexarWrapper, visualize, visualize_multi

__all__ = ["DexarResult", "DexarWrapper", "visualize", "visualize_multi"]
