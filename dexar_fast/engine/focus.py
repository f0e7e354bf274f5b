"""The method "dexar-focus": what a token looked at, and what that did, in the proportion that the token itself tells.

Per token t, with ``dS = P (G - D)`` the gradient of a score before the softmax, S_i the largest relu(dS) of head i on
the image keys, and A_l[j] the attention of layer l on image key j, summed over its heads:

    did  E = sum over l, i of S_i * relu(dS_i)
    read R = relu(sum over l of s_l f_l d_l (A_l - (1 - 1/T) M_l)) * sqrt(E / sum(E) + 1/N)
    g    = h^3 / (h^3 + (1 - h)^3)   with  h = min(1, sum over l of s_l f_l d_l / sum over l of s_l)
    map  = (1 - g) E / sum(E) + g R / sum(R)
    answer map = sum over t of h_t map_t

    s_l = sum over i of S_i             evidence: how much the layer's attention to the image moves the score
    f_l = 1 - sum(A_l)^2 / (N sum(A_l^2))   focus: 0 where all N keys are read alike, near 1 where one is
    d_l                                 depth: grows from 0 with the layer, 1 in the mean
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
from ..ops import HeadScores, KeySets, MapSums, score_and_accumulate_all
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
        self._depth = {layer: 2 * k / last if last else 1.0 for k, layer in enumerate(self.layers)}
        self._read: Tensor | None = None  # (T, N), sum over layers of s f d A
        self._shares: dict[int, Tensor] = {}  # of each layer s f d, (T,)
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
        """``sum over l of s_l f_l d_l A_l``, ``(T, N)``: what was read, before anything is taken off."""
        if self._read is None:
            raise RuntimeError("no layer was added")
        return self._read

    @property
    def shares(self) -> Tensor:
        """``s_l f_l d_l`` of each layer, ``(T, L)``."""
        return torch.stack(list(self._shares.values()), dim=1)

    @property
    def maps(self) -> Tensor:
        """``(T, N)``; rows of zeros where nothing on the image speaks for the token.

        Raises:
            RuntimeError: no layer was added.
        """
        shares = self.shares
        common = self._looked_at if self._before is None else self._looked_at.plus(self._before)
        count, did = float(common.count[0]), _density(self.did)
        alike = torch.stack([(common.logs[layer][0] / count).exp() for layer in self._shares])  # [L, N]
        read = (self.read - (1 - 1 / count) * (shares @ alike)).clamp(min=0)
        read = read * (did + 1 / self.n_image_keys).sqrt()
        h = self.token_weights[:, None]
        g = h**3 / (h**3 + (1 - h) ** 3)
        return _density((1 - g) * did + g * _density(read))

    @property
    def token_weights(self) -> Tensor:
        """h of each token, ``(T,)``, in [0, 1]: how late and how closely it looks."""
        evidence = self.image_scores.sum(dim=(1, 2))
        return (self.shares.sum(dim=1) / evidence.where(evidence > 0, 1)).clamp(max=1)

    def _add(self, gradient: LayerGradient, keys: KeySets) -> None:
        assert self._maps is not None
        rows, layer = self._own(gradient.rows), gradient.attention.layer
        if self._read is None:
            self._read = torch.zeros_like(self._maps)
        if self._textless is None or self._textless[0] is not keys:
            without_text = KeySets(keys.image, torch.zeros_like(keys.text), keys.visible, keys.rows)
            self._textless = keys, without_text
        unused, attention = torch.zeros_like(self._maps[rows]), torch.zeros_like(self._maps[rows])
        scores, _ = score_and_accumulate_all(
            gradient.d_out,
            gradient.attention.value,
            self._textless[1],
            [
                MapSums("score_gradient", "score_gradient", self._maps[rows]),
                MapSums("score_gradient", "attention", unused, unfiltered=attention),
            ],
            attention=attention_of(gradient),
            backend=self.backend,
        )
        self._keep_scores(layer, rows, scores)
        packed = self._textless[1].packed
        n_keys = (packed.image >= 0).sum(dim=1)  # of each sample
        self._keep_attention(layer, gradient.rows, attention, scores, packed.rows, n_keys)

    def _keep_attention(
        self,
        layer: int,
        of_rows: slice,
        attention: Tensor,
        scores: HeadScores,
        counts: Sequence[int],
        n_keys: Tensor,
    ) -> None:
        """Add one layer's attention ``(rows, N)``, weighted, and the logarithms that M follows from."""
        assert self._read is not None
        rows = self._own(of_rows)
        squares = attention.square().sum(dim=1)
        of_rows_keys = n_keys.repeat_interleave(torch.tensor(counts, device=n_keys.device))
        focus = 1 - attention.sum(dim=1).square() / (of_rows_keys * squares).where(squares > 0, 1)
        share = self._depth[layer] * scores.image.sum(dim=1) * focus.where(squares > 0, 0)
        if layer not in self._shares:
            self._shares[layer] = share.new_zeros(self.rows.stop - self.rows.start)
        self._shares[layer][rows] = share
        self._read[rows] += share[:, None] * attention
        logs = torch.stack([one.sum(dim=0) for one in attention.clamp(min=FLOOR).log().split(list(counts))])
        chunk = self._common.setdefault(of_rows.start, _Common({}, torch.tensor(counts)))
        chunk.logs[layer] = logs

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


def _density(maps: Tensor) -> Tensor:
    """Every row over its sum; a row of zeros stays."""
    total = maps.sum(dim=1, keepdim=True)
    return maps / total.where(total > 0, 1)
