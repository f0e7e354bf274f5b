"""Pictures in batches, the comparison methods and grounding, on every family that they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dexar_fast import Explainer, UnsupportedModelError
from dexar_fast.engine.teacher_forcing import answer_log_probabilities, own_logits
from dexar_fast.inputs.methods import COMPARISONS
from dexar_fast.methods.forward import Case as Pictures
from dexar_fast.methods.forward import picture_log_probabilities

from .case import Case, picture
from .test_families import CASES, each_family, explainer_of

WITH_T5 = {"blip_2, T5", "instructblip, T5"}
NOT_ONE_SEQUENCE = {"florence2", "mllama", "paligemma", "paligemma2", "trocr", "donut", "vit_gpt2", *WITH_T5}
"""Image, prompt and answer do not run as one causal sequence."""
NO_EMBEDDINGS = {"kosmos2", "phi4_multimodal", "granite4_vision"}
"""The text model takes ids, or the image comes in behind its embeddings."""
NO_PLACE = {"blip_2", "instructblip", "kosmos2", "idefics2", "idefics2, split", "deepseek_ocr2", *WITH_T5}
"""Image tokens are queries."""
WITH_GRAD_CAM = {"llava", "bakllava", "vipllava", "fast_vlm", "internvl", "qianfan_ocr", "pixtral", "llava, padded"}
WITH_GRAD_CAM |= {"deepseek_ocr2", "llama4"}
"""Models with a projector that takes one feature per image token."""
MANY_CELLS = {"phi4_multimodal"}
"""Occlusion would take a pass for each of hundreds."""


def question(case: Case) -> str:
    return next(iter(case.prompts.values()))[0]


def pictures() -> list[Image.Image]:
    return [picture((40, 30)), picture((40, 30), seed=1), picture((40, 30), seed=2)]


@each_family
def test_batches_are_single_passes(case: Case) -> None:
    """Three pictures in a common pass give what each gives alone, as the model's own `generate` scores it."""
    explainer = explainer_of(case, dtype=torch.float32)
    cases = []
    for number, image in enumerate(pictures()[:2]):
        inputs, _ = explainer.encode([image], question(case), "")
        ids, scores = written(explainer, inputs, 3 - number)
        cases.append((Pictures([image, *pictures()[:number]], question(case), ids), scores))
    found = picture_log_probabilities(explainer, [one for one, _ in cases], batch_size=3)
    for (_, scores), rows in zip(cases, found, strict=True):
        np.testing.assert_allclose(rows[0], scores, atol=1e-4)


def written(explainer: Explainer, inputs: dict[str, torch.Tensor], n: int) -> tuple[torch.Tensor, np.ndarray]:
    """What the model writes greedily, n tokens, and their log-probabilities in `generate`."""
    model: Any = explainer.model
    out = model.generate(
        **inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    ids = out.sequences[0, -n:]
    scores = [float(logits[0].log_softmax(-1)[token]) for logits, token in zip(out.logits, ids, strict=True)]
    return ids, np.array(scores)


@each_family
def test_comparisons(case: Case) -> None:
    """Every method gives finite maps, or says why it cannot."""
    explainer = explainer_of(case, dtype=torch.float32)
    refused = set()
    for name in COMPARISONS:
        if name == "occlusion" and case.name in MANY_CELLS:
            continue
        try:
            e = explainer.explain(picture((40, 30)), question(case), "a red square", method=name)
        except UnsupportedModelError:
            refused.add(name)
            continue
        maps = np.asarray(e.token_maps)
        if e.grid is None:  # queries without a place
            assert len(maps) == len(e.tokens)
        else:
            assert maps.shape == (len(e.tokens), e.grid.rows, e.grid.cols)
        assert np.isfinite(maps).all()
        assert name in ("uniform", "centre") or maps.max() == 1  # a grid of 2 x 2 has its middle everywhere
    expected = set() if case.name in WITH_GRAD_CAM else {"grad-cam"}
    if case.name in NOT_ONE_SEQUENCE:
        expected |= {"gradient-input", "tam"}
    if case.name in NO_EMBEDDINGS:
        expected |= {"gradient-input"}
    if case.name in NO_PLACE:
        expected |= {"tam", "occlusion", "random", "uniform", "centre"}
    assert refused == expected


@each_family
def test_grounding(case: Case) -> None:
    """The image's part is the log-probability that `generate` has; a blank image gives another."""
    explainer = explainer_of(case, dtype=torch.float32)
    inputs, _ = explainer.encode([picture((40, 30))], question(case), "")
    ids, scores = written(explainer, inputs, 3)
    e = explainer.explain_ids(inputs, ids, grounding=True)
    assert e.log_probabilities is not None
    np.testing.assert_allclose(e.log_probabilities[:, 0], scores, atol=1e-4)
    assert np.isfinite(e.log_probabilities).all()
    assert np.abs(e.log_probabilities[:, 1] - scores).max() > 1e-4
    assert e.grounding is not None
    assert e.grounding.min() >= 0
    assert e.grounding.max() <= 1


@pytest.mark.parametrize("cap", [None, 1.0], ids=["no cap", "capped"])
def test_what_the_model_does_behind_its_head(cap: float | None) -> None:
    """Gemma 2's soft-cap on the logits counts where the model applies it, which older releases leave out."""
    explainer = explainer_of(CASES["paligemma2"], dtype=torch.float32)
    explainer.model.config.get_text_config().final_logit_softcapping = cap
    inputs, _ = explainer.encode([picture((40, 30))], "two blue stars", "")
    ids, scores = written(explainer, inputs, 3)
    with torch.no_grad():
        log_p = answer_log_probabilities(explainer.decoder, inputs, ids)
    np.testing.assert_allclose(log_p, scores, atol=1e-4)
    model: Any = explainer.model
    with torch.no_grad():
        logits = model(**inputs).logits
    assert torch.equal(own_logits(explainer.decoder, states_of(model, inputs)), logits)
    assert vars(model.model).keys() == vars(explainer_of(CASES["paligemma2"]).model.model).keys()  # left as it was


def states_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model.model(**inputs)[0]
    return states
