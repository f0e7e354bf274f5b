"""What "dexar-focus" owes to each of its parts: the same rule with one of them left out.

The parts of every layer come from runs over that layer alone, where depth is 1; `docs/method.md` has the symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.focus import FLOOR, FocusAccumulator, density, focus_of, ratio
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
        did, attention: ``(L, T, N)``, focus(E_l) E_l and A.
        strength, support: ``(L, T)``, a, and of it what speaks for the token.
    """

    did: Tensor
    attention: Tensor
    strength: Tensor
    support: Tensor


@dataclass(frozen=True)
class Rule:
    """The rule of the method, or with one part changed.

    Attributes:
        gate: "own" is g, "focus" is g with u = 1/2; "read", "did", "half" are 1, 0 and 1/2 for every token.
        product: what was read counts by what it did.
        against: layers count by what their reading moves, also against the token; else by what speaks for it.
        focus: what a layer did counts by its focus.
        depth: late layers count more.
        common: what is taken off as read alike: the "geometric" mean over tokens, the "arithmetic" one, or "none".
    """

    gate: str = "own"
    product: bool = True
    against: bool = True
    focus: bool = True
    depth: bool = True
    common: str = "geometric"


VARIANTS: dict[str, Rule] = {
    f"{FOCUS}, only read (g = 1)": Rule(gate="read"),
    f"{FOCUS}, only did (g = 0)": Rule(gate="did"),
    f"{FOCUS}, g = 1/2": Rule(gate="half"),
    f"{FOCUS}, g without u": Rule(gate="focus"),
    f"{FOCUS}, R not by E": Rule(product=False),
    f"{FOCUS}, a of what speaks for": Rule(against=False),
    f"{FOCUS}, E without focus": Rule(focus=False),
    f"{FOCUS}, no depth (d = 1/2)": Rule(depth=False),
    f"{FOCUS}, no contrast (M = 0)": Rule(common="none"),
    f"{FOCUS}, M the arithmetic mean": Rule(common="arithmetic"),
}


def focus_map(parts: Parts, rule: Rule = Rule()) -> Tensor:
    """The maps ``(T, N)`` by the rule, each a density."""
    A, a = parts.attention, parts.strength if rule.against else parts.support
    L, T, N = A.shape
    d = torch.linspace(0, 1, L).double() if L > 1 else torch.ones(1).double()
    d = d if rule.depth else torch.full_like(d, 0.5)
    shares = a * focus_of(A, N) * d[:, None]  # [L, T]
    M = {
        "geometric": A.clamp(min=FLOOR).log().mean(1, keepdim=True).exp(),
        "arithmetic": A.mean(1, keepdim=True),
        "none": torch.zeros_like(A[:, :1]),
    }[rule.common]
    read = (shares[..., None] * (A - (1 - 1 / T) * M)).sum(0).clamp(min=0)
    did = parts.did
    if not rule.focus:  # a map's focus is that of any multiple of it
        of_layers = focus_of(did, N)[..., None]
        did = did / of_layers.where(of_layers > 0, 1)
    did = density(did.sum(0))
    if rule.product:
        read = read * (did + 2 / N)
    h = ratio(shares.sum(0), a.sum(0))
    u = 1 - ratio(parts.support.sum(0), parts.strength.sum(0))
    if rule.gate == "focus":
        u = torch.full_like(u, 0.5)
    for_read, for_did = (3 * h) ** 2 * u, (1 - h) ** 2 * (1 - u)
    fixed = {"read": 1.0, "did": 0.0, "half": 0.5}
    g = torch.full_like(h, fixed[rule.gate]) if rule.gate in fixed else ratio(for_read, for_read + for_did)
    return density((1 - g[:, None]) * did + g[:, None] * density(read))


def parts_of(explainer: Explainer, sample: Sample) -> tuple[Parts, Explanation]:
    """The parts of a sample's answer, and its explanation by the method as it is."""
    plain = explainer.explain(sample.image, sample.prompt, sample.answer, method=FOCUS)
    dids, attentions, strengths, supports = [], [], [], []
    for layer in plain.layers:
        options = explainer.options(method=FOCUS, layers=[layer])
        encoded = explainer.encoded([sample.image], sample.prompt, plain.answer, options)
        _, sums = explainer.run(encoded, options)
        assert isinstance(sums, FocusAccumulator)
        share = sums.shares.double()  # a f of the one layer; where it is 0, A adds nothing
        dids.append(sums.did.double())
        attentions.append(sums.read.double() / share.where(share > 0, 1))
        strengths.append(sums.strengths.double().sum(dim=1))
        supports.append(sums.image_scores.double().sum(dim=(1, 2)))
    did, attention, strength, support = (torch.stack(of).cpu() for of in (dids, attentions, strengths, supports))
    return Parts(did, attention, strength, support), plain


def variants(explainer: Explainer, sample: Sample) -> Iterator[tuple[str, Explanation]]:
    """A sample explained by the method and by every variant of it."""
    parts, plain = parts_of(explainer, sample)
    yield FOCUS, plain
    options = explainer.options(method=FOCUS)
    request = explainer.request(explainer.encoded([sample.image], sample.prompt, plain.answer, options), options)
    for name, rule in VARIANTS.items():
        cells = request.layout.to_cells(focus_map(parts, rule).to(request.answer_ids.device))
        yield name, with_token_maps(plain, cells)
