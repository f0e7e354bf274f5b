"""Drop-in faces for code written against other tools."""

from .dexar import DexarResult, DexarWrapper, visualize, visualize_multi

__all__ = ["DexarResult", "DexarWrapper", "visualize", "visualize_multi"]
