"""`Explainer.from_modules`: models that are no classes of transformers, against autograd through probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dexar_fast import Explainer, ExplainIdsRequest, InputError, SelfCheckError, UnsupportedModelError

from . import own_modules as own
from .test_untouched import assert_same, state

ANSWER = torch.tensor([7, 31, 4, 4, 22])


def randomised(model: nn.Module) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4)
    return model.double().eval()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: list[Tensor] | None) -> Tensor:
    """``(1, S, H * D)`` of ``(1, positions, H, D)``; the probabilities ``(1, H, S, K)`` are kept, as a leaf."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    logits = q @ k.repeat_interleave(groups, 1).mT * q.shape[-1] ** -0.5
    p = (logits if mask is None else logits.masked_fill(mask, -torch.inf)).softmax(-1)
    if kept is not None:
        kept.append(p := p.detach().requires_grad_())
    return (p @ v.repeat_interleave(groups, 1)).transpose(1, 2).flatten(-2)


def packed(attention: Any, x: Tensor, memory: Tensor, mask: Any, kept: Any) -> Tensor:
    weights = zip((x, memory, memory), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3))
    q, k, v = ((states @ w.mT + b).unflatten(-1, (own.HEADS, -1)) for states, w, b in weights)
    return attention.out_proj(attend(q, k, v, mask, kept))


def future(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).triu(1)


