"""Train the reader: `python -m dexar_fast.demo.train_reader --out FOLDER`.

Encoder and decoder learn together. The encoder is also taught what each patch shows, the character and how many come
before it: with that a decoder that writes its tenth character soon finds where to look, which it hardly does alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, VisionEncoderDecoderModel

from .evaluate_reader import measure
from .figures import summary
from .folders import command, run, write_folder
from .labels import IGNORE
from .pages import CHARACTERS, Page, draw_page
from .reader import GRID, MOST_TOKENS, PATCH, build_model, build_processor, build_tokenizer
from .scenes import TRAINING_SEEDS, WATCHED_SEEDS
from .training import Training, chosen, cut_short, schedules

MODULE = "dexar_fast.demo.train_reader"
LEAST_INK = 4
"""From this many pixels of ink on, a patch is said to show a character."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines the trained weights, given the kind of device."""

    seed: int = 0
    pages: int = 30_000
    steps: int = 5000
    """Steps in which the rate would come down along a cosine."""
    stop: int = 1300
    """Step at which it leaves the cosine..."""
    settle: int = 600
    """...and goes straight down, in so many steps."""
    batch: int = 32
    rate: float = 2.0e-3
    warm_up: int = 100
    precision: str = "float32"


def patch_labels(page: Page) -> NDArray[np.int16]:
    """For each patch the character that has most ink in it, and its place in the text from 1 on; 0, 0: no ink.

    (patches, 2), patches in reading order. `IGNORE` where there is too little ink to tell.
    """
    rows, columns = GRID
    ink = np.zeros((len(page.glyphs), rows, columns), dtype=np.int64)
    for number, glyph in enumerate(page.glyphs):
        ink[number] = glyph.mask.reshape(rows, PATCH, columns, PATCH).sum(axis=(1, 3))
    most, owner = ink.max(axis=0).ravel(), ink.argmax(axis=0).ravel()
    characters = np.array([CHARACTERS.index(glyph.character) + 1 for glyph in page.glyphs])
    places = np.flatnonzero([character != " " for character in page.text]) + 1
    labels = np.stack([characters[owner], places[owner]], axis=-1)
    labels[most == 0] = 0
    labels[(most > 0) & (most < LEAST_INK)] = IGNORE
    return labels.astype(np.int16)


def _draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int16], str]:
    page = draw_page(seed)
    return np.asarray(page.image).transpose(2, 0, 1), patch_labels(page), page.text


class PatchHead(nn.Module):
    """Reads character and place off the encoder's patches. Used for training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.character = nn.Linear(width, len(CHARACTERS) + 1)
        self.place = nn.Linear(width, MOST_TOKENS)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, patches, width) to scores (B, patches, classes) of both."""
        return self.character(features), self.place(features)


def patch_loss(scores: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of both, where patches with ink count four times: labels int64 (B, patches, 2)."""
    loss = torch.zeros((), device=labels.device)
    weight = torch.where(labels[..., 0] > 0, 4.0, 1.0).flatten()
    for number, score in enumerate(scores):
        target = labels[..., number].flatten()
        each = functional.cross_entropy(score.flatten(0, 1).float(), target, ignore_index=IGNORE, reduction="none")
        loss = loss + (each * weight).sum() / weight.sum()
    return loss


def text_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder is fed and what should follow, both int64 (B, T); -100 behind the end."""
    encoded = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    length = max(map(len, encoded)) - 1
    fed = torch.full((len(texts), length), tokenizer.pad_token_id)
    wanted = torch.full((len(texts), length), -100)
    for row, ids in enumerate(encoded):
        fed[row, : len(ids) - 1], wanted[row, : len(ids) - 1] = torch.tensor(ids[:-1]), torch.tensor(ids[1:])
    return fed, wanted


def pixels_of(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, height, width) as the processor would give them: mean and deviation are 0.5."""
    return images.float() / 127.5 - 1.0


def train(settings: Settings, out: Path, device: torch.device, *, log_every: int = 50) -> Path:
    """Run the training and write the model's folder, `out`/checkpoint, which is returned."""
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    model: VisionEncoderDecoderModel = build_model().to(device)
    head = PatchHead(model.config.encoder.hidden_size).to(device)
    training = Training(out, asdict(settings), {"model": model, "head": head}, device, settings.precision, log_every)
    first = TRAINING_SEEDS.start + settings.seed * 10_000_000
    drawn = lru_cache(maxsize=None)(lambda row: _draw(first + int(row)))  # when a step wants it

    def loss_of(step: int) -> tuple[torch.Tensor, str]:
        rows = chosen(step, settings.pages, settings.batch, settings.seed)
        images, labels, texts = zip(*map(drawn, rows), strict=True)
        pixels = pixels_of(torch.from_numpy(np.stack(images)).to(device))
        encoded = model.encoder(pixel_values=pixels).last_hidden_state
        seen = patch_loss(head(encoded[:, 1:]), torch.from_numpy(np.stack(labels)).to(device, torch.int64))
        fed, wanted = (ids.to(device) for ids in text_ids(texts, tokenizer))
        logits = model.decoder(input_ids=fed, encoder_hidden_states=encoded, use_cache=False).logits
        read = functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=-100)
        return read + 0.3 * seen, f"reading {read.item():.4f}  patches {seen.item():.4f}"

    def watch() -> str:
        model.eval()
        figures = measure(model, build_processor(), WATCHED_SEEDS[:100], device)
        model.train()
        return summary(figures)

    model.train()
    trained = [(n, p) for n, p in model.named_parameters() if "pooler" not in n] + [
        (f"head.{n}", p) for n, p in head.named_parameters()
    ]
    factors = cut_short(schedules((settings.steps,), settings.warm_up), settings.stop, settings.settle)
    training.stage("reading", trained, factors, loss_of, rate=settings.rate, watch=watch)
    said = command(MODULE, settings, Settings())
    return write_folder(model.eval(), build_processor(), out / "checkpoint", said, settings, training)


if __name__ == "__main__":
    run(Settings(), train, MODULE, __doc__)
