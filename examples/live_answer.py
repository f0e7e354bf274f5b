"""Draw the terminal at the end of ``dexar-fast explain --live``: ``python examples/live_answer.py live.svg [SEED]``."""

import re
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dexar_fast import Explainer
from dexar_fast.cli.live import coloured, legend
from dexar_fast.demo.scenes import draw_scene

path, seed = (*sys.argv[1:], "24")[:2]
stream = Explainer.from_pretrained("demo").stream(draw_scene(int(seed)).image, "describe the image", grounding=True)
answer = Text.assemble(*map(coloured, stream))
console = Console(record=True, width=80, file=StringIO(), force_terminal=True, color_system="truecolor", no_color=False)
console.print(legend(), "", answer, sep="\n")
svg = console.export_svg(title="dexar-fast explain scene.png --prompt 'describe the image' --live")
Path(path).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))  # no fonts from the network
