"""Measure the reader on held-out pages, by greedy generation."""

from collections.abc import Sequence

import torch
from transformers import TrOCRProcessor, VisionEncoderDecoderModel

from .figures import Figures, shares
from .pages import Page, draw_page

BATCH = 64


@torch.no_grad()
def read(
    model: VisionEncoderDecoderModel, processor: TrOCRProcessor, pages: Sequence[Page], device: torch.device
) -> list[str]:
    """What the model reads on each page; "" in place of an answer that it did not end."""
    texts = []
    end = processor.tokenizer.eos_token_id
    for at in range(0, len(pages), BATCH):
        images = [page.image for page in pages[at : at + BATCH]]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
        for ids in model.generate(pixel_values=pixels).tolist():
            texts.append(processor.tokenizer.decode(ids, skip_special_tokens=True) if end in ids else "")
    return texts


def measure(
    model: VisionEncoderDecoderModel, processor: TrOCRProcessor, seeds: Sequence[int], device: torch.device
) -> Figures:
    """Shares in percent, and how many cases they are of (keys that end in "cases").

    `pages` counts pages that are right to the last character and end there, `words` and `numbers` those that are
    right at their place in the order.
    """
    pages = [draw_page(seed) for seed in seeds]
    right: dict[str, list[bool]] = {"pages": [], "words": [], "numbers": []}
    for page, text in zip(pages, read(model, processor, pages, device), strict=True):
        right["pages"].append(text == page.text)
        said = text.split(" ")
        for index, item in enumerate(page.text.split(" ")):
            right["numbers" if item.isdigit() else "words"].append(index < len(said) and said[index] == item)
    return shares(right, list(right))
