"""The answer pass over several requests at once: each prompt's cache beside the others, all answers in one run.

Every prompt runs by itself, as for one request, so nothing about its inputs has to be joined, and several answers of
one prompt share its cache. What is joined is keys and values, filled up in front to the longest prompt, and the answer
rows, filled up behind to the longest answer:

    cache  . . K K K K | Y Y Y .        a mask hides the dots in front; those behind no row looks at,
           K K K K K K | Y Y Y Y        because attention is causal

All rows of the run are answer rows, so no gradient is spent on a prompt, and each layer's tail has one product for all
answers instead of a thin one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache

from ..errors import NotFiniteError, UnsupportedModelError
from ..inputs.options import Options
from ..models.decoder import Decoder
from ..models.family import Family
from ..ops import KeySets
from ..progress import ProgressCallback, Steps
from .aggregate import Accumulator, parted
from .answer_pass import normed_states, row_states, visit_layers
from .answer_rows import AnswerRows
from .focus import make_accumulator
from .logit_lens import LogitLens
from .pipeline import require_finite, visitor
from .prefill import Prefill, sharing
from .request import Request
from .self_check import check_batch, check_final_norm


def runs_in_batches(family: Family) -> bool:
    """Whether the answers of several requests to a model of this family can run together.

    They cannot where the answer does not run over the prompt's cache alone, where attention is seen in another way than
    through transformers' registry, where a layer takes arguments that do not lie along the rows, or where padding
    changes what the text model gives.
    """
    return (
        family.rows == "cached"
        and family.keys == "sequence"
        and family.tap == "registry"
        and family.takes_padding
        and all(axis == 1 for axis in family.carried.values())
    )


@dataclass(frozen=True)
class Batch:
    """Requests that run together, B of them.

    Attributes:
        decoder: of a family that `runs_in_batches`.
        requests: the self-check looks at the last one, which should be that with the shortest prompt.
        prompts: of each request, run, with its cache; requests of one prompt hold the same object. They stay as they
            are.
    """

    decoder: Decoder
    requests: Sequence[Request]
    prompts: Sequence[Prefill]

    @property
    def answer_rows(self) -> AnswerRows:
        return AnswerRows(tuple(len(request.answer_ids) for request in self.requests))

    @property
    def answer_ids(self) -> Tensor:
        """All answers, one behind the other."""
        return torch.cat([request.answer_ids for request in self.requests])

    @property
    def padding(self) -> list[int]:
        """Number of keys of each sample in front of its prompt's."""
        lengths = [request.prompt_length for request in self.requests]
        return [max(lengths) - length for length in lengths]

    @property
    def n_keys(self) -> int:
        """Keys of every sample when all rows have run, what fills up included."""
        longest = max(request.prompt_length for request in self.requests)
        return longest - 1 + max(self.answer_rows.counts)

    @cached_property
    def _arguments(self) -> list[dict[str, Any]]:
        """What the text model is called with for each request's rows, besides embeddings, cache and mask."""
        of_requests = []
        for request, prompt in zip(self.requests, self.prompts, strict=True):
            assert prompt.arguments is not None
            arguments = self.decoder.family.continue_arguments(self.decoder, prompt.arguments, request.answer_ids)
            if any(self.padding) and "position_ids" not in arguments:
                # The text model would count what fills up; it counts from zero, or the check of the batch fails.
                arguments["position_ids"] = request.row_positions[None]
            of_requests.append(arguments)
        return of_requests

    @property
    def fits_together(self) -> bool:
        """Whether the rows of all requests take arguments of one kind, and none has a mask of its own."""
        names = {frozenset(arguments) for arguments in self._arguments}
        return len(names) == 1 and "attention_mask" not in next(iter(names))

    def keys(self, n_keys: int, window: int | None, chunk: int | None) -> KeySets:
        """The sets of keys of all rows, by position among the padded keys.

        Raises:
            UnsupportedModelError: attention reads another number of keys than the batch has.
        """
        if n_keys != self.n_keys:
            raise UnsupportedModelError(
                f"model: expected its attention to read {self.n_keys} keys of every request in a batch; it reads "
                f"{n_keys}. Its cache does not keep every position."
            )
        n_image = max(len(request.image_keys) for request in self.requests)
        image, text, visible = [], [], []
        for request, before in zip(self.requests, self.padding, strict=True):
            rows = slice(0, len(request.answer_ids))
            own = request.keys(rows, request.prompt_length - 1 + rows.stop, window, chunk)
            image.append(pad(own.image + before, (0, n_image - len(own.image)), value=-1))
            text.append(pad(own.text, (before, n_keys - before - len(own.text)), value=False))
            visible.append(own.visible + before)
        return KeySets(torch.stack(image), torch.stack(text), torch.cat(visible), self.answer_rows.counts)

    def start(self) -> Callable[[], Any]:
        """The call that runs all rows."""
        decoder, n_rows = self.decoder, max(self.answer_rows.counts)
        embeddings = []
        for request, prompt in zip(self.requests, self.prompts, strict=True):
            assert prompt.embeddings is not None
            of_rows = torch.cat((prompt.embeddings[:, -1:], decoder.embed(request.answer_ids[:-1])), dim=1)
            embeddings.append(pad(of_rows, (0, 0, 0, n_rows - of_rows.shape[1])))
        arguments = {
            name: _side_by_side(name, [of_one[name] for of_one in self._arguments], n_rows)
            for name in self._arguments[0]
        }
        if any(self.padding):
            seen = torch.ones(len(self.requests), self.n_keys, dtype=torch.int64, device=self.answer_ids.device)
            for of_sample, before in zip(seen, self.padding, strict=True):
                of_sample[:before] = 0
            arguments["attention_mask"] = seen
        joined = torch.cat(embeddings)
        arguments[decoder.cache_argument] = self._joined_cache()
        return lambda: decoder.text_model(inputs_embeds=joined, use_cache=True, **arguments)

    def _joined_cache(self) -> Cache:
        """Keys and values of all prompts up to their last position, which is the first answer row."""
        caches = []
        for prompt in self.prompts:
            assert prompt.cache is not None
            own = sharing(prompt.cache)
            replace(prompt, cache=own).rewind(self.decoder, 0)
            caches.append(own)
        joined = sharing(caches[0])
        one_prompt = all(prompt is self.prompts[0] for prompt in self.prompts)
        for layer, of_samples in zip(joined.layers, zip(*(cache.layers for cache in caches))):
            if not layer.is_initialized:  # it shares the keys and values of another layer
                continue
            for name in ("keys", "values"):
                tensors = [getattr(each, name) for each in of_samples]
                if one_prompt:
                    setattr(layer, name, tensors[0].expand(len(tensors), -1, -1, -1))
                else:
                    padded = [pad(each, (0, 0, before, 0)) for each, before in zip(tensors, self.padding, strict=True)]
                    setattr(layer, name, torch.cat(padded))
        return joined


