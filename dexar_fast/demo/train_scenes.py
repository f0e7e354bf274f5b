"""Train a model of another architecture on the scenes: `python -m dexar_fast.demo.train_scenes NAME --out FOLDER`.

As for the embedded model, the vision tower first learns what each patch shows. Then it is frozen, its embeddings are
computed once, and the decoder learns to talk about them.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .architectures import Architecture
from .deep import DEEP
from .evaluate import measure
from .figures import summary
from .folders import command, run, write_folder
from .gemma import GEMMA
from .labels import ALL_ASPECTS, patch_labels
from .losses import answer_loss, vision_loss
from .packing import LEARNING, REVISION, choose_segments, pack
from .paligemma import PALIGEMMA
from .patch_code import code_loss
from .qwen import QWEN
from .scenes import TRAINING_SEEDS, WATCHED_SEEDS, Scene, Thing
from .training import Training, attend_in_float32, chosen, schedules

ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (QWEN, GEMMA, PALIGEMMA, DEEP)}

MODULE = "dexar_fast.demo.train_scenes"


@dataclass(frozen=True)
class Settings:
    """Everything that determines the trained weights, given the architecture and the kind of device."""

    seed: int = 0
    scenes: int = 10_000
    vision_steps: tuple[int, ...] = (1500,)
    """Steps of each cycle of the tower's learning rate. Raising the rate again helps the small shapes."""
    steps: tuple[int, ...] = (2000,)
    """Steps of each cycle of the decoder's learning rate."""
    revision: int = 400
    """How many of them, the last ones, have more of the questions that are learned last."""
    vision_batch: int = 16
    batch: int = 32
    text: int = 100
    """Tokens of description and questions per image and step."""
    vision_rate: float = 2.0e-3
    rate: float = 2.0e-3
    warm_up: int = 50
    precision: str = "bfloat16"


SETTINGS: dict[str, Settings] = {
    "qwen": Settings(
        scenes=6000,
        vision_steps=(400, 300),
        vision_batch=24,
        steps=(700,),
        revision=250,
        batch=20,
        vision_rate=1e-3,
        rate=1e-3,
    ),
    "gemma": Settings(),
    "paligemma": Settings(
        scenes=6000, vision_steps=(400,), steps=(180, 1000), revision=400, batch=24, vision_rate=1e-3, rate=1e-3
    ),
    "deep": Settings(
        scenes=10_000,
        vision_steps=(300, 450, 600, 600),
        steps=(400, 700, 1000, 600, 1200),
        revision=1500,
        batch=12,
        text=110,
        vision_rate=0.7e-3,
        rate=1.2e-3,
    ),
}
"""What each architecture's model is trained with."""


@dataclass(frozen=True)
class Pool:
    """Training scenes of one size."""

    images: torch.Tensor  # uint8 (N, 3, height, width)
    labels: torch.Tensor  # int8 (N, patches, aspects)
    things: list[tuple[Thing, ...]]


def _draw(
    seed: int, draw: Callable[[int], Scene], cell: int, aspects: tuple[str, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.int8], tuple[Thing, ...]]:
    scene = draw(seed)
    labels = patch_labels(scene.objects, cell, scene.image.size, aspects).astype(np.int8)  # keeps IGNORE, which is -100
    things = tuple(Thing(o.colour, o.shape, o.size, o.place, o.pattern) for o in scene.objects)
    return np.asarray(scene.image).transpose(2, 0, 1), labels, things


def draw_pools(architecture: Architecture, count: int, seed: int) -> list[Pool]:
    """`count` training scenes, those of one size together. Different `seed`s share none."""
    first = TRAINING_SEEDS.start + seed * 10_000_000
    sizes = architecture.sizes
    draw = partial(_draw, draw=architecture.draw, cell=architecture.cell, aspects=architecture.aspects)
    scenes = list(map(draw, range(first, first + count)))
    pools = []
    for at in range(len(sizes)):
        images, labels, things = zip(*scenes[at :: len(sizes)], strict=True)
        pools.append(Pool(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), list(things)))
    return pools


