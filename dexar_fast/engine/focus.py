"""The method "dexar-focus": what a token looked at, and what that did, in the proportion that the token itself tells.

Per token t: x of head i is ``P (G - mean of G over the N image keys)``, what reading an image key rather than the
average one did for the score, and ``dS = P (G - D)`` the gradient before the softmax. A_l is the attention of layer l,
summed over its heads. Of a map m, ``focus(m) = 1 - sum(m)^2 / (N sum(m^2))``: 0 if it is even, near 1 if it is one key.

    E_l = sum over i of max(relu(dS_i)) * relu(x_i)
    did  E = sum over l of focus(E_l) E_l, as a density
    read R = relu(sum over l of a_l f_l d_l (A_l - (1 - 1/T) M_l)) * (E + 2/N), as a density
    h      = sum over l of a_l f_l d_l / sum over l of a_l              how late and how closely the token looks
    u      = 1 - sum over l, i of max(relu(x_i)) / sum over l of a_l    how much of what it reads speaks against it
    g / (1 - g) = (3 h / (1 - h))^2 * u / (1 - u)
    map    = (1 - g) E + g R
    answer map = sum over t of h_t map_t

    a_l = sum over i of max |x_i|   how much the layer's attention to the image moves the score, to either side
    f_l = focus(A_l)
    d_l                             depth: from 0 at the first layer to 1 at the last
    M_l = exp(mean over the T tokens of log A_l)    what all tokens look at alike

``docs/method.md`` says why. The sums run over layers and chunks of rows; only M_l has to wait for the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..inputs.methods import METHODS
from ..inputs.options import Options
from ..ops import KeySets, MapSums, accumulator, score_and_accumulate_all
from ..ops.keys import IMAGE, PackedKeys
from .aggregate import Accumulator, attention_of
from .answer_pass import LayerGradient

FLOOR = 1e-12
"""Attention below this counts as this much in the geometric mean: a key that a token does not see is no zero there."""


@dataclass
class _Common:
    """What M follows from: ``logs`` of each layer ``(B, N)``, sums over ``count`` tokens of each of B samples."""

    logs: dict[int, Tensor]
    count: Tensor

    def plus(self, other: _Common) -> _Common:
        logs = {layer: self.logs[layer] + other.logs[layer] for layer in self.logs}
        return _Common(logs, self.count + other.count)


class FocusAccumulator(Accumulator):
    """Takes one layer after the other; see the module. `maps` are ``(T, N)``, not negative, and sum to one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        last = len(self.layers) - 1
        # Only behind the last layer is the score the model's own logit: what is read late is read for this word.
        self._depth = {layer: k / last if last else 1.0 for k, layer in enumerate(self.layers)}
        self._read: Tensor | None = None  # (T, N), sum over layers of a f d A
        self._shares: dict[int, Tensor] = {}  # of each layer a f d, (T,)
        self._common: dict[int, _Common] = {}  # by the first row of the chunk: a chunk may run again
        self._before: _Common | None = None
        self._textless: tuple[KeySets, KeySets] | None = None  # of the last layer, for the next one of its kind

    def begin(self, rows: slice) -> None:
        super().begin(rows)
        if self._read is not None:
            self._read[self._own(rows)] = 0
        self._common.pop(rows.start, None)

    def follow(self, earlier: Accumulator) -> None:
        super().follow(earlier)
        assert isinstance(earlier, FocusAccumulator)
        self._before = earlier._looked_at if earlier._before is None else earlier._before.plus(earlier._looked_at)

    @property
    def did(self) -> Tensor:
        """E before it is made a density, ``(T, N)``."""
        return self._sums

    @property
    def read(self) -> Tensor:
        """``sum over l of a_l f_l d_l A_l``, ``(T, N)``: what was read, before anything is taken off."""
        if self._read is None:
            raise RuntimeError("no layer was added")
        return self._read

    @property
    def shares(self) -> Tensor:
        """``a_l f_l d_l`` of each layer, ``(T, L)``."""
        return torch.stack(list(self._shares.values()), dim=1)

    @property
    def strengths(self) -> Tensor:
        """``a_l`` of each layer, ``(T, L)``."""
        return _strength(self.image_scores, self.image_minima)

    @property
    def maps(self) -> Tensor:
        """``(T, N)``; rows of zeros where nothing on the image moves the token's score.

        Raises:
            RuntimeError: no layer was added.
        """
        shares = self.shares
        common = self._looked_at if self._before is None else self._looked_at.plus(self._before)
        count, did = float(common.count[0]), density(self.did)
        alike = torch.stack([(common.logs[layer][0] / count).exp() for layer in self._shares])  # [L, N]
        read = torch.addmm(self.read, shares, alike, alpha=1 / count - 1).clamp(min=0)
        read *= did + 2 / self.n_image_keys
        g = self._share_of_read[:, None]
        return density((1 - g) * did + g * density(read))

    @property
    def token_weights(self) -> Tensor:
        """h of each token, ``(T,)``, in [0, 1]: how late and how closely it looks."""
        return ratio(self.shares.sum(dim=1), self.strengths.sum(dim=1))

    @property
    def _share_of_read(self) -> Tensor:
        """g, ``(T,)``."""
        strength, h = self.strengths.sum(dim=1), self.token_weights
        u = ratio((strength - self.image_scores.sum(dim=(1, 2))).clamp(min=0), strength)
        for_read, for_did = (3 * h) ** 2 * u, (1 - h) ** 2 * (1 - u)
        return ratio(for_read, for_read + for_did)

    def _add(self, gradient: LayerGradient, keys: KeySets) -> None:
        assert self._maps is not None
        call, rows = gradient.attention, self._own(gradient.rows)
        if self._read is None:
            self._read = torch.zeros_like(self._maps)
        if self._textless is None or self._textless[0] is not keys:
            without_text = KeySets(keys.image, torch.zeros_like(keys.text), keys.visible, keys.rows)
            self._textless = keys, without_text
        packed = self._textless[1].packed
        value, means = centred(call.value, packed)
        attention = attention_of(gradient)
        # Less the same mean, so that G - D and with it dS stay what they are.
        out = attention.out - means.repeat_interleave(attention.out.shape[1] // means.shape[1], dim=1)
        attention = attention._replace(out=out.to(attention.out.dtype))
        did, unused, read = (torch.zeros_like(self._maps[rows]) for _ in range(3))
        of_did, of_read = self.method.pairs
        sums = [MapSums(*of_did, did), MapSums(*of_read, unused, unfiltered=read)]
        _, scores = score_and_accumulate_all(
            gradient.d_out, value, self._textless[1], sums, attention=attention, backend=self.backend
        )
        self._keep_scores(call.layer, rows, scores)
        n_keys = _of_rows((packed.image >= 0).sum(dim=1), packed.rows)
        self._maps[rows] += focus_of(did, n_keys)[:, None] * did
        strength = _strength(scores.image, scores.image_min)
        share = self._depth[call.layer] * strength * focus_of(read, n_keys)
        if call.layer not in self._shares:
            self._shares[call.layer] = share.new_zeros(self.rows.stop - self.rows.start)
        self._shares[call.layer][rows] = share
        self._read[rows] += share[:, None] * read
        logs = torch.stack([one.sum(dim=0) for one in read.clamp(min=FLOOR).log().split(packed.rows)])
        chunk = self._common.setdefault(gradient.rows.start, _Common({}, torch.tensor(packed.rows)))
        chunk.logs[call.layer] = logs

    @property
    def _looked_at(self) -> _Common:
        """Of all rows."""
        first, *others = self._common.values()
        for other in others:
            first = first.plus(other)
        return first

    def _join(self, parts: Sequence[Self]) -> None:
        super()._join(parts)
        self._read = torch.cat([part._read for part in parts if part._read is not None])
        self._shares = {layer: torch.cat([part._shares[layer] for part in parts]) for layer in parts[0]._shares}
        self._common = {part.rows.start: part._looked_at for part in parts}

    def _take(self, whole: Self, sample: int, rows: slice) -> None:
        super()._take(whole, sample, rows)
        assert whole._read is not None
        self._read = whole._read[rows, : self.n_image_keys]
        self._shares = {layer: share[rows] for layer, share in whole._shares.items()}
        common, one = whole._looked_at, slice(sample, sample + 1)
        logs = {layer: of_samples[one, : self.n_image_keys] for layer, of_samples in common.logs.items()}
        self._common = {0: _Common(logs, common.count[one])}


def make_accumulator(options: Options, rows: slice, n_image_keys: int, backend: str) -> Accumulator:
    """One for the first of the options' own methods, with those of the others beside it."""
    made = {}
    for name in options.methods:
        if name in METHODS:
            method = METHODS[name]
            kind = Accumulator if method.filters_heads else FocusAccumulator
            made[name] = kind(
                rows,
                n_image_keys,
                layers=options.layers,
                method=method,
                unfiltered=options.unfiltered,
                backend=backend,
            )
    first, *others = made
    made[first].beside = {name: made[name] for name in others}
    return made[first]


def centred(value: Tensor, keys: PackedKeys) -> tuple[Tensor, Tensor]:
    """Values relative to their mean over the image keys of a sample.

    Args:
        value: ``(H_kv, K, D)``, or ``(B, H_kv, K, D)`` of several samples.
        keys: where the image keys are.

    Returns:
        The values less the mean of those of image keys, copied; and the means ``(T, H_kv, D)`` of
        each row's sample, in the dtype of sums.
    """
    of_samples = value if value.ndim == 4 else value[None]
    is_image = (keys.kinds == IMAGE)[:, None, :, None]  # [B, 1, K, 1]
    sums = of_samples.where(is_image, 0).sum(dim=2, keepdim=True, dtype=accumulator(value))
    means = sums / is_image.sum(dim=2, keepdim=True).clamp(min=1)  # [B, H_kv, 1, D]
    less = torch.sub(of_samples, means).to(value.dtype).view(value.shape)
    return less, _of_rows(means.squeeze(2), keys.rows)


def _of_rows(of_samples: Tensor, counts: Sequence[int]) -> Tensor:
    """What each sample has, for each of its rows. The given length keeps a GPU from being waited for."""
    repeats = torch.tensor(counts, device=of_samples.device)
    return of_samples.repeat_interleave(repeats, dim=0, output_size=sum(counts))


def focus_of(maps: Tensor, n_keys: Tensor | int) -> Tensor:
    """Over the last axis: 0 where all n keys have alike, ``1 - 1 / n`` where one has all; 0 for zeros."""
    maps = ratio(maps, maps.amax(dim=-1, keepdim=True))  # squares of small numbers would vanish
    squares = n_keys * maps.square().sum(dim=-1)
    return (1 - ratio(maps.sum(dim=-1).square(), squares)).where(squares > 0, 0).clamp(min=0)


def _strength(highest: Tensor, lowest: Tensor) -> Tensor:
    """``sum over heads of max |x|``, from what x reaches on the image keys ``(..., H)``."""
    return torch.maximum(highest, -lowest).sum(dim=-1)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0 where both are."""
    return part / whole.where(whole > 0, 1)


def density(maps: Tensor) -> Tensor:
    """Every row over its sum; a row of zeros stays."""
    return ratio(maps, maps.sum(dim=-1, keepdim=True))
