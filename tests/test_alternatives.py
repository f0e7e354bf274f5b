"""The most probable tokens at one place, each explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, InputError
from dexar_fast.inputs.methods import METHODS

from .test_targets import NUMBERS
from .tiny import picture, tiny_llava, tiny_processor

ANSWER = " a small red square"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(), tiny_processor())


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.filters_heads])
@pytest.mark.parametrize("token", [0, 2, -1])
def test_each_is_explained_as_if_it_had_been_written(explainer: Explainer, token: int, method: str) -> None:
    """The row depends on the tokens before it alone: put each alternative there, and explain it."""
    found = explainer.alternatives(picture(), "what is it?", ANSWER, token=token, k=4, method=method)
    inputs, ids = explainer.encode([picture()], "what is it?", ANSWER)
    assert found.answer == ANSWER
    assert found.targets is not None
    at = token % len(ids)
    assert {(target.start, target.stop) for target in found.targets} == {(at, at + 1)}
    assert int(ids[at]) in [target.token_id for target in found.targets]
    for index, target in enumerate(found.targets):
        written = ids[: at + 1].clone()
        written[at] = target.token_id or 0
        alone = explainer.explain_ids(inputs, written, method=method)
        for name in NUMBERS:
            if name != "answer_map":
                ours, theirs = getattr(found, name)[index], getattr(alone, name)[at]
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * max(1, np.abs(theirs).max()), err_msg=name)
        assert target.text == alone.tokens[at].strip() or alone.tokens[at].isspace()


def test_probabilities_are_the_models(explainer: Explainer) -> None:
    found = explainer.alternatives(picture(), "what is it?", ANSWER, token=1, k=300)
    inputs, ids = explainer.encode([picture()], "what is it?", ANSWER)
    with torch.no_grad():
        whole = torch.cat((inputs["input_ids"], ids[None, :1]), dim=1)
        logits = explainer.model(input_ids=whole, pixel_values=inputs["pixel_values"]).logits[0, -1]
    shares = [target.probability or 0 for target in found.targets or ()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    for target in found.targets or ():
        assert target.token_id is not None
        assert target.probability == pytest.approx(float(logits.softmax(-1)[target.token_id]), rel=1e-4)


def test_the_written_token_is_always_there(explainer: Explainer) -> None:
    found = explainer.alternatives(picture(), "what is it?", ANSWER, token=1, k=2)
    _, ids = explainer.encode([picture()], "what is it?", ANSWER)
    best = explainer.alternatives(picture(), "what is it?", ANSWER, token=1, k=300)
    assert best.targets is not None
    assert int(ids[1]) not in [target.token_id for target in best.targets[:2]], "else this shows nothing"
    assert [target.token_id for target in found.targets or ()] == [best.targets[0].token_id, int(ids[1])]


def test_the_models_own_answer_over_its_cache(explainer: Explainer) -> None:
    own = explainer.alternatives(picture(), "what is it?", token=2, k=3, max_new_tokens=4)
    again = explainer.alternatives(picture(), "what is it?", own.answer, token=2, k=3)
    assert own.settings["alternatives"] == {"token": 2, "k": 3}
    if own.token_ids.tolist() == again.token_ids.tolist():
        np.testing.assert_allclose(own.token_maps, again.token_maps, atol=1e-9)
    assert own.targets is not None
    assert own.targets[0].token_id == own.token_ids[2], "greedy: the written token is the most probable"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": 99}, r"token: expected a whole number from -\d+ to \d+; got 99"),
        ({"token": 1.0}, "token: expected a whole number"),
        ({"k": 0}, r"k: expected a whole number from 1 to 300; got 0"),
        ({"method": "attention"}, "method: expected one of dexar, .* for alternatives"),
    ],
    ids=str,
)
def test_unusable_arguments_are_named(explainer: Explainer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explainer.alternatives(picture(), "what is it?", ANSWER, **options)


def test_an_empty_answer_is_named(explainer: Explainer) -> None:
    with pytest.raises(InputError, match="answer: expected at least one token"):
        explainer.alternatives(picture(), "what is it?", "")


@pytest.mark.parametrize("method", ["dexar-focus", "attention", ["dexar", "tam"]])
def test_methods_that_look_at_more_than_the_place_are_refused(explainer: Explainer, method: str | list[str]) -> None:
    with pytest.raises(InputError, match="method: expected one of dexar"):
        explainer.alternatives(picture(), "what is it?", ANSWER, method=method)