def through_decoder_only(model: Any, kept: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    given = own.inputs()
    x = torch.cat((model.patches(given["patches"]), model.tokens(torch.cat((given["ids"][0], ANSWER[:-1])))[None]), 1)
    x, states = x + model.places.weight[: x.shape[1]], []
    for layer in model.layers:
        a, y = layer.attention, layer.norm_1(x)
        q, k, v = (f(y).unflatten(-1, (-1, own.WIDTH // own.HEADS)) for f in (a.q, a.k, a.v))
        x = x + a.o(attend(q, k, v, future(x.shape[1]), kept))
        x = x + layer.mlp(layer.norm_2(x))
        states.append(model.norm(x))
    return states, model.head(states[-1])


def through_encoder_decoder(model: Any, kept: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    given = own.inputs()
    memory = model.encode(given["patches"], given["ids"])
    x, states = model.tokens(torch.cat((torch.tensor([1]), ANSWER[:-1])))[None], []
    for layer in model.decoder:
        x = layer.norms[0](x + packed(layer.own, x, x, future(x.shape[1]), None))
        x = layer.norms[1](x + packed(layer.cross, x, memory, None, kept))
        x = layer.norms[2](x + layer.mlp(x))
        states.append(x)
    return states, model.head(states[-1])


DECODER_ONLY = (own.DecoderOnly(), own.DECODER_ONLY, through_decoder_only)
ENCODER_DECODER = (own.EncoderDecoder(), own.ENCODER_DECODER, through_encoder_decoder)
VISION_ALONE = (
    own.EncoderDecoder(reads_text=False),
    replace(own.ENCODER_DECODER, keys="vision", sequence=None),
    through_encoder_decoder,
)


@pytest.mark.parametrize("row_chunk", ["auto", 2])
@pytest.mark.parametrize(
    ("module", "parts", "through"),
    [DECODER_ONLY, ENCODER_DECODER, VISION_ALONE],
    ids=["decoder only", "encoder and decoder", "vision alone"],
)
def test_exact(module: nn.Module, parts: Any, through: Callable[..., Any], row_chunk: Any) -> None:
    model, given, T = randomised(module), own.inputs(), len(ANSWER)
    kept: list[Tensor] = []
    states, logits = through(model, kept)
    with torch.no_grad():
        torch.testing.assert_close(logits, parts.run(model, given, ANSWER[:-1]), rtol=0, atol=1e-12)
    image = torch.zeros(kept[0].shape[-1], dtype=torch.bool)
    image[:6] = True
    if parts.keys == "encoder":
        image = image.roll(-6)
    image_scores, text_scores, maps = [], [], torch.zeros(T, 6, dtype=torch.float64)
    for state_, p in zip(states, kept, strict=True):
        scores = (state_[0, -T:] * model.head.weight[ANSWER]).sum()
        (gradient,) = torch.autograd.grad(scores, p, retain_graph=True)
        g = gradient[0, :, -T:].relu()  # [H, T, K]; zero on keys that a row does not see, but for their values
        if parts.keys == "sequence":
            g = g.masked_fill(future(p.shape[-1])[-T:], 0)
        s_image, s_text = g[..., image].amax(-1), g[..., ~image].amax(-1) if not image.all() else torch.zeros(4, T)
        maps += ((s_image - s_text).relu()[..., None] * g[..., image]).sum(0)
        image_scores.append(s_image.T)
        text_scores.append(s_text.T)
    assert maps.max() > 0
    before = state(model)
    e = Explainer.from_modules(model, parts).explain_ids(given, ANSWER, method="dexar", row_chunk=row_chunk)
    assert_same(before, state(model))
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    np.testing.assert_allclose(e.token_maps.reshape(T, -1), (maps - low) / (high - low), rtol=0, atol=1e-10)
    np.testing.assert_allclose(e.image_scores, torch.stack(image_scores, 1).detach(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(e.text_scores, torch.stack(text_scores, 1).detach(), rtol=1e-10, atol=1e-12)


def test_attention_of_another_kind_is_caught() -> None:
    """A temperature that nobody declared."""
    model = randomised(own.DecoderOnly(scale=1.0))
    with pytest.raises(SelfCheckError, match=r"family 'DecoderOnly': the layer output of layer 0 differs"):
        Explainer.from_modules(model, own.DECODER_ONLY).explain_ids(own.inputs(), ANSWER)


def test_wrong_norm_is_caught() -> None:
    model = randomised(own.DecoderOnly())
    parts = replace(own.DECODER_ONLY, final_norm=None)
    with pytest.raises(SelfCheckError, match="the final norm None differs"):
        Explainer.from_modules(model, parts).explain_ids(own.inputs(), ANSWER)


def test_run_that_forgets_the_head_is_named() -> None:
    model = randomised(own.DecoderOnly())

    def headless(model: own.DecoderOnly, inputs: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        text = model.tokens(torch.cat((inputs["ids"], ids[None]), dim=1))
        return nn.Sequential(*model.layers)(torch.cat((model.patches(inputs["patches"]), text), dim=1))

    parts = replace(own.DECODER_ONLY, run=headless)
    with pytest.raises(UnsupportedModelError, match="run did not call the head 'head'"):
        Explainer.from_modules(model, parts).explain_ids(own.inputs(), ANSWER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "blocks"}, "DecoderOnly has no layers 'blocks'"),
        ({"final_norm": "ln"}, "DecoderOnly has no final_norm 'ln'"),
        ({"head": "lm_head"}, "DecoderOnly has no head 'lm_head'"),
        ({"head": "tokens"}, "expected a linear module as head; 'tokens' is an nn.Embedding"),
        ({"attention": "attn"}, "has an attention 'attn'"),
        ({"projection": "out"}, "declares projection 'out'; Attention of layer 0 has q, o, k, v"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_part_that_is_not_there_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        Explainer.from_modules(own.DecoderOnly(), replace(own.DECODER_ONLY, **changes))


def test_attention_that_nobody_reads_is_named() -> None:
    model = randomised(own.DecoderOnly())
    with pytest.raises(UnsupportedModelError, match=r"Attention is no nn\.MultiheadAttention\. Say how"):
        Explainer.from_modules(model, replace(own.DECODER_ONLY, read=None)).explain_ids(own.inputs(), ANSWER)


def test_sequence_first_attention_is_refused() -> None:
    model = randomised(own.EncoderDecoder())
    model.decoder[0].cross.batch_first = False
    with pytest.raises(UnsupportedModelError, match="batch_first=True"):
        Explainer.from_modules(model, own.ENCODER_DECODER).explain_ids(own.inputs(), ANSWER)


def test_what_attention_reads_must_be_said() -> None:
    with pytest.raises(InputError, match="sequence: keys='sequence' need a function"):
        replace(own.DECODER_ONLY, sequence=None)


def test_what_needs_more_says_so() -> None:
    """Pictures and prompts as text need a processor; a stream needs a cache."""
    explainer = Explainer.from_modules(randomised(own.DecoderOnly()), own.DECODER_ONLY)
    with pytest.raises(InputError, match="this Explainer has none"):
        explainer.self_test()
    with pytest.raises(InputError, match="cache"):
        explainer.streamer(own.inputs(), lambda token: None)
    with pytest.raises(UnsupportedModelError, match=r"estimate: .* DecoderOnly is a module of your own"):
        explainer.estimate(10, 6, 5)
    with pytest.raises(UnsupportedModelError, match="as one causal sequence; family 'DecoderOnly' does not run so"):
        explainer.explain_ids(own.inputs(), ANSWER, method="tam")


def test_many_requests() -> None:
    """One by one, prompts of different lengths."""
    explainer = Explainer.from_modules(randomised(own.DecoderOnly()), own.DECODER_ONLY)
    requests = [ExplainIdsRequest(own.inputs(n), ANSWER) for n in (4, 7)]
    for request, e in zip(requests, explainer.explain_many(requests), strict=True):
        alone = explainer.explain_ids(request.model_inputs, ANSWER)
        np.testing.assert_array_equal(e.token_maps, alone.token_maps)