def accumulate_batch(
    batch: Batch,
    options: Options,
    lens: LogitLens,
    *,
    backend: str,
    checked: Mapping[bool, set[int]],
    report: ProgressCallback,
) -> tuple[list[Accumulator], Tensor]:
    """Run the answer pass over a batch and add up every chosen layer.

    Args:
        batch: one that `fits_together`.
        options: of the run.
        lens: with a seed for each of all rows.
        backend: of the ops.
        checked: layers that passed the self-check in a batch without padding (False) and in one with it (True).
        report: progress callback.

    Returns:
        One accumulator per request, and the normed states ``(1, R, d)`` of all rows. A request may have NaN in it: see
        `require_finite`.

    Raises:
        SelfCheckError, UnsupportedModelError: see `Explainer.explain`.
        torch.OutOfMemoryError: the batch is too large.
    """
    decoder, layers, rows = batch.decoder, options.layers, batch.answer_rows
    last = batch.requests[-1]
    passed = checked[any(batch.padding)]
    unchecked = set(layers) - passed
    checking = bool(unchecked)
    every_row = slice(0, sum(rows.counts))
    n_image_keys = [len(request.image_keys) for request in batch.requests]
    sums = make_accumulator(options, every_row, max(n_image_keys), backend)
    report("explaining", 0, len(layers))
    steps = Steps(report, done=0, total=len(layers))
    visit = visitor(decoder, batch.keys, lens, sums, unchecked, steps, batch.answer_ids.device)
    with torch.no_grad():
        run = batch.start()
    states = visit_layers(decoder, run, rows, every_row, layers, lens, visit)
    parts = parted(sums, rows.counts, n_image_keys)
    if checking:
        check_final_norm(decoder, states)
        alone = replace(batch.prompts[-1], cache=sharing(_cache_of(batch.prompts[-1])))
        check_batch(decoder, row_states(decoder, alone, last.answer_ids), states.normed[:, -len(last.answer_ids) :])
        with suppress(NotFiniteError):  # told where the request's result is due; a NaN passes every comparison
            require_finite(parts[-1], layers, last.answer_ids)
            passed.update(layers)
    return parts, states.normed


def batch_states(batch: Batch) -> Tensor:
    """Normed states ``(1, R, d)`` of all answer rows, without gradients."""
    with torch.no_grad():
        return batch.answer_rows.of(normed_states(batch.decoder, batch.start()))


def _cache_of(prompt: Prefill) -> Cache:
    assert prompt.cache is not None
    return prompt.cache


def _side_by_side(name: str, values: Sequence[Any], n_rows: int) -> Any:
    """One argument of the text model for all samples.

    Positions are ``(..., 1, T)``, other tensors ``(1, T, ...)``; features of image tokens come in lists, a layer each.
    """
    if isinstance(values[0], list):
        return [torch.cat(of_layer) for of_layer in zip(*values, strict=True)]
    if isinstance(values[0], dict):
        return {key: torch.cat([value[key] for value in values]) for key in values[0]}
    if name == "position_ids":
        return torch.cat([pad(value, (0, n_rows - value.shape[-1])) for value in values], dim=-2)
    behind = [(0, 0) * (value.ndim - 2) + (0, n_rows - value.shape[1]) for value in values]
    return torch.cat([pad(value, padding) for value, padding in zip(values, behind, strict=True)])
