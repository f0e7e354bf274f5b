"""Explain one image: ``python examples/explain_image.py photo.jpg "What is this?" [MODEL]`` (default: "demo")."""

import sys

from dexar_fast import Explainer

image, prompt, model = (*sys.argv[1:], "demo")[:3]
explanation = Explainer.from_pretrained(model).explain(image, prompt, progress=True)
print(explanation.answer)
for word in sorted(explanation.words(), key=lambda word: -word.weight)[:10]:
    print(f"{word.weight:8.4f}  {word.text}")
print(explanation.to_html("report.html"))
