"""Token activation map (arXiv 2506.23270): the head's rows against the image tokens' last states, cleaned of context.

Per answer token y_t, with h the last normed states, i the text tokens before it (prompt and answer) of another id:

    a[j]  = relu(< W[y_t], h[j] >)                      activation of image token j
    b     = sum_i v_i a_i / sum_i v_i                   interference: a_i the activation of text token i on the image,
                                                        v_i = relu(< W[y_t], h at i >)
    E     = rank_filter(relu(a - (<a, b> / <b, b>) b))  least squares take out what the context explains

A text token's state is its own position's in the prompt, and the row that predicted it in the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

from ..engine.answer_pass import normed_states
from ..engine.teacher_forcing import with_answer
from .subject import Subject

KERNEL = 3


def tam(subject: Subject) -> Tensor:
    """See the module."""
    subject.need_sequence("tam")
    grids = subject.grids
    decoder, request = subject.explainer.decoder, subject.request
    inputs = with_answer(request.inputs, request.answer_ids)
    hidden = normed_states(decoder, lambda: decoder.base(**inputs, use_cache=False))[0].float()
    prompt_text = request.text_keys[: request.prompt_length].nonzero().squeeze(-1)
    text_ids = torch.cat((request.inputs["input_ids"][0, prompt_text], request.answer_ids))  # [M]
    text_rows = torch.cat((prompt_text, request.row_positions))  # [M]
    image = hidden[request.image_keys]  # [N, d]
    on_image = (decoder.output_rows(text_ids).float() @ image.T).clamp(min=0)  # [M, N]
    own = on_image[len(prompt_text) :]  # [T, N]
    maps = (own - _interference(subject, hidden, own, on_image, text_ids, text_rows)).clamp(min=0)
    cells = request.layout.to_cells(maps).split([grid.cells for grid in grids], dim=1)
    filtered = [
        rank_gaussian_filter(of_image.unflatten(-1, (grid.rows, grid.cols))).flatten(1)
        for of_image, grid in zip(cells, grids, strict=True)
    ]
    return torch.cat(filtered, dim=1)


def _interference(
    subject: Subject, hidden: Tensor, own: Tensor, on_image: Tensor, text_ids: Tensor, text_rows: Tensor
) -> Tensor:
    """``(T, N)``: what the text before each answer token explains of its activation."""
    answer_ids = subject.request.answer_ids
    relevance = (subject.explainer.decoder.output_rows(answer_ids).float() @ hidden[text_rows].T).clamp(min=0)  # [T, M]
    n_prompt = len(text_ids) - len(answer_ids)
    before = torch.ones_like(relevance, dtype=torch.bool).tril(n_prompt - 1)
    relevance = relevance * (before & (text_ids != answer_ids[:, None]))
    interference = (relevance @ on_image) / (relevance.sum(dim=1, keepdim=True) + 1e-8)
    squared = interference.square().sum(dim=1, keepdim=True)
    return interference * ((own * interference).sum(dim=1, keepdim=True) / squared.where(squared > 0, 1))


def rank_gaussian_filter(maps: Tensor) -> Tensor:
    """Denoise ``(T, rows, cols)``: the sorted values of each 3 x 3 window under a Gaussian around their median.

    The Gaussian's width, in ranks, is the window's coefficient of variation; borders are mirrored.
    """
    _, rows, cols = maps.shape
    margin = KERNEL // 2
    windows = unfold(pad(maps[:, None], (margin,) * 4, mode="reflect"), KERNEL)  # [T, 9, cells]
    windows = windows.sort(dim=1).values
    mean = windows.mean(dim=1, keepdim=True)
    width = windows.std(dim=1, keepdim=True, correction=0) / mean.where(mean > 0, 1)
    ranks = torch.arange(KERNEL**2, device=maps.device)[:, None] - KERNEL**2 // 2  # [9, 1]
    # A width of zero leaves the median alone.
    weights = torch.exp(-(ranks**2) / (2 * width**2).clamp(min=1e-12))
    filtered = (windows * weights).sum(dim=1) / weights.sum(dim=1)
    return filtered.unflatten(-1, (rows, cols)).clamp(min=0)
