"""Train the embedded model: `python -m dexar_fast.demo.train --out FOLDER`.

First the vision tower alone learns what each patch shows. Then the tower is frozen, its features are computed
once, and the projector and the decoder learn to talk about them. The order matters: end to end from scratch,
the decoder learns the grammar and never starts to look.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import LlavaForConditionalGeneration

from . import losses
from .evaluate import measure
from .figures import summary
from .folders import command, save_model
from .labels import ASPECTS, patch_labels
from .losses import vision_loss
from .model import GRID, PATCH, build_model, build_processor, image_features, last_hidden
from .packing import LEARNING, REVISION, Encoder, Packed, choose_segments, pack
from .scenes import SIDE, TRAINING_SEEDS, WATCHED_SEEDS, Thing, draw_scene
from .tokenizer import build_tokenizer
from .training import schedules

TEXT_BUDGET = 160
"""Tokens of description and questions per image and step."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines the trained weights, given the kind of device."""

    seed: int = 0
    scenes: int = 30_000
    vision_cycles: tuple[int, ...] = (1200, 800, 800)
    """Steps of each cycle of the tower's learning rate. Raising the rate again helps the small shapes."""
    steps: tuple[int, ...] = (2100, 1000)
    """Steps of each cycle of the decoder's learning rate."""
    revision: int = 1500
    """Steps of a last cycle with more of the questions that are learned last."""
    batch: int = 32
    vision_rate: float = 1.0e-3
    rate: float = 1.5e-3
    warm_up: int = 100
    weight_decay: float = 0.01
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Pool:
    """The training scenes. Drawn once, since each is used for several steps."""

    images: torch.Tensor  # uint8 (N, 3, side, side)
    labels: torch.Tensor  # int8 (N, patches, aspects)
    things: list[tuple[Thing, ...]]


def _draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int8], tuple[Thing, ...]]:
    scene = draw_scene(seed)
    things = tuple(Thing(o.colour, o.shape, o.size, o.place, o.pattern) for o in scene.objects)
    labels = patch_labels(scene.objects, PATCH).astype(np.int8)  # keeps IGNORE, which is -100
    return np.asarray(scene.image).transpose(2, 0, 1), labels, things


