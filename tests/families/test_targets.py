"""Targets, contrast and alternatives on every family, against autograd through the probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from dexar_fast.engine.encoded import Encoded
from dexar_fast.engine.logit_lens import contrasted
from dexar_fast.engine.target_rows import TargetRows
from dexar_fast.inputs.targets import Foil

from .case import Case, answer, picture
from .oracle import DoubleThroughout, expected
from .test_families import CASES, assert_close, each_family, encode, explainer_of, key_kinds

SPANS = [(0, 2), (1, 2), (3, 6)]
# Of every way in which rows run, keys are read and attention is seen; and what numbers its positions otherwise.
ONE_OF_EACH_KIND = (
    "llava", "bakllava", "gemma3", "qwen2_vl", "lfm2_vl", "qwen3_5", "paligemma", "mllama", "florence2", "trocr",
    "donut",
)  # fmt: skip


@each_family
def test_targets_and_contrast_are_exact(case: Case) -> None:
    explainer = explainer_of(case, "eager")
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    ids = answer(7, explainer.decoder.vocabulary_size)
    other = ids.roll(1)
    foils = [Foil(int(foil), "") for foil in other]
    options = explainer.options(row_chunk=2, method="dexar")
    kinds = key_kinds(case, explainer, inputs, len(ids))
    with DoubleThroughout():
        wanted = expected(explainer.decoder, inputs, ids, *kinds, foils=other, spans=SPANS)
        _, sums = explainer.run(
            Encoded(inputs, ids),
            options,
            adapt=lambda request, lens: (request, contrasted(lens, foils)),
            targets=TargetRows(tuple(SPANS)),
        )
    assert wanted.maps.max() > 0
    assert_close(sums.image_scores, wanted.image_scores, 1e-9, "S_img")
    assert_close(sums.text_scores, wanted.text_scores, 1e-9, "S_text")
    assert_close(sums.maps, wanted.maps, 1e-9, "maps")


@pytest.mark.parametrize("case", [CASES[name] for name in ONE_OF_EACH_KIND if CASES[name].available], ids=str)
def test_alternatives_hold_the_written_token(case: Case) -> None:
    explainer = explainer_of(case)
    text, n_images = case.prompts[next(iter(case.prompts))]
    images = [picture((40, 30)), picture((21, 50), seed=1)][:n_images]
    with DoubleThroughout():
        written = explainer.explain(images, text, "two blue stars", row_chunk=2, method="dexar")
        found = explainer.alternatives(images, text, "two blue stars", token=2, k=3)
    assert found.targets is not None
    index = [target.token_id for target in found.targets].index(int(written.token_ids[2]))
    for name in ("image_scores", "text_scores", "token_weights", "token_map_ranges"):
        ours, theirs = getattr(found, name)[index], getattr(written, name)[2]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * max(1, np.abs(theirs).max()), err_msg=name)
    assert np.abs(found.image_scores[0] - found.image_scores[-1]).max() > 0
