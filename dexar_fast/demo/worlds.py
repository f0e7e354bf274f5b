"""What each model that describes scenes was trained on: how a scene is drawn, and how it is talked about."""

from collections.abc import Callable
from typing import NamedTuple

from .language import PLAIN, Language
from .rich_language import RICH
from .rich_scenes import draw_rich_scene
from .scenes import Scene, draw_scene, draw_sized_scene


class World(NamedTuple):
    """Scenes and their language."""

    draw: Callable[[int], Scene]  # the scene of a seed
    language: Language


WORLDS: dict[str, World] = {
    "demo": World(draw_scene, PLAIN),
    "demo-qwen": World(draw_sized_scene, PLAIN),
    "demo-gemma": World(draw_scene, PLAIN),
    "demo-paligemma": World(draw_scene, PLAIN),
    "demo-deep": World(draw_rich_scene, RICH),
}
"""By the model's name."""
