"""What is read off a key: the gradient of its attention probability, or that weighted by the probability itself."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

SIGNALS = ("gradient", "score_gradient", "contribution", "attention")
"""Per key, with P the attention probability, ``G = dO . V`` its gradient, and ``D = sum_k P_k G_k = <dO, o>``:

- ``"gradient"``: G
- ``"score_gradient"``: ``dS = P (G - D)``, the gradient of the score before the softmax
- ``"contribution"``: ``P G``, what the key adds to the logit through this head, to first order
- ``"attention"``: P

Everywhere relu of it is used.
"""


class Attention(NamedTuple):
    """One layer's attention, which every signal but "gradient" needs.

    Attributes:
        query: ``(T, H, D)`` with any rotary embedding applied, dtype and device of ``d_out``.
        key: ``(H_kv, K, D)`` or ``(B, H_kv, K, D)``, beside ``value``.
        out: ``(T, H, D_v)``, the attention output o.
        scale: factor on the logits, often ``D ** -0.5``.
        softcap: logits are ``softcap * tanh(scale * q.k / softcap)``; None for none.
        lse: ``(T, H)`` log-sum-exp of the logits of all visible keys, if known (`HeadScores.lse`): maps need not
            compute it again then. Head scores always do.
    """

    query: Tensor
    key: Tensor
    out: Tensor
    scale: float
    softcap: float | None = None
    lse: Tensor | None = None


class HeadScores(NamedTuple):
    """Extremes of a signal over the visible keys of one row and head, each ``(T, H)``.

    ``image`` and ``text`` are S_img and S_text of Eq. 4, the largest ``relu(signal)``; ``image_min`` is the smallest
    signal on the image keys as it is: negative where one speaks against. A row that sees no key of a set has zero
    there. ``lse`` is the log-sum-exp of the attention logits, -inf for a row that sees nothing; None for the signal
    "gradient", which needs no attention.
    """

    image: Tensor
    text: Tensor
    image_min: Tensor
    lse: Tensor | None = None


class MapSums(NamedTuple):
    """What one layer adds for one pair of signals (Eq. 5), all in place; dtype of the results.

    Attributes:
        score_signal, map_signal: one of `SIGNALS` for the head scores that the weights follow from, and for the maps.
        maps: ``(T, N)``, ``+= sum_i w[t, i] relu(signal[t, i, n])``.
        unfiltered: ``(T, N)`` or None; the same with every weight 1.
        token_sums: ``(H, N)`` or ``(B, H, N)``, or None; ``+= sum_t relu(signal[t, i, n])`` over the rows of a sample.
            Over their number it is the mean over tokens of each head and key, which a token is contrasted with:
            ``sum_i w[t, i] (relu(signal[t, i, n]) - mean[i, n]) = maps - w @ mean`` takes no further pass.
    """

    score_signal: str
    map_signal: str
    maps: Tensor
    unfiltered: Tensor | None = None
    token_sums: Tensor | None = None
