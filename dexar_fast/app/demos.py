"""The embedded models in the app: what they know, and a picture of it."""

from __future__ import annotations

from PIL import Image

from ..demo import MODELS
from ..demo.pages import draw_page
from ..demo.scenes import draw_scene
from ..demo.worlds import WORLDS

READER = "demo-reader"
SCENE_SCALE = 4
"""Of scenes for models that see every picture in one size."""


def about(model: str | None) -> str:
    """What is to be said loudly of an embedded model, as Markdown; empty for all others."""
    if model not in MODELS:
        return ""
    knows = "reads drawn words and numbers" if model == READER else "knows drawn scenes"
    return (
        f"## This is a small embedded demo model. It {knows}, and no photos.\n"
        "Start the app with `-m`, a hub id or a folder, for a model that knows more."
    )


def draw(model: str | None, seed: int) -> Image.Image:
    """A picture such as the model was trained on; of other models a scene."""
    if model == READER:
        return draw_page(seed).image
    world = WORLDS.get(model or "")
    if world is None or world.draw is draw_scene:
        return draw_scene(seed, scale=SCENE_SCALE).image
    return world.draw(seed).image
