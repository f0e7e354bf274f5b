"""What `explain` will cost, before it runs: operations, time and memory, from the model's own modules.

A layer's work behind attention takes 2 operations per weight and row, forward as well as backward; attention takes
``4 H D`` per row and key; the product ``dO V^T`` takes ``2 H D`` per row and key for the scores, and again per row and
image key for the maps. Everything else (norms, activations, rotary embedding, softmax) is not counted. Seconds come
from rates that are measured now: products of the model's own modules, streamed one after the other, at as many rows as
the stage has, and one layer's scores and maps by the backend itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from weakref import WeakKeyDictionary

import torch
from PIL import Image

from ...engine.engine import Engine
from ...engine.prefill import run_up_to_text_model
from ...engine.request import lay_out
from ...engine.row_chunk import rows_at_once
from ...errors import InputError, UnsupportedModelError
from ...inputs.methods import METHODS, MethodSelection
from ...inputs.options import check_row_chunk
from ...models.decoder import Decoder
from ...models.report import probe_image
from ...models.state import evaluating, main_device
from .rates import Counter, Rates, seconds_of, seconds_of_ops
from .result import Estimate, StageEstimate
from .sizes import Shape


def estimate(
    engine: Engine,
    prompt_tokens: int,
    image_tokens: int,
    answer_tokens: int,
    *,
    method: MethodSelection,
    row_chunk: int | str,
    cache: bool,
) -> Estimate:
    """See `Explainer.estimate`."""
    decoder = engine.decoder
    if decoder.family.rows == "own":
        raise UnsupportedModelError(
            f"estimate: expected a model of transformers, whose products are known; {decoder.family.name} is a module "
            "of your own"
        )
    _check_lengths(decoder, prompt_tokens, image_tokens, answer_tokens, cache)
    check_row_chunk(row_chunk)
    methods = engine.options(method=method).methods
    for name in methods:
        if name not in METHODS:
            raise InputError(f"method: expected some of {', '.join(METHODS)}, whose products are known; got {name!r}")
    device = main_device(engine.model)
    gpus = [device] if device.type == "cuda" else []
    with evaluating(engine.model), torch.random.fork_rng(gpus):  # what is measured takes random numbers
        shape = Shape(decoder, prompt_tokens, image_tokens, answer_tokens)
        chunk = answer_tokens
        if decoder.family.rows == "cached":
            chunk = min(answer_tokens, rows_at_once(decoder, row_chunk))
        memory = shape.memory(chunk, methods)
        return Estimate(
            prompt_tokens=prompt_tokens,
            image_tokens=image_tokens,
            answer_tokens=answer_tokens,
            stages=tuple(_stages(engine, shape, chunk, cache, methods)),
            methods=methods,
            memory=memory,
            peak_bytes=shape.peak(memory),
            plain_peak_bytes=shape.plain_peak(),
            row_chunk=chunk,
            device=str(device),
            dtype=str(engine.model.dtype).removeprefix("torch."),
        )


def lengths(engine: Engine, images: Sequence[Image.Image], prompt: str) -> tuple[int, int]:
    """P and N of a prompt with its images.

    Raises:
        InputError: as for `Explainer.encode`.
    """
    inputs, _ = engine.encode(images, prompt, "")
    layout = lay_out(engine.decoder, engine.processor, inputs, [image.size for image in images])
    return engine.decoder.prompt_ids(inputs).shape[1], layout.n_image_tokens


def _check_lengths(decoder: Decoder, P: int, N: int, T: int, cache: bool) -> None:
    for name, value, least in (("prompt_tokens", P, 1), ("image_tokens", N, 0), ("answer_tokens", T, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: expected a number from {least} on; got {value!r}")
    if decoder.family.keys != "vision" and N > P:
        raise InputError(f"image_tokens: expected at most the {P} prompt_tokens, which include them; got {N}")
    if cache and decoder.family.rows != "cached":
        raise InputError(f"cache: answers of the family {decoder.family.name!r} do not run over one; leave it out")


def _stages(engine: Engine, shape: Shape, chunk: int, cache: bool, methods: Sequence[str]) -> list[StageEstimate]:
    rates = Rates(engine.decoder)
    at_once = chunk if engine.family.rows == "cached" else shape.sequence
    stages = []
    if not cache:
        vision = _before_text_model(engine)
        if vision is not None:
            encoder = engine.family.keys == "encoder"
            share = shape.P / vision.prompt_tokens if encoder else shape.N / vision.image_tokens
            of_image = round(vision.operations * share), vision.seconds * share
            stages.append(StageEstimate("vision", *of_image, "operations"))
        stages.append(rates.stage("prefill", shape.prefill(), shape.P, shape.weights))
    stages += [
        rates.stage("answer pass", shape.answer_pass(chunk), at_once, shape.weights * ceil(shape.T / chunk)),
        rates.stage("tail gradients", shape.tail_gradients(), chunk, shape.tail * ceil(shape.T / chunk)),
    ]
    seconds = seconds_of_ops(engine.decoder, engine.backend, shape, chunk, methods)
    stages.append(StageEstimate("ops", shape.ops(chunk, methods), seconds, "operations"))
    return [each for each in stages if each.operations]


@dataclass(frozen=True)
class _BeforeTextModel:
    operations: int
    seconds: float
    prompt_tokens: int
    image_tokens: int


_of_probe: WeakKeyDictionary[Engine, _BeforeTextModel] = WeakKeyDictionary()


def _before_text_model(engine: Engine) -> _BeforeTextModel | None:
    """What the vision tower (and an encoder) takes for the self-test's small picture; None without a processor."""
    if engine.processor is None:
        return None
    if engine not in _of_probe:
        image, prompt = probe_image(), engine.prompt_encoder.probe()
        inputs, _ = engine.encode([image], prompt, "")
        with Counter() as counter:
            run_up_to_text_model(engine.decoder, inputs)
        seconds = seconds_of(lambda: run_up_to_text_model(engine.decoder, inputs), main_device(engine.model))
        P, N = lengths(engine, [image], prompt)
        _of_probe[engine] = _BeforeTextModel(counter.operations, seconds, P, N)
    return _of_probe[engine]
