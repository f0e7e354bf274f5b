"""How well a map finds a region: the localisation metrics, for many maps at once.

A map ``S`` is first brought to pixels and to [0, 1] (`normalise`); ``M`` is the binary mask of what it should find. A
constant map, all zero after ``minmax``, finds nothing and counts as a failure: zero overlap, and chance where a metric
has a chance level (SNR 0 dB, AUROC 0.5, average precision and pointing as a blind guess).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..engine.aggregate import minmax
from ..errors import InputError

N_THRESHOLDS = 20
SNR_LIMIT = 40.0
"""Decibels. A map that is zero outside (or inside) the mask has an infinite ratio; means need a finite one."""


@dataclass(frozen=True)
class Localisation:
    """One value per map, each ``(n,)`` float64.

    Attributes:
        soft_iou: ``sum(S M) / (sum S + sum M - sum(S M))``, in [0, 1].
        iou: best intersection over union of ``S >= k / 20`` with M, k = 0..19, chosen per map; in [0, 1].
        epg: energy pointing game ``sum(S M) / sum S``, in [0, 1].
        pointing: 1 if the largest pixel lies in M, else 0; the share of them in M where several are largest.
        snr: ``10 log10(mean of S inside M / mean of S outside M)`` in dB, 0 at chance, limited to +-`SNR_LIMIT`.
        auroc, average_precision: of S as a classifier of M's pixels, ties shared; in [0, 1].
    """

    soft_iou: Tensor
    iou: Tensor
    epg: Tensor
    pointing: Tensor
    snr: Tensor
    auroc: Tensor
    average_precision: Tensor


METRICS: tuple[str, ...] = tuple(field.name for field in fields(Localisation))


def normalise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(n, pixels)`` to [0, 1] each, and which of them ``(n,)`` bool are constant (they become zero)."""
    return minmax(maps), maps.amax(dim=-1) == maps.amin(dim=-1)


def localisation(maps: Tensor, masks: Tensor) -> Localisation:
    """All metrics of n maps against n masks.

    Args:
        maps: ``(n, pixels)`` floating point in [0, 1]. A map of ones is the uniform map, not a failure.
        masks: ``(n, pixels)`` bool.

    Raises:
        InputError: shapes differ, a map leaves [0, 1] or is not finite, or a mask is empty or full: then there is
            nothing to find, or nothing to miss.
    """
    if maps.shape != masks.shape or maps.ndim != 2 or masks.dtype != torch.bool:
        raise InputError(
            f"maps, masks: expected (n, pixels) and the same in bool; got {tuple(maps.shape)} and {masks.dtype} "
            f"{tuple(masks.shape)}"
        )
    inside_count = masks.sum(dim=1)
    if bool((inside_count == 0).any()) or bool((inside_count == masks.shape[1]).any()):
        at = int(((inside_count == 0) | (inside_count == masks.shape[1])).nonzero()[0])
        raise InputError(f"masks: expected pixels inside and outside; mask {at} has all on one side. Leave it out.")
    S, M = maps.double(), masks.double()  # [n, pixels]
    if not bool(((S >= 0) & (S <= 1)).all()):
        raise InputError("maps: expected finite values from 0 to 1; normalise() them first")
    energy, area = S.sum(dim=1), M.sum(dim=1)
    inside = (S * M).sum(dim=1)
    zero = energy == 0
    auroc, average_precision = _rankings(S, masks)
    return Localisation(
        soft_iou=inside / (energy + area - inside),
        iou=_best_iou(S, masks).where(~zero, 0),
        epg=inside / energy.where(~zero, 1),
        pointing=_pointing(S, M),
        snr=_snr(inside / area, (energy - inside) / (masks.shape[1] - area)),
        auroc=auroc,
        average_precision=average_precision,
    )


def _snr(inside: Tensor, outside: Tensor) -> Tensor:
    ratio = 10 * (inside.log10() - outside.clamp(min=0).log10())
    return ratio.nan_to_num(nan=0.0).clamp(-SNR_LIMIT, SNR_LIMIT)  # 0 / 0 is the empty map


def _best_iou(S: Tensor, masks: Tensor) -> Tensor:
    thresholds = torch.arange(N_THRESHOLDS, dtype=S.dtype, device=S.device) / N_THRESHOLDS
    passed = torch.bucketize(S, thresholds, right=True)  # how many thresholds each pixel reaches, at least one

    def reaching(counted: Tensor) -> Tensor:
        """``(n, 20)``: how many of the counted pixels reach each threshold."""
        exactly = S.new_zeros(len(S), N_THRESHOLDS + 1).scatter_add_(1, passed, counted.to(S.dtype))
        return exactly.flip(1).cumsum(1).flip(1)[:, 1:]

    hits, above = reaching(masks), reaching(torch.ones_like(masks))
    union = above + masks.sum(dim=1, keepdim=True) - hits
    return (hits / union).amax(dim=1)


def _pointing(S: Tensor, M: Tensor) -> Tensor:
    largest = (S.amax(dim=1, keepdim=True) == S).double()
    return (largest * M).sum(dim=1) / largest.sum(dim=1)


def _rankings(S: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Areas under the ROC curve (trapezoids) and the precision-recall curve (steps); tied pixels form one step."""
    ranked, order = S.sort(dim=1, descending=True)
    hits = masks.gather(1, order).double().cumsum(dim=1)  # true positives down to this pixel
    seen = torch.arange(1, S.shape[1] + 1, device=S.device, dtype=torch.float64)
    ends = torch.ones_like(masks)  # the last pixel of every tie
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]

    def before(counts: Tensor) -> Tensor:
        """What was counted at the end of the tie before this one; counts never fall."""
        at_ends = counts.where(ends, 0).cummax(dim=1).values
        return torch.nn.functional.pad(at_ends[:, :-1], (1, 0))

    misses = seen - hits
    hits_before, misses_before = before(hits), before(misses)
    positives, negatives = hits[:, -1], misses[:, -1]
    roc = ((misses - misses_before) * (hits + hits_before) / 2).where(ends, 0).sum(dim=1)
    precision_recall = ((hits - hits_before) * hits / seen).where(ends, 0).sum(dim=1)
    return roc / (positives * negatives), precision_recall / positives
