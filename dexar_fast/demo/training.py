"""What all trainings share: steps with a schedule of the learning rate, a log, and a state to go on from."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SAVE_EVERY = 120.0
"""Seconds between two states."""
APART = ("embed", "lm_head", "output_projection", "position", "head.")
"""Parts of the names of matrices that are tables or outputs; AdamW trains them."""


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to a hundredth."""
    warm_up = min(warm_up, max(1, steps // 4))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def schedules(cycles: Sequence[int], warm_up: int) -> list[float]:
    """The factor of every step, cycle after cycle."""
    return [schedule(step, steps, warm_up) for steps in cycles for step in range(steps)]


def cut_short(factors: Sequence[float], stop: int, settle: int) -> list[float]:
    """The factors up to step `stop`, then straight down to nothing in `settle` steps."""
    last = factors[stop - 1]
    return [*factors[:stop], *(last * (1 - step / settle) for step in range(settle))]


def optimizers_of(
    named: Iterable[tuple[str, nn.Parameter]], rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for tables, outputs, convolutions, norms and biases.

    Muon (https://kellerjordan.github.io/posts/muon/) needs about half of AdamW's steps here. Its updates are scaled
    to AdamW's size, so that both take one rate.
    """
    named = list(named)
    inner = [p for name, p in named if p.ndim == 2 and not any(part in name for part in APART)]
    chosen = {id(p) for p in inner}
    rest = [p for _, p in named if id(p) not in chosen]
    decays = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(decays, lr=rate, betas=(0.9, 0.98)),
    ]


def float32_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *given: Any, **named: Any
) -> tuple[torch.Tensor, None]:
    """Attention in float32 where the rest is in half precision: on a CPU its backward pass is several times faster."""
    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), *given, **named)


def attend_in_float32(model: PreTrainedModel) -> None:
    """Let a model use `float32_attention`. Its folder does not remember."""
    AttentionInterface.register("sdpa_float32", float32_attention)
    AttentionMaskInterface.register("sdpa_float32", sdpa_mask)
    model.set_attn_implementation("sdpa_float32")


class Training:
    """Stages of steps on some modules, one after the other; an interrupted run goes on where it was.

    Args:
        out: folder of the state file.
        settings: what determines the weights. A state of other settings is refused.
        modules: everything that is trained, by name.
        device: where they are.
        precision: name of the dtype of matrix products; weights, sums and losses stay float32.
        log_every: steps between two lines of the log.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        modules: Mapping[str, nn.Module],
        device: torch.device,
        precision: str,
        log_every: int = 50,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.settings, self.modules, self.device, self.log_every = dict(settings), modules, device, log_every
        self.dtype: torch.dtype = getattr(torch, precision)
        self.path = out / "state.pt"
        self.started = time.monotonic()
        self.spent = 0.0  # seconds of earlier runs that this one goes on from
        self.done: list[str] = []  # stages
        self.state: dict[str, Any] = {}
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        self.state = torch.load(self.path, map_location=self.device, weights_only=True)
        if self.state["settings"] != self.settings:
            raise ValueError(f"{self.path} was written with other settings: {self.state['settings']}")
        for name, module in self.modules.items():
            module.load_state_dict(self.state["modules"][name])
        self.spent, self.done = self.state["seconds"], list(self.state["done"])

    def seconds(self) -> float:
        """Seconds spent, those before interruptions included."""
        return self.spent + time.monotonic() - self.started

    def say(self, message: str) -> None:
        print(f"{self.seconds():7.0f} s  {message}", flush=True)

    def mixed(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def stage(
        self,
        name: str,
        trained: Iterable[tuple[str, nn.Parameter]],
        factors: Sequence[float],
        loss_of: Callable[[int], tuple[torch.Tensor, str]],
        *,
        rate: float,
        weight_decay: float = 0.01,
        watch: Callable[[], str] | None = None,
    ) -> None:
        """Take one step for each factor of the learning rate.

        Args:
            name: of the stage, once per training.
            trained: names and parameters; all others stay.
            factors: of the rate, one per step.
            loss_of: the loss of a step, which depends on nothing but its number and the modules, and a remark.
            rate, weight_decay: of the optimizers.
            watch: how the model does; its words are logged with every fifth state.
        """
        if name in self.done:
            return
        trained = list(trained)
        parameters = [parameter for _, parameter in trained]
        optimizers = optimizers_of(trained, rate, weight_decay)
        start = 0
        if self.state.get("stage") == name:
            start = self.state["step"]
            for optimizer, kept in zip(optimizers, self.state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
        self.state = {}
        saved, states, running = time.monotonic(), 0, 0.0
        for step in range(start, len(factors)):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * factors[step]
                optimizer.zero_grad()
            with self.mixed():
                loss, remark = loss_of(step)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            running += loss.item()
            if (step + 1) % self.log_every == 0:
                self.say(f"{name} {step + 1}/{len(factors)}  loss {running / self.log_every:.4f}  {remark}")
                running = 0.0
            if time.monotonic() - saved > SAVE_EVERY:
                self._save(name, step + 1, optimizers)
                saved, states = time.monotonic(), states + 1
                if watch is not None and states % 5 == 0:
                    self.say(watch())
        self.done.append(name)
        self._save("", 0, [])
        if watch is not None:
            self.say(watch())

    def once(self, name: str) -> bool:
        """Whether a change between two stages is still to be made; it is counted as made when the next state is."""
        if name in self.done:
            return False
        self.done.append(name)
        return True

    def _save(self, stage: str, step: int, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        state = {"settings": self.settings, "seconds": self.seconds(), "done": self.done, "stage": stage,
                 "step": step, "modules": {name: module.state_dict() for name, module in self.modules.items()},
                 "optimizers": [optimizer.state_dict() for optimizer in optimizers]}  # fmt: skip
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)


def chosen(step: int, count: int, batch: int, seed: int) -> NDArray[np.int64]:
    """Which of `count` pictures a step trains on: every picture once per round, in another order each round."""
    steps = count // batch
    order = np.random.default_rng([seed, 3, step // steps]).permutation(count)
    at = (step % steps) * batch
    return order[at : at + batch]