def draw_pool(count: int, seed: int, workers: int) -> Pool:
    """Draw `count` training scenes in `workers` processes (0: this one). Different `seed`s share none."""
    first = TRAINING_SEEDS.start + seed * 10_000_000
    images = np.empty((count, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.empty((count, GRID * GRID, len(ASPECTS)), dtype=np.int8)
    things: list[tuple[Thing, ...]] = []
    seeds = range(first, first + count)
    with ExitStack() as stack:
        drawn: Iterator[tuple[NDArray[np.uint8], NDArray[np.int8], tuple[Thing, ...]]] = map(_draw, seeds)
        if workers > 0:
            spawn = multiprocessing.get_context("spawn")
            processes = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
            drawn = iter(processes.map(_draw, seeds, chunksize=64))
        for index, (image, label, thing) in enumerate(drawn):
            images[index], labels[index] = image, label
            things.append(thing)
    return Pool(torch.from_numpy(images), torch.from_numpy(labels), things)


def batches(count: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the scenes of each step, without end: every scene once, in a new order each time."""
    rng = np.random.default_rng([seed, 3])
    while True:
        order = rng.permutation(count)
        for at in range(0, count - batch + 1, batch):
            yield order[at : at + batch]


@torch.no_grad()
def rescale_tower(model: LlavaForConditionalGeneration, factor: float) -> None:
    """Multiply the tower's features by `factor`.

    Every layer normalises what it reads, so scaling all that is written to the residual stream scales the stream
    and changes nothing else.
    """
    tower = model.model.vision_tower
    writers = [tower.pre_layrnorm]
    for layer in tower.encoder.layers:
        writers += [layer.self_attn.out_proj, layer.mlp.fc2]
    for writer in writers:
        writer.weight.mul_(factor)
        writer.bias.mul_(factor)


class PatchHead(nn.Module):
    """Reads the aspects of each patch off the tower's features. Used for training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(ASPECTS.values()))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, patches, width) to one (B, patches, classes) per aspect."""
        scores: torch.Tensor = self.out(self.norm(features))
        return scores.split(list(ASPECTS.values()), dim=-1)


@torch.no_grad()
def start_projector(model: LlavaForConditionalGeneration, head: PatchHead, images: torch.Tensor) -> None:
    """Let the projector start from what the patch head reads, every aspect equally loud.

    The tower's features stand around 100 from zero, and say the shape much louder than the colour; a projector
    that starts at random on that hears the shape early and the colour hardly ever. So the features are scaled to
    variance one, the first rows of the projector's first layer become the head's class scores (the right class
    about 2, the others below 0, to be cut off by the activation), and only the rest starts at random.
    """
    features = image_features(model, images).flatten(0, 1)
    rescale_tower(model, 1.0 / features.std(dim=0).square().mean().sqrt().item())
    features = image_features(model, images).flatten(0, 1)  # (B * patches, width)

    spread = features.std(dim=1, unbiased=False).mean()  # the head's norm, taken as linear: spreads differ little
    reading = head.out.weight * head.norm.weight / spread
    reading = reading - reading.mean(dim=1, keepdim=True)  # the norm's centring
    classes = [part - part[1:].mean(dim=0) for part in reading.split(list(ASPECTS.values()))]
    classes[-1] = reading[-2:] - reading[-2:].mean(dim=0)  # of two classes, one is the other's opposite
    first = model.model.multi_modal_projector.linear_1
    nn.init.normal_(first.weight, std=0.3 * first.in_features**-0.5)
    row = 0
    for part in classes:
        scores = (features - features.mean(dim=0)) @ part.T
        best = scores.max(dim=1).values.mean()
        first.weight[row : row + len(part)] = part * (2.0 / best)
        row += len(part)
    first.bias.copy_(-first.weight @ features.mean(dim=0))


def answer_loss(model: LlavaForConditionalGeneration, features: torch.Tensor, packed: Packed) -> torch.Tensor:
    """`losses.answer_loss` of the tower's features (B, patches, width) and their packed text."""
    seen = model.model.multi_modal_projector(features)
    return losses.answer_loss(model, seen, packed, model.config.image_token_id, last_hidden)


def optimizer_of(parameters: list[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


class Trainer:
    """Both stages, with a state file to go on from after an interruption."""

    def __init__(self, settings: Settings, out: Path, device: torch.device, workers: int, log_every: int) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.out, self.device, self.log_every = settings, out, device, log_every
        self.tokenizer = build_tokenizer()
        self.model = build_model(self.tokenizer).to(device)
        self.head = PatchHead(self.model.config.vision_config.hidden_size).to(device)
        self.encoder = Encoder(self.tokenizer, GRID * GRID)
        self.state_path = out / "state.pt"
        self.started = time.monotonic()
        self.spent = 0.0  # seconds of earlier runs that this one goes on from
        self.say(f"drawing {settings.scenes} scenes")
        self.pool = draw_pool(settings.scenes, settings.seed, workers)

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started

    def say(self, message: str) -> None:
        print(f"{self.seconds():7.0f} s  {message}", flush=True)

    def mixed(self) -> torch.autocast:
        """Matrix products in the settings' precision; weights, sums and losses stay float32."""
        dtype: torch.dtype = getattr(torch, self.settings.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def save_state(self, stage: str, step: int, optimizer: torch.optim.Optimizer) -> None:
        state = {"stage": stage, "step": step, "seconds": self.seconds(), "settings": asdict(self.settings),
                 "model": self.model.state_dict(), "head": self.head.state_dict(),
                 "optimizer": optimizer.state_dict()}  # fmt: skip
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)

    def load_state(self, stage: str, optimizer: torch.optim.Optimizer) -> int:
        """The step to go on from in this stage; 0 if the state file is absent or about the other stage."""
        if not self.state_path.exists():
            return 0
        state = torch.load(self.state_path, map_location=self.device, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"{self.state_path} was written with other settings: {state['settings']}")
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        if state["stage"] != stage:
            return sum(self.settings.vision_cycles) if stage == "vision" else 0
        self.spent = state["seconds"] - (time.monotonic() - self.started)
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def train_vision(self) -> None:
        """Stage one: the tower and its patch head."""
        settings = self.settings
        parameters = [*self.model.model.vision_tower.parameters(), *self.head.parameters()]
        optimizer = optimizer_of(parameters, settings.vision_rate, settings.weight_decay)
        start = self.load_state("vision", optimizer)
        order = batches(settings.scenes, settings.batch, settings.seed)
        factors = schedules(settings.vision_cycles, settings.warm_up)
        for step, factor in enumerate(factors):
            chosen = torch.from_numpy(next(order))
            if step < start:
                continue
            for group in optimizer.param_groups:
                group["lr"] = settings.vision_rate * factor
            with self.mixed():
                scores = self.head(image_features(self.model, self.pool.images[chosen].to(self.device)))
            loss, right = vision_loss(scores, self.pool.labels[chosen].to(self.device, torch.int64))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if (step + 1) % self.log_every == 0:
                shares = "  ".join(f"{name} {100 * share:.1f}" for name, share in zip(ASPECTS, right, strict=True))
                self.say(f"vision {step + 1}/{len(factors)}  loss {loss.item():.4f}  right % {shares}")
            if (step + 1) % 200 == 0 or step + 1 == len(factors):
                self.save_state("vision", step + 1, optimizer)

    @torch.no_grad()
    def all_features(self) -> torch.Tensor:
        """The frozen tower's features of every training scene: float16 (N, patches, width)."""
        parts = [image_features(self.model, part.to(self.device)).to("cpu", torch.float16)
                 for part in self.pool.images.split(64)]  # fmt: skip
        return torch.cat(parts)

    def train_language(self) -> None:
        """Stage two: projector and decoder, on cached features."""
        settings = self.settings
        inner = self.model.model
        parameters = [*inner.multi_modal_projector.parameters(), *inner.language_model.parameters(),
                      *self.model.lm_head.parameters()]  # fmt: skip
        optimizer = optimizer_of(parameters, settings.rate, settings.weight_decay)
        start = self.load_state("language", optimizer)
        if start == 0:
            torch.manual_seed(settings.seed + 1)
            start_projector(self.model, self.head, self.pool.images[:256].to(self.device))
        features = self.all_features()
        self.say("features computed")
        order = batches(settings.scenes, settings.batch, settings.seed + 1)
        running = 0.0
        factors = schedules((*settings.steps, settings.revision), settings.warm_up)
        for step, factor in enumerate(factors):
            chosen = next(order)
            if step < start:
                continue
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * factor
            rng = np.random.default_rng([settings.seed, 4, step])
            mix = LEARNING if step < sum(settings.steps) else REVISION
            segments = [choose_segments(self.pool.things[i], self.encoder, TEXT_BUDGET, rng, mix) for i in chosen]
            packed = pack(segments, self.encoder, len(self.encoder.prefix) + TEXT_BUDGET).to(self.device)
            seen = features[torch.from_numpy(chosen)].to(self.device, torch.float32)
            with self.mixed():
                loss = answer_loss(self.model, seen, packed)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            running += loss.item()
            if (step + 1) % self.log_every == 0:
                self.say(f"language {step + 1}/{len(factors)}  loss {running / self.log_every:.4f}")
                running = 0.0
            if (step + 1) % 200 == 0:
                self.save_state("language", step + 1, optimizer)
                self.watch(12)
        self.save_state("language", len(factors), optimizer)

    def watch(self, scenes: int) -> None:
        """Print how greedy generation does on a few held-out scenes."""
        self.model.eval()
        figures = measure(self.model, build_processor(self.tokenizer), WATCHED_SEEDS[:scenes], self.device)
        self.model.train()
        self.say(summary(figures))


def train(settings: Settings, out: Path, device: torch.device, *, workers: int = 2, log_every: int = 50) -> Path:
    """Run both stages and write the model's folder, `out`/checkpoint, which is returned.

    The state to go on from after an interruption is kept in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings, out, device, workers, log_every)
    trainer.train_vision()
    trainer.train_language()
    folder = out / "checkpoint"
    save_model(trainer.model, build_processor(trainer.tokenizer), folder)
    record = {
        "command": command("dexar_fast.demo.train", settings, Settings()),
        "settings": asdict(settings),
        "seconds": round(trainer.seconds()),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    trainer.say(f"wrote {folder}")
    return folder


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dexar_fast.demo.train", description=__doc__)
    for name, value in asdict(Settings()).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple):
            parser.add_argument(option, type=int, nargs="+", default=value)
        else:
            parser.add_argument(option, type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True, help="folder for the state file and the checkpoint")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes; 0: this one")
    given = vars(parser.parse_args(arguments))
    out, device, workers = given.pop("out"), given.pop("device"), given.pop("workers")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    train(Settings(**given), out, device, workers=workers)


if __name__ == "__main__":
    main()
