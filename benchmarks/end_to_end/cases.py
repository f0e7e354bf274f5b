"""What is measured: models of which shape, with how many image tokens, and answers of which length."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from .. import models

# How to make a model, given the device and the attention.
SHAPES: dict[str, Any] = {
    "tiny": partial(models.llava, layers=2, width=64, heads=2, intermediate=96),
    "tiny-qwen": partial(models.qwen2_5_vl, layers=2, width=64, heads=2, kv_heads=1, intermediate=96),
    "mid": models.llava,
    "LLaVA-1.5-7B": partial(
        models.llava,
        layers=32,
        width=4096,
        heads=32,
        intermediate=11008,
        dtype=torch.bfloat16,
        vision_layers=24,
        vision_width=1024,
    ),
    "Qwen2.5-VL-7B": partial(
        models.qwen2_5_vl, layers=28, width=3584, heads=28, kv_heads=4, intermediate=18944, dtype=torch.bfloat16
    ),
}


@dataclass(frozen=True)
class Case:
    """One answer of one model.

    Attributes:
        shape: a key of `SHAPES`.
        image_tokens, answer_tokens: N and T.
        attention: "sdpa", or "flash" for a FlashAttention kernel that transformers finds installed.
        generation: "whole", or "sampled": estimated from some steps at its beginning and end.
        blocks: of the streams that are measured.
        naive: "whole": the naive method is run, and results are compared with its own; "last token": that alone, for
            its peak memory; "" where it takes too long.
    """

    shape: str
    image_tokens: int
    answer_tokens: int
    attention: str = "sdpa"
    generation: str = "whole"
    blocks: tuple[int, ...] = ()
    naive: str = ""

    @property
    def id(self) -> str:
        return f"{self.shape}-N{self.image_tokens}-T{self.answer_tokens}-{self.attention}"

    def facts(self) -> dict[str, Any]:
        """What a row of results says about its case."""
        return asdict(self)


def _gpu_cases() -> tuple[Case, ...]:
    llava, qwen = "LLaVA-1.5-7B", "Qwen2.5-VL-7B"
    of_llava = [(576, 128), (576, 512), (576, 2048), (576, 8192)]
    of_qwen = [(576, 128), (576, 512), (4096, 512), (4096, 2048), (16384, 512), (16384, 8192)]
    return (
        Case(llava, 576, 32, naive="whole", blocks=(16,)),
        *(Case(llava, N, T, generation="sampled") for N, T in of_llava),
        Case(llava, 576, 512, attention="flash", generation="sampled"),
        *(Case(qwen, N, T, generation="sampled") for N, T in of_qwen),
        *(Case(qwen, N, T, attention="flash", generation="sampled") for N, T in of_qwen[3:]),
    )


# By shape and attention, so that each model is made once.
SETS: dict[str, tuple[Case, ...]] = {
    "tiny": (
        Case("tiny", 576, 3, naive="whole", blocks=(2, 1)),
        Case("tiny", 576, 5, generation="sampled"),
        Case("tiny-qwen", 16, 4, generation="sampled", blocks=(2,)),
        Case("tiny-qwen", 16, 4, attention="flash"),
    ),
    "cpu": (
        Case("mid", 576, 8, naive="whole"),
        Case("mid", 576, 32, naive="whole", blocks=(16,)),
        Case("mid", 576, 128, naive="whole", blocks=(16, 1)),
        Case("mid", 576, 512, naive="last token", blocks=(16,)),
        Case("mid", 576, 2048),
    ),
    "gpu": _gpu_cases(),
}
