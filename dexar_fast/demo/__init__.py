"""The embedded model: a small LLaVA trained on drawn scenes whose ground truth is known.

Importing this package costs nothing: torch and transformers are imported by the modules that need them.
"""

from pathlib import Path

DEMO = "demo"
"""The name by which `Explainer.from_pretrained` knows it."""

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
"""Folder of the trained model, in the layout of a hub checkpoint."""
