"""The oracle: the model generates the answer itself, and autograd runs through its attention probabilities.

Shares nothing with the answer pass: every step is transformers' `generate` with its cache, its masks and its positions;
a logits processor makes it say the wanted token. Attention is a plain softmax that keeps its probabilities.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dexar_fast.models.decoder import Decoder


class DoubleThroughout(TorchFunctionMode):
    """Whatever asks for float32 gets float64: norms, rotary embeddings and softmax of transformers' models do ask."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        if func is torch.full and isinstance(args[1] if len(args) > 1 else kwargs["fill_value"], float):
            kwargs.setdefault("dtype", torch.float64)  # the smallest float64, as masks are filled with
        return func(*args, **kwargs)


class _Say(LogitsProcessor):
    """Leaves only the wanted token of each step."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.step = ids, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self.ids[self.step]
        self.step += 1
        forced = torch.full_like(scores, -torch.inf)
        forced[:, wanted] = 0
        return forced


def generate(decoder: Decoder, inputs: dict[str, Tensor], answer: Tensor) -> Tensor:
    """The logits ``(T, vocabulary)`` that the model sees while it is made to say the answer."""
    prefix = _said_first(decoder, inputs)
    ids = torch.cat((prefix, answer))
    out = decoder.model.generate(
        **inputs,
        max_new_tokens=len(ids),
        min_new_tokens=len(ids),
        do_sample=False,
        logits_processor=LogitsProcessorList([_Say(ids)]),
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert out.sequences[0, -len(answer) :].tolist() == answer.tolist()
    return torch.cat(out.logits)[len(prefix) :]


def _said_first(decoder: Decoder, inputs: dict[str, Tensor]) -> Tensor:
    """What an encoder-decoder is forced to say before the answer, one token a step."""
    forced = decoder.family.rows == "decoder" and "decoder_input_ids" not in inputs
    return decoder.start_ids(inputs)[1:] if forced else torch.empty(0, dtype=torch.int64)


@dataclass
class Expected:
    """T tokens, L layers, H heads, N image keys."""

    maps: Tensor  # (T, N), Eq. 5 before normalisation
    image_scores: Tensor  # (T, L, H)
    text_scores: Tensor  # (T, L, H)


def expected(
    decoder: Decoder,
    inputs: dict[str, Tensor],
    answer: Tensor,
    is_image: Tensor | None,
    is_text: Tensor | None,
    *,
    foils: Tensor | None = None,
    spans: list[tuple[int, int]] | None = None,
) -> Expected:
    """Eq. 2-5 on all layers that read the image; the text model must have eager attention.

    Args:
        decoder: of the model.
        inputs, answer: model inputs of the prompt, and ``(T,)`` ids.
        is_image, is_text: bool over the keys: positions of prompt and answer, or what a cross-attention reads. None
            for a cross-attention that reads images alone.
        foils: ``(T,)`` ids whose scores are taken off those of the answer.
        spans: token ranges, each explained as one, instead of the tokens: the gradient of the mean score with respect
            to what all rows' attention shares is the mean of the rows' gradients, on the keys that all of them see.
    """
    seeds = decoder.output_rows(answer)
    if foils is not None:
        seeds = seeds - decoder.output_rows(foils)
    gradients: list[list[Tensor]] = []  # per step and layer (H, keys), NaN where the row does not see the key
    step = -1 - len(_said_first(decoder, inputs))
    with ExitStack() as stack:
        kept = stack.enter_context(_keep_probabilities(decoder))

        def begin(*_: Any) -> None:
            nonlocal step
            step += 1
            if step >= 0:
                gradients.append([])

        stack.callback(decoder.text_model.register_forward_pre_hook(begin).remove)
        for layer in decoder.attentions:

            def leave(_m: Any, _a: Any, output: Any, layer: int = layer) -> Any:
                residual = output[0] if isinstance(output, tuple) else output
                probabilities, visible = kept.pop(layer)
                if step >= 0:
                    score = decoder.final_norm(residual)[0, -1] @ seeds[step]
                    (gradient,) = torch.autograd.grad(score, probabilities)
                    row = gradient[0, :, -1].masked_fill(~visible, torch.nan)
                    if decoder.family.keys == "sequence":
                        # The cache of a sliding window holds the last keys only.
                        forgotten = inputs["input_ids"].shape[1] + step - row.shape[1]
                        row = torch.nn.functional.pad(row, (forgotten, 0), value=torch.nan)
                    gradients[step].append(row)
                torch.set_grad_enabled(False)
                return (residual.detach(), *output[1:]) if isinstance(output, tuple) else residual.detach()

            stack.callback(decoder.layers[layer].register_forward_hook(leave).remove)
        generate(decoder, inputs, answer)
    assert len(gradients) == len(answer)
    if is_image is None or is_text is None:
        is_image = ~gradients[0][0].isnan().any(0)
        is_text = torch.zeros_like(is_image)
    steps = [torch.stack(of_layer) for of_layer in gradients]  # each (L, H, keys so far)
    if spans is not None:
        seen = [steps[start].shape[-1] for start, _ in spans]
        steps = [torch.stack([g[..., :n] for g in steps[slice(*span)]]).mean(0) for span, n in zip(spans, seen)]
    maps, image_scores, text_scores = [], [], []
    for g in steps:
        g = g.relu()  # NaN stays
        image, text = g[..., is_image[: g.shape[-1]]], g[..., is_text[: g.shape[-1]]]
        image_scores.append(_largest(image))
        text_scores.append(_largest(text))
        weight = (image_scores[-1] - text_scores[-1]).relu()
        maps.append((weight[..., None] * image.nan_to_num(0)).sum((0, 1)))
    return Expected(torch.stack(maps), torch.stack(image_scores), torch.stack(text_scores))


def _largest(values: Tensor) -> Tensor:
    """``(L, H)``: the maximum over visible keys, zero if there is none."""
    return values.nan_to_num(0).amax(-1) if values.shape[-1] else values.new_zeros(values.shape[:-1])


@contextmanager
def _keep_probabilities(decoder: Decoder) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Per layer, the probabilities ``(1, H, rows, keys)`` as a leaf, and which keys the last row sees."""
    layer_of = {module: layer for layer, module in decoder.attentions.items()}
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        if module not in layer_of:
            original: Any = sys.modules[type(module).__module__]
            return original.eager_attention_forward(module, query, key, value, mask, **kwargs)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(2, 3) * kwargs["scaling"]
        if kwargs.get("softcap") is not None:
            logits = kwargs["softcap"] * torch.tanh(logits / kwargs["softcap"])
        visible = torch.ones(key.shape[2], dtype=torch.bool)
        if mask is not None:
            logits = logits + mask
            visible = mask[0, 0, -1] == 0
        layer = layer_of[module]
        probabilities = logits.softmax(-1).detach().requires_grad_()
        kept[layer] = probabilities, visible
        torch.set_grad_enabled(True)
        return (probabilities @ value).transpose(1, 2), None

    assert "eager" not in ALL_ATTENTION_FUNCTIONS
    ALL_ATTENTION_FUNCTIONS["eager"] = attention
    try:
        with _OwnSoftmax(layer_of, kept) if decoder.family.tap == "projections" else nullcontext():
            yield kept
    finally:
        del ALL_ATTENTION_FUNCTIONS["eager"]


class _OwnSoftmax(TorchFunctionMode):
    """The same for attention that calls no registered function: its softmax ``(H, rows, keys)`` gives the leaf."""

    def __init__(self, layer_of: dict[Any, int], kept: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.kept, self.layer = kept, -1
        self.hooks = [module.register_forward_pre_hook(self._enter) for module in layer_of]
        self.layer_of = layer_of

    def _enter(self, module: Any, _args: Any) -> None:
        self.layer = self.layer_of[module]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.softmax and self.layer >= 0:
            probabilities = out.detach()[None].requires_grad_()
            self.kept[self.layer] = probabilities, torch.ones(out.shape[-1], dtype=torch.bool)
            self.layer = -1
            torch.set_grad_enabled(True)
            return probabilities[0]
        return out

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)
