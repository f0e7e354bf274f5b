"""What "dexar-focus" owes to each of its parts: the same rule with one of them left out.

The parts of every layer come from runs over that layer alone, where depth is 1; `docs/method.md` has the symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.focus import FLOOR, FocusAccumulator
from ..inputs.methods import FOCUS
from ..result.explanation import Explanation
from .combine import with_token_maps
from .data import Sample

if TYPE_CHECKING:
    from ..explainer import Explainer


@dataclass(frozen=True)
class Parts:
    """Of T tokens in L layers on N image keys, float64.

    Attributes:
        did, attention: ``(L, T, N)``, a layer's share of E, and A.
        evidence: ``(L, T)``, s.
    """

    did: Tensor
    attention: Tensor
    evidence: Tensor


@dataclass(frozen=True)
class Rule:
    """The rule of the method, or with one part changed.

    Attributes:
        gate: "focus" is g, "linear" is h in its place; "read", "did", "half" are 1, 0 and 1/2 for every token.
        product: what was read counts by what it did.
        depth: late layers count more.
        common: what is taken off as read alike: the "geometric" mean over tokens, the "arithmetic" one, or "none".
    """

    gate: str = "focus"
    product: bool = True
    depth: bool = True
    common: str = "geometric"


VARIANTS: dict[str, Rule] = {
    f"{FOCUS}, only read (g = 1)": Rule(gate="read"),
    f"{FOCUS}, only did (g = 0)": Rule(gate="did"),
    f"{FOCUS}, g = 1/2": Rule(gate="half"),
    f"{FOCUS}, g = h": Rule(gate="linear"),
    f"{FOCUS}, R not by sqrt(E)": Rule(product=False),
    f"{FOCUS}, no depth (d = 1)": Rule(depth=False),
    f"{FOCUS}, no contrast (M = 0)": Rule(common="none"),
    f"{FOCUS}, M the arithmetic mean": Rule(common="arithmetic"),
}


def focus_map(parts: Parts, rule: Rule = Rule()) -> Tensor:
    """The maps ``(T, N)`` by the rule, each a density."""
    A, s = parts.attention, parts.evidence
    L, T, N = A.shape
    squares = A.square().sum(-1)
    f = (1 - A.sum(-1).square() / (N * squares.where(squares > 0, 1))).where(squares > 0, 0)
    d = 2 * torch.arange(L).double() / (L - 1) if rule.depth and L > 1 else torch.ones(L).double()
    shares = s * f * d[:, None]  # [L, T]
    M = {
        "geometric": A.clamp(min=FLOOR).log().mean(1, keepdim=True).exp(),
        "arithmetic": A.mean(1, keepdim=True),
        "none": torch.zeros_like(A[:, :1]),
    }[rule.common]
    read = (shares[..., None] * (A - (1 - 1 / T) * M)).sum(0).clamp(min=0)
    did = density(parts.did.sum(0))
    if rule.product:
        read = read * (did + 1 / N).sqrt()
    total = s.sum(0)
    h = (shares.sum(0) / total.where(total > 0, 1)).clamp(max=1)
    g = {
        "focus": h**3 / (h**3 + (1 - h) ** 3),
        "linear": h,
        "read": torch.ones_like(h),
        "did": torch.zeros_like(h),
        "half": torch.full_like(h, 0.5),
    }[rule.gate][:, None]
    return density((1 - g) * did + g * density(read))


def density(maps: Tensor) -> Tensor:
    """Every row over its sum; a row of zeros stays."""
    total = maps.sum(dim=-1, keepdim=True)
    return maps / total.where(total > 0, 1)


def parts_of(explainer: Explainer, sample: Sample) -> tuple[Parts, Explanation]:
    """The parts of a sample's answer, and its explanation by the method as it is."""
    plain = explainer.explain(sample.image, sample.prompt, sample.answer, method=FOCUS)
    dids, attentions, evidences = [], [], []
    for layer in plain.layers:
        options = explainer.options(method=FOCUS, layers=[layer])
        encoded = explainer.encoded([sample.image], sample.prompt, plain.answer, options)
        _, sums = explainer.run(encoded, options)
        assert isinstance(sums, FocusAccumulator)
        share = sums.shares.double()  # s f of the one layer; where it is 0, A adds nothing
        dids.append(sums.did.double())
        attentions.append(sums.read.double() / share.where(share > 0, 1))
        evidences.append(sums.image_scores.double().sum(dim=(1, 2)))
    return Parts(torch.stack(dids).cpu(), torch.stack(attentions).cpu(), torch.stack(evidences).cpu()), plain


def variants(explainer: Explainer, sample: Sample) -> Iterator[tuple[str, Explanation]]:
    """A sample explained by the method and by every variant of it."""
    parts, plain = parts_of(explainer, sample)
    yield FOCUS, plain
    options = explainer.options(method=FOCUS)
    request = explainer.request(explainer.encoded([sample.image], sample.prompt, plain.answer, options), options)
    for name, rule in VARIANTS.items():
        cells = request.layout.to_cells(focus_map(parts, rule).to(request.answer_ids.device))
        yield name, with_token_maps(plain, cells)
