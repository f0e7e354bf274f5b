"""Draw an answer as it is written, each word with its map: ``python examples/moving_picture.py answer.svg [SEED]``."""

import base64
import sys
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from dexar_fast import Explainer
from dexar_fast.demo.scenes import draw_scene

SECONDS = 0.7  # a word
SIDE = 300  # of the picture
LEFT, TOP, LINE, CHARACTER = SIDE + 44, 64, 34, 11.5

path, seed = (*sys.argv[1:], "24")[:2]
scene = draw_scene(int(seed), scale=4).image
explanation = Explainer.from_pretrained("demo").explain(scene, "describe the image", grounding=True)
words = explanation.words()[:17]
total = SECONDS * (len(words) + 3)


def data_uri(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.convert("RGB").resize((SIDE, SIDE)).save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def shown(start: float, stop: float) -> str:
    """Visible from one second to another, over and over."""
    times = f"0;{start / total:.4f};{stop / total:.4f};1"
    return (
        f'<animate attributeName="opacity" calcMode="discrete" dur="{total}s" repeatCount="indefinite" '
        f'keyTimes="{times}" values="0;1;0;0"/>'
    )


parts = [f'<image x="16" y="16" width="{SIDE}" height="{SIDE}" href="{data_uri(scene)}"/>']
x, y = float(LEFT), TOP
for index, word in enumerate(words):
    start = SECONDS * (index + 1)
    width = len(word.text) * CHARACTER
    if x + width > 760:
        x, y = float(LEFT), y + LINE
    strength = max(0.0, 2 * (word.grounding or 0.5) - 1)
    overlay = data_uri(explanation.overlay(word=index))
    parts += [
        f'<image x="16" y="16" width="{SIDE}" height="{SIDE}" opacity="0" href="{overlay}">'
        f"{shown(start, start + SECONDS)}</image>",
        f'<g opacity="0">{shown(start, total)}'
        f'<rect x="{x - 4:.1f}" y="{y - 20}" width="{width + 8:.1f}" height="28" rx="5" fill="#2c7be5" '
        f'fill-opacity="{strength * 0.55:.2f}"/><text x="{x:.1f}" y="{y}">{escape(word.text)}</text></g>',
    ]
    x += width + CHARACTER

Path(path).write_text(
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {SIDE + 32}" role="img">'
    f"<title>{escape(explanation.answer.strip())}</title>"
    f'<rect width="780" height="{SIDE + 32}" rx="10" fill="#fff" stroke="#ccc"/>'
    '<g font-family="ui-monospace, monospace" font-size="19" fill="#222">' + "\n".join(parts) + "</g>"
    f'<g font-family="sans-serif" font-size="14" fill="#666"><text x="{LEFT}" y="{SIDE - 20}">'
    "the map on the left: where the model looked for the word</text>"
    f'<text x="{LEFT}" y="{SIDE}">a darker word: rests more on the image</text></g></svg>\n'
)
