"""Two vision-language models as a researcher writes them, without transformers, and how each is described."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dexar_fast.models import ModuleParts, projections

VOCABULARY, WIDTH, HEADS, GRID, PATCH = 50, 16, 4, (2, 3), 12


class Attention(nn.Module):
    """Causal, with two key and value heads for four of the query."""

    def __init__(self, scale: float = (WIDTH // HEADS) ** -0.5) -> None:
        super().__init__()
        self.scale = scale
        self.q, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        width = WIDTH // HEADS
        q, k, v = (f(x).unflatten(-1, (-1, width)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        p = (q @ k.mT * self.scale).masked_fill(future, -torch.inf).softmax(-1)
        return self.o((p @ v).transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, **attention: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention(**attention)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class DecoderOnly(nn.Module):
    """Patches of the image in front of the text."""

    def __init__(self, **attention: float) -> None:
        super().__init__()
        self.patches, self.tokens = nn.Linear(PATCH, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(40, WIDTH)
        self.layers = nn.ModuleList(Layer(**attention) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, patches: Tensor, ids: Tensor) -> Tensor:
        x = torch.cat((self.patches(patches), self.tokens(ids)), dim=1)
        x = x + self.places.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def run_decoder_only(model: DecoderOnly, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Tensor:
    return model(inputs["patches"], torch.cat((inputs["ids"], answer_ids[None]), dim=1))


def patches_and_text(inputs: Mapping[str, Tensor]) -> Tensor:
    return torch.cat((torch.full((1, GRID[0] * GRID[1]), -1), inputs["ids"]), dim=1)


DECODER_ONLY = ModuleParts(
    layers="layers",
    attention="attention",
    projection="o",
    read=projections("q", "k", "v", heads=HEADS),
    final_norm="norm",
    head="head",
    run=run_decoder_only,
    grid=GRID,
    inputs=("patches", "ids"),
    sequence=patches_and_text,
)


class CrossLayer(nn.Module):
    """Norms behind attention, as in the first Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = self.norms[0](x + self.own(x, x, x, attn_mask=future, need_weights=False)[0])
        x = self.norms[1](x + self.cross(x, memory, memory, need_weights=False)[0])
        return self.norms[2](x + self.mlp(x))


class EncoderDecoder(nn.Module):
    """An encoder over patches and question (or patches alone), a decoder that begins with token 1 and reads across."""

    def __init__(self, *, reads_text: bool = True) -> None:
        super().__init__()
        self.reads_text = reads_text
        self.patches, self.tokens = nn.Linear(PATCH, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.decoder = nn.ModuleList(CrossLayer() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def encode(self, patches: Tensor, question: Tensor) -> Tensor:
        x = self.patches(patches)
        return self.encoder(torch.cat((self.tokens(question), x), dim=1) if self.reads_text else x)

    def forward(self, patches: Tensor, question: Tensor, answer: Tensor) -> Tensor:
        memory = self.encode(patches, question)
        x = self.tokens(torch.cat((torch.ones(1, 1, dtype=torch.int64), answer), dim=1))
        for layer in self.decoder:
            x = layer(x, memory)
        return self.head(x)


def run_encoder_decoder(model: EncoderDecoder, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Tensor:
    return model(inputs["patches"], inputs["ids"], answer_ids[None])


def text_and_patches(inputs: Mapping[str, Tensor]) -> Tensor:
    return patches_and_text(inputs).roll(-GRID[0] * GRID[1], dims=1)


ENCODER_DECODER = ModuleParts(
    layers="decoder",
    attention="cross",
    constant=("own",),
    final_norm=None,
    head="head",
    run=run_encoder_decoder,
    grid=GRID,
    inputs=("patches", "ids"),
    sequence=text_and_patches,
    keys="encoder",
)


def inputs(n_text: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "patches": torch.randn(1, GRID[0] * GRID[1], PATCH, generator=generator, dtype=torch.float64),
        "ids": torch.randint(2, VOCABULARY, (1, n_text), generator=generator),
    }
