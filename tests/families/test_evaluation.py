"""Pictures in batches, the comparison methods and grounding, on every family that they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from dexar_fast import Explainer, UnsupportedModelError
from dexar_fast.evaluate.forward import Case as Pictures
from dexar_fast.evaluate.forward import picture_log_probabilities
from dexar_fast.evaluate.methods import COMPARISONS

from .case import Case, picture
from .test_families import each_family, explainer_of

NOT_ONE_SEQUENCE = {"florence2", "mllama", "paligemma", "paligemma2"}
"""Image, prompt and answer do not run as one causal sequence."""
WITH_GRAD_CAM = {"llava", "bakllava", "vipllava"}
"""Models with a projector that takes one feature per image token."""


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
        try:
            e = explainer.explain(picture((40, 30)), question(case), "a red square", method=name)
        except UnsupportedModelError:
            refused.add(name)
            continue
        maps = np.asarray(e.token_maps)
        assert maps.shape == (len(e.tokens), e.grid.rows, e.grid.cols)
        assert np.isfinite(maps).all()
        assert name == "uniform" or maps.max() == 1
    expected = set() if case.name in WITH_GRAD_CAM else {"grad-cam"}
    if case.name in NOT_ONE_SEQUENCE:
        expected |= {"gradient-input", "tam"}
    assert refused == expected


@each_family
def test_grounding(case: Case) -> None:
    """The image's part of it: the log-probability of what the model writes itself, as `generate` has it."""
    explainer = explainer_of(case, dtype=torch.float32)
    e = explainer.explain(picture((40, 30)), question(case), max_new_tokens=4, grounding=True)
    assert e.log_probabilities is not None
    assert np.isfinite(e.log_probabilities).all()
    # Greedy: no token has a higher probability than the one written, so none is below 1 / vocabulary.
    assert (np.exp(e.log_probabilities[:, 0]) >= 1 / 300 - 1e-6).all()
    assert e.grounding is not None
    assert e.grounding.min() >= 0
    assert e.grounding.max() <= 1