class EmbedHead(nn.Module):
    """Reads the aspects of each patch off what the decoder sees of it. Used for training only."""

    def __init__(self, width: int, aspects: tuple[str, ...]) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.classes = [ALL_ASPECTS[aspect] for aspect in aspects]
        self.out = nn.Linear(width, sum(self.classes))

    def forward(self, embeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, patches, width) to one (B, patches, classes) per aspect."""
        scores: torch.Tensor = self.out(self.norm(embeds))
        return scores.split(self.classes, dim=-1)


@torch.no_grad()
def set_loudness(architecture: Architecture, model: nn.Module, images: torch.Tensor) -> None:
    """Scale image embeddings to a root mean square of one."""
    loud = architecture.image_embeds(model, images).square().mean().sqrt()
    weights = dict(model.named_parameters())
    for name in architecture.loudness:
        weights[name].div_(loud)


def train(
    architecture: Architecture,
    settings: Settings,
    out: Path,
    device: torch.device,
    *,
    log_every: int = 50,
) -> Path:
    """Run both stages and write the model's folder, `out`/checkpoint, which is returned.

    The state to go on from after an interruption is kept in `out`.
    """
    torch.manual_seed(settings.seed)
    tokenizer = architecture.tokenizer()
    model = architecture.model(tokenizer).to(device)
    if architecture.start is not None:
        architecture.start(model, tokenizer)
    attend_in_float32(model)
    width = model.get_input_embeddings().embedding_dim
    head = EmbedHead(width, architecture.aspects).to(device)
    training = Training(out, asdict(settings), {"model": model, "head": head}, device, settings.precision, log_every)
    training.say(f"drawing {settings.scenes} scenes")
    pools = draw_pools(architecture, settings.scenes, settings.seed)
    encoders = [architecture.encoder(tokenizer, architecture.grid(size)) for size in architecture.sizes]
    named = list(model.named_parameters())
    vision = [(name, weight) for name, weight in named if name.startswith(architecture.vision)]
    language = [(name, weight) for name, weight in named if not name.startswith(architecture.vision)]

    def scenes_of(step: int, batch: int) -> tuple[int, NDArray[np.int64]]:
        """One size and scenes of it."""
        number, round_ = step % len(pools), step // len(pools)
        return number, chosen(round_, len(pools[number].things), batch, settings.seed)

    code = None if architecture.code is None else architecture.code(architecture.aspects).to(device)

    def see(step: int) -> tuple[torch.Tensor, str]:
        number, rows = scenes_of(step, settings.vision_batch)
        pool = pools[number]
        embeds = architecture.image_embeds(model, pool.images[rows].to(device))
        labels = pool.labels[rows].to(device, torch.int64)
        loss, right = vision_loss(head(embeds), labels)
        if code is not None:
            loss = loss + code_loss(embeds, labels, architecture.aspects, code)
        shares = "  ".join(f"{a} {100 * share:.1f}" for a, share in zip(architecture.aspects, right, strict=True))
        return loss, f"right %: {shares}"

    head_weights = [(f"head.{name}", weight) for name, weight in head.named_parameters()]
    factors = schedules(settings.vision_steps, settings.warm_up)
    training.stage("vision", [*vision, *head_weights], factors, see, rate=settings.vision_rate)
    if training.once("loudness"):
        set_loudness(architecture, model, pools[0].images[:64].to(device))

    with torch.no_grad():
        seen = [
            torch.cat([architecture.image_embeds(model, part.to(device)).half() for part in pool.images.split(64)])
            for pool in pools
        ]
    training.say("embeddings computed")

    def talk(step: int) -> tuple[torch.Tensor, str]:
        number, rows = scenes_of(step, settings.batch)
        rng = np.random.default_rng([settings.seed, 4, step])
        mix = LEARNING if step < sum(settings.steps) - settings.revision else REVISION
        encoder = encoders[number]
        segments = [
            choose_segments(pools[number].things[i], encoder, settings.text, rng, mix, architecture.language)
            for i in rows
        ]
        if architecture.one_prompt:  # mostly a description, which comes first
            segments = [[each[max(0, int(rng.integers(-len(each), len(each))))]] for each in segments]
        longest = max(sum(map(len, each)) for each in segments)
        packed = pack(segments, encoder, len(encoder.prefix) + longest).to(device)
        embeds = seen[number][rows].float()
        return answer_loss(model, embeds, packed, encoder.image, architecture.hidden), ""

    def watch() -> str:
        model.eval()
        processor = architecture.processor(tokenizer)
        figures = measure(model, processor, WATCHED_SEEDS[:8], device, architecture.draw, architecture.language)
        model.train()
        return summary(figures)

    factors = schedules(settings.steps, settings.warm_up)
    training.stage("language", language, factors, talk, rate=settings.rate, watch=watch)
    said = command(f"{MODULE} {architecture.name}", settings, SETTINGS[architecture.name])
    return write_folder(model.eval(), architecture.processor(tokenizer), out / "checkpoint", said, settings, training)


def main(arguments: list[str]) -> None:
    """The command line: the architecture's name first."""
    if not arguments or arguments[0] not in ARCHITECTURES:
        sys.exit(f"usage: python -m dexar_fast.demo.train_scenes {{{','.join(ARCHITECTURES)}}} --out FOLDER")
    name = arguments[0]
    run(SETTINGS[name], partial(train, ARCHITECTURES[name]), f"{MODULE} {name}", __doc__, arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
