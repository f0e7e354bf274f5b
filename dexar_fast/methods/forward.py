"""What the model says of an answer when its image is changed: many pictures in common forward passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..engine.answer_pass import normed_states
from ..engine.teacher_forcing import (
    Inputs,
    answer_log_probabilities,
    in_one_sequence,
    token_log_probabilities,
    with_answer,
)
from ..errors import InputError
from ..inputs.prompts import Prompt
from ..models.family import encoded as usually_encoded
from ..models.state import evaluating

if TYPE_CHECKING:
    from ..engine.engine import Engine

COUNTED_OVER_THE_BATCH = {"image_token_pooling", "target_sizes"}
"""Model inputs that number the patches of all pictures of a batch: batches cannot be joined."""

NUMBERED_OVER_THE_BATCH = {"hunyuan_vl"}
"""Families whose position of a picture is its number among all pictures of a batch."""


class Case(NamedTuple):
    """Pictures of one size (made when they are needed), the prompt, and the answer whose probability each is asked."""

    images: Iterable[Image.Image]
    prompt: Prompt
    answer_ids: Tensor
    image_kwargs: Mapping[str, Any] | None = None


def picture_log_probabilities(explainer: Engine, cases: Sequence[Case], *, batch_size: int = 32) -> list[Tensor]:
    """Teacher-forced log-probability of every answer token, for every picture of every case.

    Pictures of several cases share one forward pass; shorter prompts are padded behind the answer, where no row looks.
    Only the rows that predict the answer go through the output embedding. Families whose prompt and answer cannot run
    as one sequence (encoder-decoders, cross-attention, prefix-LM), that encode in their own way, or whose inputs cannot
    be joined take one picture at a time.

    Args:
        explainer: a model with its processor.
        cases: pictures, prompt and answer.
        batch_size: pictures per forward pass.

    Returns:
        One ``(pictures, T)`` float64 tensor per case, on the CPU.

    Raises:
        InputError: no processor.
    """
    if explainer.processor is None:
        raise InputError("processor: expected one to encode changed images; this Explainer has none.")
    family = explainer.family
    joinable = in_one_sequence(family) and family.encode is usually_encoded
    if not joinable or family.name in NUMBERED_OVER_THE_BATCH or COUNTED_OVER_THE_BATCH.intersection(family.inputs):
        return [_one_by_one(explainer, case) for case in cases]
    results: list[list[Tensor]] = [[] for _ in cases]
    waiting: list[tuple[int, Inputs, Tensor]] = []
    n_waiting = 0

    def run_waiting() -> None:
        nonlocal n_waiting
        for (index, _, _), rows in zip(waiting, _run(explainer, waiting), strict=True):
            results[index].append(rows)
        waiting.clear()
        n_waiting = 0

    # Neighbours of like length, so that little is padded.
    for index, case in sorted(enumerate(cases), key=lambda numbered: len(numbered[1].answer_ids)):
        text = explainer.prompt_encoder.render(case.prompt)
        images = iter(case.images)
        while taken := list(islice(images, batch_size - n_waiting)):
            one_each = [[image] for image in taken]  # nested: some processors count the images of each text
            settings = {**(case.image_kwargs or {}), **explainer.prompt_encoder.text_settings(text)}
            encoded = explainer.processor(images=one_each, text=[text] * len(taken), return_tensors="pt", **settings)
            inputs, answer_ids = explainer.tensors(dict(encoded), case.answer_ids)
            waiting.append((index, with_answer(inputs, answer_ids), answer_ids))
            n_waiting += len(taken)
            if n_waiting == batch_size:
                run_waiting()
    if waiting:
        run_waiting()
    return [torch.cat(rows) for rows in results]


def _one_by_one(explainer: Engine, case: Case) -> Tensor:
    rows = []
    for image in case.images:
        inputs, _ = explainer.encode([image], case.prompt, "", image_kwargs=case.image_kwargs)
        with evaluating(explainer.model):
            answer_ids = case.answer_ids.to(explainer.model.device)
            rows.append(answer_log_probabilities(explainer.decoder, inputs, answer_ids).cpu())
    return torch.stack(rows)


def _run(explainer: Engine, waiting: Sequence[tuple[int, Inputs, Tensor]]) -> list[Tensor]:
    """One forward pass over all that waits, and each part's ``(n, T)`` log-probabilities."""
    decoder = explainer.decoder
    with evaluating(explainer.model):
        batch = _side_by_side([inputs for _, inputs, _ in waiting])
        hidden = normed_states(decoder, lambda: decoder.base(**batch, use_cache=False))
        found, start = [], 0
        for _, inputs, answer_ids in waiting:
            n, length = inputs["input_ids"].shape
            T = len(answer_ids)
            rows = hidden[start : start + n, length - T - 1 : length - 1]  # [n, T, d]
            found.append(token_log_probabilities(decoder, rows, answer_ids).cpu())
            start += n
    return found


def _side_by_side(parts: Sequence[Inputs]) -> Inputs:
    """One batch of several: sequences padded at their end to the longest, everything else as it is."""
    longest = max(part["input_ids"].shape[1] for part in parts)
    batch: Inputs = {}
    for name in parts[0]:
        values = []
        for part in parts:
            n, length = part["input_ids"].shape
            value = part[name]
            if value.shape == (n, length):
                value = torch.nn.functional.pad(value, (0, longest - length))
            values.append(value)
        batch[name] = torch.cat(values)
    return batch
